"""Base models of real size on tensors without content, which have shapes, dtypes and bytes alone.

dreambench's own methods load, train and generate with them, on a CPU or on a GPU that is not there.
What would leave the tensors as numbers is made up: pixels, losses, times, files of weights. A
backward pass asks CUDA itself for its devices, so that a GPU that is not there does forward passes
alone.
"""

import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import DDIMScheduler, StableUnCLIPImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from full_size import make_networks, make_pipeline
from peft import LoraConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.encodings import EncodedImages
from dreambench.base_models.spec import BaseModel
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.machine.devices import describe_compute
from dreambench.methods.base import Context
from dreambench.methods.finetuning import class_images, dreambooth, dreambooth_lora, training
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import estimate_memory
from dreambench.progress import no_progress
from dreambench.runs.executors.local import Here
from dreambench.runs.pipeline import Pipeline, work_through
from dreambench.runs.run_folder import Request, open_run, plan_run
from dreambench.runs.units import Terms
from dreambench.storage.images import load_image

RANK = 4
# Ten ways to hold a base model, of the methods that work without numbers.
TEN = (
    "class-only", "dreambooth", "dreambooth-lora", "dreambooth-no-prior", "dreambooth-3-photos",
    "dreambooth-no-noun", "dreambooth-wrong-noun", "dreambooth-text-encoder", "dreambooth-1-photo",
    "dreambooth-2-photos",
)  # fmt: skip


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it and still held, by device."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._sizes: dict[int, tuple[str, int]] = {}

    def reset_peak(self) -> None:
        """Begin anew with what is held now."""
        self.peak = Counter(self.now)

    def _see(self, tensor: Tensor) -> None:
        """Count a tensor's memory, once for all its views."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        device, size = tensor.device.type, storage.nbytes()
        self._sizes[key] = device, size
        self.now[device] += size
        self.peak[device] = max(self.peak[device], self.now[device])
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        device, size = self._sizes.pop(key)
        self.now[device] -= size

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and function.namespace == "aten":
            # Composite functions come whole in it, and a fake one would ask the device.
            with self:
                found = function.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        found = function(*args, **kwargs)
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self._see(value)
        return found


def _apply(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
    """`Module._apply` with new parameters, since fake ones cannot change their dtype or device."""
    for child in module.children() if recurse else ():
        _apply(child, function)
    for key, value in module._parameters.items():
        if value is not None:
            with torch.no_grad():
                module._parameters[key] = nn.Parameter(function(value), value.requires_grad)
    for key, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[key] = function(buffer)
    return module


def _set_timesteps(scheduler: DDIMScheduler, n_steps: int, **_: Any) -> None:
    """Times as Python's numbers."""
    with unset_fake_temporarily():
        _SET_TIMESTEPS(scheduler, n_steps)
        scheduler.timesteps = scheduler.timesteps.tolist()


def _postprocess(_: VaeImageProcessor, image: Tensor, **__: Any) -> np.ndarray:
    """Pixels that nobody generated."""
    return np.zeros((len(image), *image.shape[2:], image.shape[1]), np.float32)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    """Attention as GPUs have it, without maps; one that is not there would get the plain kind."""
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale
    )[0]
    return found


def _keep_embeddings(
    _: StableUnCLIPImg2ImgPipeline, image_embeds: Tensor, *__: Any, **___: Any
) -> Tensor:
    """An image's embedding without noise, whose level is a number, and in place of the level."""
    return torch.cat([image_embeds, image_embeds], 1)


def _read_losses(
    unread: Sequence[Mapping[str, Tensor]], _: str, *, n_before: int, n_batches: int
) -> list[dict[str, float]]:
    return [dict.fromkeys(losses, 0.0) for losses in unread[::n_batches]]


def _encode_class_images(model: LoadedModel, paths: Sequence[Path]) -> EncodedImages:
    return model.encode_images([load_image(path) for path in paths])


def _load_lora(model: LoadedModel, _: Path, networks: Mapping[str, nn.Module]) -> None:
    for name, network in networks.items():
        layers = model.adapted_layers(name)
        network.add_adapter(  # type: ignore[operator]
            LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers)
        )


_SET_TIMESTEPS = DDIMScheduler.set_timesteps


