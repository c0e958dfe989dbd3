"""DreamBooth with any of PEFT's adapters on the layers that LoRA adapts, saved as PEFT saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import nn

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.spec import BaseModel
from dreambench.base_models.weights import load_trained
from dreambench.config.sampler import Quantization
from dreambench.errors import UserError
from dreambench.methods.base import QuantizedSettings, Work
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.storage.files import make_dir, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
Name = Literal["lora", "dora", "loha", "lokr", "oft", "boft", "hra", "vera"]
UNFIT: Mapping[Quantization, Sequence[Name]] = {"int8": ("hra",), "nf4": ("hra", "loha", "lokr")}
"""Adapters that do not stand beside quantised weights, in peft 0.21.2."""


class DreamBoothPeftSettings(DreamBoothSettings, QuantizedSettings):
    """Numbers of a recipe with one of PEFT's adapters.

    Its size is one number: the rank, or where blocks of inputs are rotated their size or how many
    they are.
    """

    adapter: Name
    rank: int = Field(default=0, ge=0, description="of each adapter; its alpha is the same")
    block_size: int = Field(default=0, ge=0, description="inputs that oft and boft rotate together")
    n_blocks: int = Field(default=0, ge=0, description="in place of block_size")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        sizes = ("block_size", "n_blocks") if self.adapter in ("oft", "boft") else ("rank",)
        given = [name for name in ("rank", "block_size", "n_blocks") if getattr(self, name)]
        if len(given) != 1 or given[0] not in sizes:
            raise ValueError(f"adapter '{self.adapter}' takes {' or '.join(sizes)}")
        # Reflections come in pairs, which undo each other before the first step.
        if self.adapter == "hra" and self.rank % 2:
            raise ValueError("the rank of 'hra' is even")
        return self

    @property
    def quantizations(self) -> Sequence[Quantization]:
        """See `QuantizedSettings`."""
        return [form for form in super().quantizations if self.adapter not in UNFIT[form]]

    @model_validator(mode="after")
    def _check_quantization(self) -> Self:
        if self.quantization not in ("none", *self.quantizations):
            raise ValueError(
                f"PEFT's adapter '{self.adapter}' reads weights as they are and does not know "
                f"quantization = '{self.quantization}'"
            )
        return self

    def find_block_size(self, n_inputs: int) -> int:
        """Return how many of a layer's inputs are rotated together; 0 if that does not come out."""
        if n_inputs % (self.block_size or self.n_blocks):
            return 0
        return self.block_size or n_inputs // self.n_blocks


@dataclass(frozen=True)
class Adapter:
    """One of PEFT's adapters.

    `kind` is the class of its config, `options` what that is given. `count` is how many numbers a
    layer of so many inputs and outputs trains, `count_kept` how many its backward pass needs
    besides activations.
    """

    kind: str
    options: Callable[[DreamBoothPeftSettings], Mapping[str, Any]]
    count: Callable[[DreamBoothPeftSettings, int, int], int]
    count_kept: Callable[[DreamBoothPeftSettings, int, int], int] = lambda *_: 0


def _count_lokr(settings: DreamBoothPeftSettings, n_in: int, n_out: int) -> int:
    from peft.tuners.lokr.layer import factorization  # noqa: PLC0415  (slow import)

    (a, b), (c, d) = factorization(n_out), factorization(n_in)
    is_whole = settings.rank >= max(b, d) / 2
    return a * c + (b * d if is_whole else settings.rank * (b + d))


