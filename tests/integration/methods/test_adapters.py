"""DreamBooth with PEFT's adapters: what is trained, saved, read again, counted and refused."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from conftest import invoke, refused_at_once
from safetensors.torch import load_file
from small_flows import PROTOCOL, write_flux2_folder
from small_pipelines import NUMBERS, context, pixels, subjects

from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.errors import UserError
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.finetuning.dreambooth_peft import (
    ADAPTERS,
    DreamBoothPeft,
    DreamBoothPeftSettings,
)
from dreambench.methods.generators import TextGenerator

QUICK = NUMBERS | {
    "learning_rate": 1e-2, "n_steps": 2, "batch_size": 1, "n_class_images": 1,
}  # fmt: skip
SIZES = {"oft": {"block_size": 16}, "boft": {"n_blocks": 8}}
PROMPT, SEED = ["a {subject} on the beach"], [1]
RECIPES = [name for name in list_recipes() if load_recipe(name).method == "dreambooth-peft"]


def make_settings(adapter, **changes):
    size = SIZES.get(adapter, {"rank": 4})
    return DreamBoothPeftSettings(**{**QUICK, **size, "adapter": adapter, **changes})


def make_method(adapter, cache_dir, base, **changes):
    return DreamBoothPeft(make_settings(adapter, **changes), context(cache_dir, base_model=base))


def draw(generator):
    return pixels(generator.generate(PROMPT, SEED))


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_learns_and_is_read_again_by_us_and_by_peft(
    adapter, base_of, shared_cache, tmp_path
):
    base = base_of["mini"]
    method, (dog, mug) = make_method(adapter, shared_cache, base), subjects("dog", "mug")
    before = {key: value.clone() for key, value in method.trained["unet"].state_dict().items()}
    kept = {}
    for place, subject in enumerate((mug, dog, mug)):  # One must not start from another's.
        out_dir = tmp_path / str(place)
        out_dir.mkdir()
        method.fit(subject, out_dir, seed=5)
        kept[place] = read_files(out_dir)
    assert kept[0] == kept[2] != kept[1]
    assert set(map(str, kept[0])) == {
        "losses.json", "unet/adapter_config.json", "unet/adapter_model.safetensors"
    }  # fmt: skip
    work = DreamBoothPeft.count_work(method.settings, base)
    weights = [value for value in method.trained["unet"].parameters() if value.requires_grad]
    assert sum(value.numel() for value in weights) == work.trained_parameters
    saved = load_file(out_dir / "unet" / "adapter_model.safetensors")
    assert 4 * sum(value.numel() for value in saved.values()) == work.saved_bytes

    images = draw(method.load(mug, out_dir))
    other = make_method(adapter, shared_cache, base)
    assert np.array_equal(images, draw(other.load(mug, out_dir)))
    plain = context(shared_cache, base_model=base).load_base_model()
    theirs = TextGenerator(plain, subject_phrase=f"{method.identifier} mug")
    assert not np.array_equal(images, draw(theirs))
    found = peft.PeftModel.from_pretrained(plain.pipeline.unet, out_dir / "unet").eval()
    assert np.array_equal(images, draw(theirs))
    assert found.peft_config["default"].peft_type.value in (adapter.upper(), "LORA")
    # The base model is as it was when its adapters are gone.
    for adapted in method._adapted.values():
        adapted.unload()
    after = method.trained["unet"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_text_encoders_have_adapters_of_their_own(base_of, shared_cache, tmp_path):
    method = make_method("dora", shared_cache, base_of["xl"], train_text_encoder=True)
    (dog,) = subjects("dog")
    method.fit(dog, tmp_path, seed=5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "losses.json", "unet", "text_encoder", "text_encoder_2"
    }  # fmt: skip
    images = draw(method.load(dog, tmp_path))
    file = tmp_path / "text_encoder" / "adapter_model.safetensors"
    assert any(".self_attn.q_proj." in key for key in load_file(file))
    shutil.rmtree(tmp_path / "text_encoder_2")
    assert len(images) == 1
    with pytest.raises(UserError) as caught:
        method.load(dog, tmp_path)
    assert caught.value.code == "missing-file"


def test_lora_is_that_of_dreambooth_lora_in_another_layout(base_of, shared_cache, tmp_path):
    ours = make_method("lora", shared_cache, base_of["mini"])
    lora = DreamBoothLora(
        DreamBoothLoraSettings(**QUICK, rank=4), context(shared_cache, base_model=base_of["mini"])
    )
    (dog,) = subjects("dog")
    found = []
    for name, method in {"ours": ours, "lora": lora}.items():
        (tmp_path / name).mkdir()
        method.fit(dog, tmp_path / name, seed=5)
        found.append(draw(method.load(dog, tmp_path / name)))
    assert np.array_equal(*found)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_bytes_that_a_layer_keeps_for_its_gradient_are_those_that_are_counted(
    adapter, base_of, shared_cache
):
    method = make_method(adapter, shared_cache, base_of["mini"])
    n_in, n_out = 192, 144
    layer = torch.nn.ModuleDict({"to_k": torch.nn.Linear(n_in, n_out, bias=False)})
    method.trained, method.model.adapted_layers = {"unet": layer}, lambda _: ["to_k"]
    method._reset(0)
    own = {value.untyped_storage().data_ptr() for value in (*layer.parameters(), *layer.buffers())}
    kept = {}

    def see(value):
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(see, lambda value: value):
        layer["to_k"](torch.randn(1, n_in, requires_grad=True))
    n_kept = sum(value.untyped_storage().nbytes() for key, value in kept.items() if key not in own)
    counted = 4 * ADAPTERS[adapter].count_kept(method.settings, n_in, n_out)
    assert counted * 0.9 <= n_kept <= counted * 1.3 + 16 * (n_in + n_out)


def test_foreign_and_damaged_files_are_one_line(base_of, shared_cache, tmp_path):
    base, (dog,) = base_of["mini"], subjects("dog")
    method = make_method("hra", shared_cache, base)
    (tmp_path / "hra").mkdir()
    method.fit(dog, tmp_path / "hra", seed=5)
    config = tmp_path / "hra" / "unet" / "adapter_config.json"
    weights = config.with_name("adapter_model.safetensors")
    whole, content = config.read_text(), weights.read_bytes()

    def refuse(name="hra", **changes):
        with pytest.raises(UserError) as caught:
            make_method(name, shared_cache, base, **changes).load(dog, tmp_path / "hra")
        return caught.value.code, str(caught.value)

    # Another adapter, another rank: what is wrong is named.
    assert refuse("lokr")[0] == "wrong-weights"
    code, line = refuse(rank=6)
    assert code == "wrong-weights" and "(r)" in line
    config.write_text(whole.replace('"to_k"', '"to_nothing"'))
    code, line = refuse()
    assert code == "wrong-weights" and "target_modules" in line
    for text in ("[]", '"HRA"', "{}"):
        config.write_text(text)
        assert refuse()[0] == "wrong-weights"
    config.write_text(whole[:100])
    assert refuse()[0] == "unreadable-file"
    config.write_text(whole)
    weights.write_bytes(content[: len(content) // 2])
    assert refuse()[0] == "wrong-weights"
    weights.unlink()
    (weights.parent / "adapter_model.bin").write_bytes(b"a pickle, which nobody opens")
    assert refuse()[0] == "wrong-weights"


@pytest.mark.parametrize(
    "numbers",
    [
        {"adapter": "oft", "rank": 4}, {"adapter": "lokr", "block_size": 4},
        {"adapter": "boft", "block_size": 4, "n_blocks": 4}, {"adapter": "dora"},
        {"adapter": "hra", "rank": 3}, {"adapter": "ia3", "rank": 4},
    ],
)  # fmt: skip
def test_numbers_that_an_adapter_does_not_take_are_refused(numbers, tmp_path):
    path = tmp_path / "own.toml"
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in numbers.items())
    path.write_text(
        'extends = "dreambooth"\nmethod = "dreambooth-peft"\nbase_models = ["mini"]\n'
        f"[mini]\n{lines}\n"
    )
    line = refused_at_once("plan", "--method", path, "--protocol", "mini")
    assert "own.toml" in line and numbers["adapter"] in line


def test_blocks_that_do_not_fit_are_refused_before_anything_starts(base_of, tmp_path):
    for command in (("plan",), ("run", "--out", tmp_path / "runs")):
        for adapter in ("oft", "boft"):
            words = ("--protocol", "mini", "--method", f"dreambooth-{adapter}")
            line = refused_at_once(*command, *words, "--set", "block_size=32")
            assert "block_size = 32" in line and "144" in line and "96" not in line
    assert not (tmp_path / "runs").exists()
    # A folder's layers are its own, whatever those of its name are.
    with pytest.raises(UserError) as caught:
        make_method("boft", tmp_path, base_of["other"], n_blocks=0, block_size=64)
    assert caught.value.code == "invalid-value"


def test_every_adapter_has_a_recipe_with_numbers_for_each_base_model_that_lora_has():
    wanted = load_recipe("dreambooth-lora").tables.keys()
    assert len(RECIPES) == 7
    for name in RECIPES:
        recipe = load_recipe(name)
        assert recipe.tables.keys() == wanted
        assert {table["adapter"] for table in recipe.tables.values()} == {
            name.removeprefix("dreambooth-")
        }
    plans = invoke("plan", "--method", ",".join(RECIPES), "--base-model", "sd15", "--json").stdout
    assert len(json.loads(plans)) == 7
    # "all" has one row a method, and dreambooth-lora is the one with adapters.
    names = [
        row["method"] for row in json.loads(invoke("plan", "--method", "all", "--json").stdout)
    ]
    assert "dreambooth-lora" in names and not set(RECIPES) & set(names)


RECIPE = """
extends = "dreambooth-{adapter}"