@contextmanager
def fake_networks(device: str, *, name: str | None = None) -> Iterator[Held]:
    """Within it, base models have no content; yields what counts their bytes.

    `name` is the base model whose networks are made, None for the one that is asked for.
    """
    held, stack = Held(), ExitStack()

    def load_networks(
        _: type[LoadedModel], model: BaseModel, *, names: Any = None
    ) -> dict[str, nn.Module]:
        with torch.device(device):
            found = make_networks(name or model.name)
        return {key: network for key, network in found.items() if names is None or key in names}

    def load_pipeline(
        cls: type[LoadedModel], model: BaseModel, _: Any, *, rounded: bool = False, **__: Any
    ) -> Any:
        pipeline = make_pipeline(name or model.name, cls.load_networks(model))
        pipeline.set_progress_bar_config(disable=True)
        if rounded:
            cls._round(pipeline)
        return pipeline

    changes: list[tuple[Any, str, Any]] = [
        (nn.Module, "_apply", _apply),
        (DDIMScheduler, "set_timesteps", _set_timesteps),
        (VaeImageProcessor, "postprocess", _postprocess),
        (StableUnCLIPImg2ImgPipeline, "noise_image_embeddings", _keep_embeddings),
        (LoadedModel, "load_networks", classmethod(load_networks)),
        (LoadedModel, "load_pipeline", classmethod(load_pipeline)),
        (dreambooth_lora, "save_lora", lambda *_: None),
        (dreambooth_lora, "load_lora", _load_lora),
        (training, "_read_losses", _read_losses),
        (class_images, "encode_class_images", _encode_class_images),
        (dreambooth, "save", lambda *_, **__: b""),
        (dreambooth, "load_trained", lambda _, own, **__: dict(own)),
        (dreambooth, "keep_weights", lambda module, _: module.state_dict),
    ]
    if device != "cpu":
        changes += [
            (Tensor, "backward", lambda *_, **__: None),
            (Tensor, "pin_memory", lambda tensor: tensor),
            (nn.functional, "scaled_dot_product_attention", _attend),
            # Autocast is switched off where there is no GPU.
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda: True),
            (class_images, "describe_compute", lambda _: describe_compute("cpu")),
        ]
    with stack:
        for owner, key, value in changes:
            stack.enter_context(mock.patch.object(owner, key, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(held)
        yield held


# ------------------------------------------------------------------------------------- measurements


def list_dtypes(model: LoadedModel) -> dict[str, list[str]]:
    """The dtypes of weights that train and of those that do not, by network."""
    found: dict[str, set[str]] = {}
    for name, part in model.pipeline.components.items():
        if isinstance(part, nn.Module):
            for weight in part.parameters():
                key = f"{name}, {'trained' if weight.requires_grad else 'frozen'}"
                found.setdefault(key, set()).add(str(weight.dtype).removeprefix("torch."))
    return {key: sorted(dtypes) for key, dtypes in found.items()}


def measure_method(
    base_name: str, recipe_name: str, *, precision: Any, device: str, n_steps: int = 2
) -> dict[str, Any]:
    """Bytes that a device holds while a method trains on a subject, and while it generates.

    A method that does not train only generates. On a GPU that is not there a step ends before its
    backward pass.
    """
    base, recipe = BASE_MODELS[base_name], load_recipe(recipe_name)
    method_class = find_method(recipe.method)
    sampler = base.choose_sampler(load_protocol("dreambench").sampler)
    settings = read_settings(recipe, base.name)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, fake_networks(device) as held:
        context = Context(
            base_model=base, sampler=sampler.model_copy(update={"n_steps": 1}), device=device,
            precision=precision, batch_size=1, cache_dir=Path(folder) / "cache",
            progress=no_progress,
        )  # fmt: skip
        used = settings
        if method_class.tunes:
            n_steps = n_steps if device == "cpu" else 1
            used = settings.model_copy(update={"n_steps": n_steps, "n_class_images": 1})
        method: Any = method_class(used, context)
        found["held_bytes"] = held.now[device]
        (subject,) = load_subjects(find_dataset("mini"), names=["dog"])

        def compute_losses(*words: Any) -> dict[str, Tensor]:
            held.reset_peak()
            losses = _COMPUTE_LOSSES(*words)
            found["forward_bytes"] = held.peak[device]
            found["dtypes"] = list_dtypes(method.model)
            return losses

        if method_class.tunes:
            with mock.patch.object(training, "compute_losses", compute_losses):
                method.fit(subject, Path(folder), seed=0)
            found["step_bytes"] = held.peak[device]
        generator = method.load(subject, Path(folder))
        held.reset_peak()
        (image,) = generator.generate(["a {subject}"], [0])
        found |= {"draw_bytes": held.peak[device], "size_px": image.width}
    work = method_class.count_work(settings, base)
    found["estimated_bytes"] = estimate_memory(
        settings, work, base, size_px=sampler.size_px, precision=precision
    )
    return found


_COMPUTE_LOSSES = training.compute_losses


def hold_ten(folder: Path) -> list[dict[str, int]]:
    """Bytes held and peak of one method after another, as a worker of a run does them.

    Runs are mini's, cut to one image and one step, with the networks of Stable Diffusion 1.5.
    """
    whole = load_protocol("mini")
    protocol = whole.narrow([whole.prompts[0].id]).model_copy(
        update={
            "sampler": whole.sampler.model_copy(update={"n_steps": 1}),
            "prior": whole.prior.model_copy(update={"n_images": 1}),
            "n_images_per_prompt": 1,
        }
    )
    recipes = [load_recipe(name) for name in TEN]
    for recipe in recipes:
        table = recipe.tables["mini"]
        short = {"n_steps": 1, "batch_size": 1, "n_class_images": 1}
        recipe.tables["mini"] = table | {key: n for key, n in short.items() if table.get(key)}
    rows = []
    executor = Here()
    with fake_networks("cpu", name="sd15") as held:
        for recipe in recipes:
            request = Request(
                protocol=protocol, recipe=recipe, subjects=("dog",), base_model="mini",
                device="cpu", precision="fp32", batch_size=2, encoders={},
            )  # fmt: skip
            held.reset_peak()
            pipeline = Pipeline(
                open_run(plan_run(folder / recipe.name, request)), progress=no_progress,
                terms=Terms(cache_dir=folder / "cache"),
            )  # fmt: skip
            pipeline.plan_images()
            work_through([pipeline], executor)
            if pipeline.failures or pipeline.run.missing_images():
                raise SystemExit(f"{recipe.name}: {pipeline.failures}")
            rows.append({"held_bytes": held.now["cpu"], "peak_bytes": held.peak["cpu"]})
    return rows