# The scale of each is 1, as that of `dreambooth-lora` is. OFT rotates exactly, by Cayley's formula
# and not by the first terms of its series; PEFT computes more than one factor of BOFT with a CUDA
# extension alone, which it compiles where it can.
ADAPTERS: Mapping[Name, Adapter] = {
    "lora": Adapter(
        "LoraConfig",
        lambda it: {"r": it.rank, "lora_alpha": it.rank, "init_lora_weights": "gaussian"},
        lambda it, n_in, n_out: it.rank * (n_in + n_out),
    ),
    "dora": Adapter(
        "LoraConfig",
        lambda it: {
            "r": it.rank, "lora_alpha": it.rank, "init_lora_weights": "gaussian", "use_dora": True,
        },
        lambda it, n_in, n_out: it.rank * (n_in + n_out) + n_out,
        lambda it, n_in, n_out: n_in**2,
    ),
    "loha": Adapter(
        "LoHaConfig",
        lambda it: {"r": it.rank, "alpha": it.rank},
        lambda it, n_in, n_out: 2 * it.rank * (n_in + n_out),
        lambda it, n_in, n_out: n_in * n_out,
    ),
    "lokr": Adapter(
        "LoKrConfig",
        lambda it: {"r": it.rank, "alpha": it.rank},
        _count_lokr,
        lambda it, n_in, n_out: n_in * n_out,
    ),
    "oft": Adapter(
        "OFTConfig",
        lambda it: {
            "oft_block_size": it.block_size, "r": it.n_blocks, "use_cayley_neumann": False,
        },
        lambda it, n_in, n_out: n_in * (it.find_block_size(n_in) - 1) // 2,
        lambda it, n_in, n_out: 3 * n_in * it.find_block_size(n_in),
    ),
    "boft": Adapter(
        "BOFTConfig",
        lambda it: {
            "boft_block_size": it.block_size, "boft_block_num": it.n_blocks,
            "boft_n_butterfly_factor": 1,
        },
        lambda it, n_in, n_out: n_in * it.find_block_size(n_in) + n_out,
        lambda it, n_in, n_out: 2 * n_in**2 + 3 * n_in * it.find_block_size(n_in),
    ),
    "hra": Adapter(
        "HRAConfig",
        lambda it: {"r": it.rank},
        lambda it, n_in, n_out: it.rank * n_in,
        lambda it, n_in, n_out: (it.rank + 1) * n_in**2 + n_in * n_out,
    ),
    "vera": Adapter(
        "VeraConfig",
        lambda it: {"r": it.rank},
        lambda it, n_in, n_out: it.rank + n_out,
    ),
}  # fmt: skip


