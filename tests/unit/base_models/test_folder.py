"""A base model's folder that cannot be loaded: which file, what is wrong, what to do; at once."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import refused_at_once

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.errors import UserError

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 37\n"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(Path(BASE_MODELS["mini"].location), tmp_path / "base")


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, n_bytes):
    return lambda folder: put(name, (folder / name).read_bytes()[:n_bytes])(folder)


def remove(name):
    def work(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return work


def link(name, target):
    def work(folder):
        remove(name)(folder)
        (folder / name).symlink_to(target)

    return work


# What was done to the folder -> (file that is named, fact about it, fact of the next step).
FAULTS = {
    "bin": (rename(UNET, "unet/diffusion_pytorch_model.bin"), UNET, ".bin is not read", "download"),
    "fp16": (rename(VAE, "vae/diffusion_pytorch_model.fp16.safetensors"), VAE, "fp16", "rename"),
    "other name": (rename(TEXT, "text_encoder/weights.safetensors"), TEXT, "weights.", "rename"),
    "lfs": (put(UNET, POINTER), UNET, "git-lfs pointer", "git lfs pull"),
    "lfs of a config": (put("vae/config.json", POINTER), "vae/config.json", "lfs", "git lfs pull"),
    "cut": (cut(UNET, 9_000_000), UNET, "cut off: it has 9,000,000 of", "again"),
    "cut in its head": (cut(UNET, 900), UNET, "cut off", "again"),
    "empty": (put(VAE, b""), VAE, "empty", "again"),
    "zeros": (put(VAE, b"\0" * 5000), VAE, "zero bytes", "again"),
    "page": (put(VAE, b"<!DOCTYPE html><html>"), VAE, "web page", "login"),
    "pickle": (put(VAE, b"\x80\x02}q\0." * 50), VAE, "not a safetensors", "again"),
    "damaged head": (put(TEXT, (50).to_bytes(8, "little") + b"{" * 90), TEXT, "head", "again"),
    "longer": (lambda f: put(TEXT, (f / TEXT).read_bytes() + b"x")(f), TEXT, "its head", "again"),
    "no weights": (remove(UNET), UNET, "is missing", "download"),
    "link to nothing": (link(UNET, "gone"), UNET, "link", "gone"),
    "no unet": (remove("unet"), "unet", "is missing", "download"),
    "no tokenizer": (remove("tokenizer"), "tokenizer", "is missing", "download"),
    "no vocabulary": (
        remove("tokenizer/tokenizer.json"), "tokenizer", "tokenizer.json or vocab.json", "again",
    ),
    "no scheduler file": (
        remove("scheduler/scheduler_config.json"), "scheduler/scheduler_config.json", "missing",
        "download",
    ),
    "no config": (remove("vae/config.json"), "vae/config.json", "is missing", "download"),
    "broken index": (put("model_index.json", b"{"), "model_index.json", "not valid JSON", "again"),
    "index of a list": (put("model_index.json", b"[]"), "model_index.json", "object", "again"),
    "index without parts": (put("model_index.json", b"{}"), "model_index.json", "no unet", "kind"),
    "broken config": (put("unet/config.json", b"{'a'"), "unet/config.json", "not valid JSON", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_the_file_and_its_fault_and_the_next_step_are_named_before_anything_is_loaded(folder, name):
    change, file, fact, step = FAULTS[name]
    change(folder)
    with pytest.raises(UserError) as caught:
        find_base_model(f"mini={folder}")
    assert caught.value.code in ("incomplete-base-model", "not-a-base-model")
    assert caught.value.problem.startswith(f"{folder / file} ")
    assert fact in caught.value.problem and step in caught.value.hint
    assert "hub" not in str(caught.value)


def test_a_command_says_it_at_once(folder, tmp_path):
    FAULTS["lfs"][0](folder)
    words = ("--method", "class-only", "--protocol", "mini", "--base-model", f"mini={folder}")
    line = refused_at_once("run", *words, "--out", tmp_path / "r")
    assert "git lfs pull" in line and not (tmp_path / "r").exists()


def test_what_is_no_folder_of_a_pipeline_is_said(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    for path, fact in (
        (tmp_path, "has no model_index.json"), (tmp_path / "model.ckpt", "is a file"),
        (tmp_path / "gone", "is not there"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=fact) as caught:
            find_base_model(f"mini={path}")
        assert caught.value.code == "not-a-base-model"


def test_weights_in_shards_are_found_and_checked(folder):
    path = folder / TEXT
    path.rename(path.with_name("model-00001-of-00001.safetensors"))
    index = path.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    find_base_model(f"mini={folder}")
    index.write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(UserError, match="00002"):
        find_base_model(f"mini={folder}")
    index.write_text(json.dumps({"weight_map": {"a": "../unet/x.safetensors"}}))
    with pytest.raises(UserError, match="index"):
        find_base_model(f"mini={folder}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("unet/config.json", b'{"_class_name": "UNet2DConditionModel", "layers_per_block": "x"}'),
        ("text_encoder/config.json", b'{"hidden_size": -1}'),
        ("tokenizer/tokenizer.json", b"{}"),
        ("scheduler/scheduler_config.json", b'{"num_train_timesteps": "many"}'),
        ("model_index.json", None),
    ],
)
def test_what_shows_only_on_loading_names_the_folder_and_not_the_hub(folder, name, content):
    if content is None:
        index = json.loads((folder / name).read_text())
        content = json.dumps({**index, "vae": ["diffusers", "NoSuchModel"]}).encode()
    (folder / name).write_bytes(content)
    model = find_base_model(f"mini={folder}")
    with pytest.raises(UserError) as caught:
        load_base_model(model, load_protocol("mini").sampler.at_size(64))
    assert str(folder) in str(caught.value)
    assert "hub" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_id_is_still_not_here():
    with pytest.raises(UserError, match="hub cannot be reached") as caught:
        load_base_model(BASE_MODELS["sd15"], load_protocol("mini").sampler.at_size(64))
    assert caught.value.code == "hub-unreachable"
