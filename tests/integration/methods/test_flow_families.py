"""Methods end to end on small random folders of each family that was trained by flow matching."""

import json

import pytest
from conftest import invoke, refused_at_once
from safetensors.torch import load_file
from small_flows import PROTOCOL, WRITERS

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.spec import DIFFUSION
from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.methods.registry import find_method

RECIPE = """
extends = "{recipe}"

[{base}]
n_steps = 2
n_class_images = 2
gradient_accumulation_steps = 2
lr_warmup_steps = 0
"""


# The others have the same networks and code, or are not trained.
OTHERS = {"flux-schnell", "qwen-image-edit", "omnigen"}


@pytest.mark.parametrize("base", sorted(WRITERS.keys() - OTHERS))
def test_methods_run_on_a_folder_of_the_family(base, tmp_path, shared_cache):
    WRITERS[base](tmp_path / "pipeline")
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    names = ["dreambooth", "dreambooth-lora"]
    paths = [tmp_path / f"quick-{name}.toml" for name in names]
    for path, name in zip(paths, names, strict=True):
        path.write_text(RECIPE.format(recipe=name, base=base))
    methods = ",".join([*map(str, paths), "class-only"])
    invoke(
        "run", "--method", methods, "--protocol", tmp_path / "tiny.toml", "--alongside", "",
        "--base-model", f"{base}={tmp_path / 'pipeline'}", "--out", tmp_path / "runs",
        "--cache", shared_cache, "--keep-weights",
    )  # fmt: skip
    folder = tmp_path / "runs" / "tiny"
    for name in ("quick-dreambooth", "quick-dreambooth-lora", "class-only"):
        assert len(list((folder / name / "images").rglob("*.png"))) == 1, name
        manifest = json.loads((folder / name / "run.json").read_text())
        assert manifest["sampler"]["scheduler"] == "flow-euler"
        assert (folder / name / "summary.json").is_file()
    trained = folder / "quick-dreambooth" / "train" / "dog"
    assert load_file(trained / "transformer.safetensors")
    adapters = load_file(
        folder / "quick-dreambooth-lora" / "train" / "dog" / "pytorch_lora_weights.safetensors"
    )
    assert {key.split(".")[0] for key in adapters} == {"transformer"}


FLOWS = [name for name, model in BASE_MODELS.items() if model.flow is not None]
OF_DIFFUSION = [
    name for name in list_recipes()
    if name != "real-images" and find_method(load_recipe(name).method).families == DIFFUSION
]  # fmt: skip


def test_methods_about_a_unet_refuse_the_others_before_anything_starts(tmp_path):
    assert {"textual-inversion", "custom-diffusion", "ddim-inversion", "ip-adapter"} < set(
        OF_DIFFUSION
    )
    for command in (("plan",), ("run", "--out", tmp_path / "runs")):
        for method in OF_DIFFUSION:
            words = ("--method", method, "--protocol", "mini", "--base-model", FLOWS[0])
            line = refused_at_once(*command, *words)
            assert "is of the family flux2" in line and "list base-models" in line
    assert not (tmp_path / "runs").exists()


def test_licences_are_said_before_anything_starts():
    rows = json.loads(invoke("list", "base-models", "--json").stdout)
    found = {row["name"]: row for row in rows}
    assert all(row["licence"] for row in rows)
    assert found["flux-dev"]["is_gated"] and not found["qwen-image"]["is_gated"]
    line = "licence flux-1-dev-non-commercial-license; gated: accept it at https://huggingface.co/"
    assert line in invoke("list", "base-models").stdout
    words = ("plan", "--method", "class-only", "--protocol", "mini", "--base-model")
    printed = invoke(*words, "flux-dev").stdout
    assert line in printed and "flow-euler, 50 steps, guidance 3.5, 64 px" in printed
    assert "gated" not in invoke(*words, "mini").stdout