[flux2-klein-base]
n_steps = 2
n_class_images = 1
batch_size = 1
{size}
"""


def test_adapters_run_on_a_flow_model(tmp_path, shared_cache):
    write_flux2_folder(tmp_path / "pipeline")
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    for adapter, size in {"oft": "block_size = 8", "lokr": "rank = 2"}.items():
        (tmp_path / f"{adapter}.toml").write_text(RECIPE.format(adapter=adapter, size=size))
    invoke(
        "run", "--method", f"{tmp_path / 'oft.toml'},{tmp_path / 'lokr.toml'}",
        "--protocol", tmp_path / "tiny.toml", "--alongside", "",
        "--base-model", f"flux2-klein-base={tmp_path / 'pipeline'}", "--out", tmp_path / "runs",
        "--cache", shared_cache, "--keep-weights",
    )  # fmt: skip
    for adapter in ("oft", "lokr"):
        folder = tmp_path / "runs" / "tiny" / adapter
        assert len(list((folder / "images").rglob("*.png"))) == 1
        trained = folder / "train" / "dog" / "transformer"
        found = load_file(trained / "adapter_model.safetensors")
        assert any("to_qkv_mlp_proj" in key for key in found)
        assert any("single_transformer_blocks.1.attn.to_out" in key for key in found)
        assert peft.PeftConfig.from_pretrained(trained).peft_type.value == adapter.upper()