class DreamBoothPeft(DreamBooth):
    """DreamBooth that trains one of PEFT's adapters and leaves the base model alone.

    Saved is a folder for each network, as PEFT has it: `adapter_config.json` and
    `adapter_model.safetensors`, which `PeftModel.from_pretrained(unet, folder)` reads.
    """

    Settings: ClassVar[type[DreamBoothPeftSettings]] = DreamBoothPeftSettings
    settings: DreamBoothPeftSettings

    _saved_bytes_per_parameter = 4

    @classmethod
    def count_work(cls, settings: DreamBoothSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`.

        Raises:
            UserError: the adapter does not fit the base model's layers, or its weights are not
                quantised here.
        """
        assert isinstance(settings, DreamBoothPeftSettings)
        settings.check_quantization(base_model)
        shapes = base_model.adapted_shapes
        _check_fit(settings, ((n_in, n_out) for n_in, n_out, _ in shapes), base_model.name)
        work = super().count_work(settings, base_model)
        kept = ADAPTERS[settings.adapter].count_kept
        # Checkpointing makes the matrices of one block at a time.
        held = base_model.adapted_block if settings.gradient_checkpointing else shapes
        n_kept = sum(n * kept(settings, n_in, n_out) for n_in, n_out, n in held)
        n_fixed = 0
        if settings.adapter == "vera":
            # Two random matrices, which all layers share and which are saved, too.
            widest = [max((shape[side] for shape in shapes), default=0) for side in (0, 1)]
            n_fixed = settings.rank * sum(widest)
        n_saved = work.trained_parameters + n_fixed
        if settings.adapter == "boft":
            # PEFT has the order of the inputs as a matrix in each layer.
            n_fixed = sum(n * n_in**2 for n_in, _, n in shapes)
        return replace(
            work, saved_bytes=4 * n_saved, other_parameters=n_fixed, kept_bytes=4 * n_kept
        )

    @classmethod
    def _count_second(cls, settings: DreamBoothSettings, base_model: BaseModel) -> int:
        return 0  # Adapters of stage II are few in comparison.

    @classmethod
    def _count_trained(cls, settings: DreamBoothSettings, base_model: BaseModel) -> int:
        # Adapters of text encoders are few in comparison.
        assert isinstance(settings, DreamBoothPeftSettings)
        count = ADAPTERS[settings.adapter].count
        return sum(n * count(settings, n_in, n_out) for n_in, n_out, n in base_model.adapted_shapes)

    def _load_base_model(self) -> LoadedModel:
        return self.context.load_base_model(quantization=self.settings.quantization)

    def _prepare(self) -> None:
        """Keep nothing: the base model's weights stay as they are, and adapters come and go."""
        self._adapted: dict[str, PeftModel] = {}
        # PEFT mixes precisions itself, and what makes rotations has no bf16.
        self.model.stays_wide = _is_adapters
        for name, network in self.trained.items():
            ends = tuple(f".{end}" for end in self.model.adapted_layers(name))
            _check_fit(
                self.settings,
                (
                    (layer.in_features, layer.out_features)
                    for key, layer in network.named_modules()
                    if isinstance(layer, nn.Linear) and f".{key}".endswith(ends)
                ),
                self.context.base_model.name,
            )

    def _reset(self, seed: int) -> None:
        """Put new adapters into the networks, in place of those that are there."""
        import peft  # noqa: PLC0415  (slow import)
        from peft.tuners.boft import layer as boft_layer  # noqa: PLC0415

        # One factor needs no extension, which PEFT would try to compile anew for each layer.
        boft_layer._FBD_CUDA = False  # type: ignore[assignment]
        adapter = ADAPTERS[self.settings.adapter]
        for adapted in self._adapted.values():
            adapted.unload()
        # PEFT samples from torch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, network in self.trained.items():
                config = getattr(peft, adapter.kind)(
                    target_modules=self.model.adapted_layers(name),
                    **adapter.options(self.settings),
                )
                self._adapted[name] = peft.get_peft_model(network, config)
                network.eval()

    def _save(self, out_dir: Path) -> None:
        for name, adapted in self._adapted.items():
            folder = make_dir(out_dir / name)
            state = {key: value.cpu().contiguous() for key, value in _read_state(adapted).items()}
            write_bytes(folder / WEIGHTS_FILE, save(state, metadata={"format": "pt"}))
            write_json(folder / CONFIG_FILE, _describe(adapted))

    def _restore(self, out_dir: Path) -> None:
        from peft import set_peft_model_state_dict  # noqa: PLC0415  (slow import)

        self._reset(0)
        for name, adapted in self._adapted.items():
            folder = out_dir / name
            found, own = read_json(folder / CONFIG_FILE), _describe(adapted)
            if not isinstance(found, dict):
                found = {}
            # Other versions of PEFT have other keys besides these.
            options = ADAPTERS[self.settings.adapter].options(self.settings)
            keys = ("peft_type", "target_modules", *options)
            wrong = [key for key in keys if found.get(key) != own[key]]
            if wrong:
                raise UserError(
                    f"{folder / CONFIG_FILE}: not the adapter of this recipe ({', '.join(wrong)})",
                    hint=f"delete {out_dir} and run again, which trains this subject again",
                    code="wrong-weights",
                )
            state = load_trained(folder / WEIGHTS_FILE, _read_state(adapted), part="the adapters")
            set_peft_model_state_dict(adapted, state)


def _check_fit(
    settings: DreamBoothPeftSettings, shapes: Iterable[tuple[int, int]], base_model: str
) -> None:
    """Refuse blocks that a layer's inputs cannot be cut into: PEFT would take other ones, or stop.

    Raises:
        UserError: a layer has such inputs.
    """
    if settings.adapter not in ("oft", "boft"):
        return
    wrong = sorted({n_in for n_in, _ in shapes if not settings.find_block_size(n_in)})
    if wrong:
        key = "block_size" if settings.block_size else "n_blocks"
        raise UserError(
            f"adapter '{settings.adapter}' with {key} = {getattr(settings, key)} does not fit the "
            f"base model '{base_model}', which has layers of {', '.join(map(str, wrong))} inputs",
            hint=f"set a {key} that divides them",
            code="invalid-value",
        )


def _is_adapters(key: str) -> bool:
    """Return whether a weight of this name is an adapter's, all of which are called `default`."""
    return "default" in key.split(".")


def _read_state(adapted: PeftModel) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict  # noqa: PLC0415  (slow import)

    # Without a look at the hub, whether the words of the base model have become more.
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return found


def _describe(adapted: PeftModel) -> dict[str, Any]:
    """Return an adapter's config as PEFT writes it, in the same order each time."""
    config = adapted.peft_config["default"].to_dict() | {
        "inference_mode": True, "base_model_name_or_path": None,
    }  # fmt: skip
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in sorted(config.items())
    }
