"""Stable Diffusion 1.5 and SDXL at their sizes, on tensors without content: bytes and dtypes."""

import gc
import sys

import pytest
import torch
from conftest import REPOSITORY
from processes import FORKS

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import fake_networks
import flow_sizes

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.datasets.subjects import list_subjects
from dreambench.encoders.registry import load_encoder
from dreambench.methods.registry import find_method
from dreambench.preflight.cost_estimate import make_estimate
from dreambench.progress import no_progress
from dreambench.runs.executors.local import Here
from dreambench.runs.pipeline import Pipeline, work_through
from dreambench.runs.run_folder import Request, open_run, plan_run
from dreambench.runs.units import Terms
from dreambench.storage.files import read_json

GPU_BYTES = 80e9


def test_every_recipe_of_sdxl_fits_80_gb_and_the_estimate_says_so():
    protocol, base = load_protocol("dreambench"), BASE_MODELS["sdxl"]
    subjects = list_subjects(protocol.find_dataset(photos_dir=None))[:1]
    tuned = 0
    for name in list_recipes():
        recipe = load_recipe(name)
        if base.name in recipe.tables:
            found = make_estimate(protocol, recipe, base, subjects)
            assert found.memory_bytes < GPU_BYTES, name
            tuned += find_method(recipe.method).tunes
    assert tuned >= 6


def test_what_lora_holds_on_a_gpu_is_below_its_estimate_and_near_it():
    # In a process of its own: what other tests do to torch makes fake tensors ask for a real GPU.
    with FORKS.Pool(1) as pool:
        words = {"precision": "bf16", "device": "cuda"}
        found = pool.apply(fake_networks.measure_method, ("sd15", "dreambooth-lora"), words)
    assert found["step_bytes"] < found["estimated_bytes"] < 1.6 * found["step_bytes"]
    assert found["draw_bytes"] < found["estimated_bytes"] < GPU_BYTES
    assert found["size_px"] == 512
    assert found["dtypes"] == {
        "unet, trained": ["float32"], "unet, frozen": ["bfloat16"], "vae, frozen": ["bfloat16"],
        "text_encoder, frozen": ["float32"],
    }  # fmt: skip


def test_sizes_of_flow_models_are_those_that_are_counted():
    copies = {"flux2-klein": "flux2-klein-base", "qwen-image-edit": "qwen-image"}
    flows = [name for name, model in BASE_MODELS.items() if model.flow is not None]
    assert set(flows) == flow_sizes.MAKERS.keys() | copies.keys()
    for name in flows:
        base = BASE_MODELS[name]
        for key, value in flow_sizes.count_parameters(copies.get(name, name)).items():
            assert getattr(base, key) == value, (name, key)
        if name != "omnigen":  # Which is not trained.
            assert 0 < base.checkpointed_bytes < base.activation_bytes


def test_what_was_counted_at_full_size_is_below_the_estimates_of_now():
    protocol = load_protocol("dreambench")
    subjects = list_subjects(protocol.find_dataset(photos_dir=None))[:1]
    counted = read_json(REPOSITORY / "reports" / "benchmarks" / "full-size-memory.json")
    for name, found in counted["methods"].items():
        base, recipe, precision = name.split(", ")
        estimate = make_estimate(
            protocol, load_recipe(recipe), BASE_MODELS[base], subjects, precision=precision
        ).memory_bytes
        peaks = [value for one in found.values() for key, value in one.items()
                 if key in ("step_bytes", "forward_bytes")]  # fmt: skip
        peak = max(peaks or [one["draw_bytes"] for one in found.values()])
        assert peak < estimate < 1.8 * peak, name
    assert len(counted["methods"]) >= 14
    assert [row["held_bytes"] for row in counted["ten"].values()] == [0] * 10


def count_live():
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    networks = [thing for thing in gc.get_objects() if isinstance(thing, torch.nn.Module)]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return len(networks), sum(sizes.values())


METHODS = (
    "class-only", "dreambooth", "dreambooth-lora", "textual-inversion", "custom-diffusion",
    "sdedit", "inpainting", "ddim-inversion", "cut-and-paste", "ip-adapter",
)  # fmt: skip


@pytest.mark.campaign
def test_memory_after_ten_methods_is_that_after_one(tmp_path, shared_cache):
    whole = load_protocol("mini")
    protocol = whole.narrow([whole.prompts[0].id]).model_copy(
        update={
            "sampler": whole.sampler.model_copy(update={"n_steps": 2}),
            "prior": whole.prior.model_copy(update={"n_images": 1}),
            "n_images_per_prompt": 1,
        }
    )
    # Encoders stay for the process; whoever asks first loads one.
    assert isinstance(load_encoder("mini-clip", "clip").model, torch.nn.Module)
    # As a run has them: one worker, and the pipelines of all methods.
    executor, pipelines, live = Here(), [], []
    for name in METHODS:
        recipe = load_recipe(name)
        table = recipe.tables["mini"]
        short = {"n_steps": 1, "batch_size": 1, "n_class_images": 1, "n_views": 1}
        recipe.tables["mini"] = table | {key: n for key, n in short.items() if table.get(key)}
        request = Request(
            protocol=protocol, recipe=recipe, subjects=("dog",), base_model="mini",
            device="cpu", precision="fp32", batch_size=1, encoders={},
        )  # fmt: skip
        run = open_run(plan_run(tmp_path / name, request))
        pipelines.append(Pipeline(run, terms=Terms(cache_dir=shared_cache), progress=no_progress))
        pipelines[-1].plan_images()
        work_through(pipelines[-1:], executor)
        assert not pipelines[-1].failures and not run.missing_images(), name
        live.append(count_live())
    assert len(live) == 10
    n_networks, n_bytes = live[0]
    # Caches of single numbers, as the libraries keep them, are not networks.
    assert all(found[0] == n_networks for found in live), live
    assert all(found[1] - n_bytes < 1e6 for found in live), live
