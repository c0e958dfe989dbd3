"""Networks whose files do not hold exactly their weights are refused, whichever part it is."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_pipelines import (
    NUMBERS,
    context,
    subjects,
    write_adapter_snapshot,
    write_unclip_folder,
)

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.lora import LORA_FILE
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.encoders.registry import ENCODERS, SEGMENTERS, make_encoder
from dreambench.encoders.segmentation import Segmenter
from dreambench.encoders.spec import EncoderSpec, SegmenterSpec
from dreambench.encoders.weights import to_open_clip
from dreambench.errors import UserError
from dreambench.methods.finetuning import custom_diffusion
from dreambench.methods.finetuning.custom_diffusion import CustomDiffusion, CustomDiffusionSettings
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.finetuning.textual_inversion import (
    TextualInversion,
    TextualInversionSettings,
)


def load(name):
    sampler = load_protocol("mini").sampler.at_size(64)
    return load_base_model(find_base_model(name), sampler, device="cpu", precision="fp32")


def change(weights, how):
    key = sorted(weights)[5]
    if how == "one missing":
        weights.pop(key)
    elif how == "all renamed":
        return {f"model.{name}": value for name, value in weights.items()}, key
    elif how == "another shape":
        weights[key] = torch.zeros(3, 3)
    else:
        weights["strange.weight"] = torch.zeros(2)
        key = "strange.weight"
    return weights, key


@pytest.mark.parametrize("how", ["one missing", "all renamed", "another shape", "one more"])
@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_weights_that_are_not_whole_are_refused(tmp_path, part, how, capfd):
    folder = shutil.copytree(Path(BASE_MODELS["mini"].location), tmp_path / "base")
    (file,) = (folder / part).glob("*.safetensors")
    weights, key = change(load_file(file), how)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as refused:
        load(f"mini={folder}")
    assert refused.value.code == "wrong-weights"
    assert f"{folder}/{part}" in str(refused.value)
    if how in ("one missing", "one more"):
        assert key in str(refused.value)
    # What the libraries say of it is not what has to be done.
    assert "TRAIN" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("name", "part"),
    [("xl", "text_encoder_2"), ("unclip", "image_encoder"), ("unclip", "image_normalizer")],
)
def test_so_are_the_parts_that_few_families_have(xl_folder, tmp_path, name, part):
    folder = tmp_path / "base"
    if name == "xl":
        shutil.copytree(xl_folder, folder)
    else:
        write_unclip_folder(folder)
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    key = sorted(weights)[0]
    del weights[key]
    save_file(weights, file, metadata={"format": "pt"})
    family = {"xl": "sdxl", "unclip": "sd21-unclip"}[name]
    with pytest.raises(UserError, match=key) as refused:
        load(f"{family}={folder}")
    assert refused.value.code == "wrong-weights"


def spoil(file, how):
    weights, key = change(load_file(file), how)
    if how == "one missing" and len(weights) == 0:
        weights = {"other": torch.zeros(1)}
    save_file(weights, file, metadata={"format": "pt"})
    return key


HOWS = ["one missing", "all renamed", "another shape", "one more"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", ["dreambooth", "lora", "custom", "word"])
def test_what_training_saved_is_refused_unless_it_is_whole(tmp_path, base_of, kind, how):
    made = context(tmp_path / "cache", base_model=base_of["other"])
    (dog,) = subjects("dog")
    out = tmp_path / "dog"
    out.mkdir()
    if kind in ("dreambooth", "lora"):
        numbers = {**NUMBERS, "train_text_encoder": True}
        method = (
            DreamBooth(DreamBoothSettings(**numbers), made)
            if kind == "dreambooth"
            else DreamBoothLora(DreamBoothLoraSettings(**numbers, rank=2), made)
        )
        method._reset(1)
        method._save(out)
        file = out / ("unet.safetensors" if kind == "dreambooth" else LORA_FILE)
    elif kind == "custom":
        settings = load_recipe("custom-diffusion").settings_for("mini")
        method = CustomDiffusion(CustomDiffusionSettings(**settings), made)
        method._save(out)
        file = out / custom_diffusion.FILE
    else:
        settings = load_recipe("textual-inversion").settings_for("mini")
        method = TextualInversion(TextualInversionSettings(**settings), made)
        method.word.save(out)
        file = out / "learned_embeds.safetensors"
    method.load(dog, out)
    if kind == "word" and how in ("one missing", "another shape"):
        weights = load_file(file)
        key = next(iter(weights))
        weights = {"other": weights[key]} if how == "one missing" else {key: weights[key][0]}
        save_file(weights, file)
    elif kind == "word" and how == "one more":
        save_file({**load_file(file), "strange.weight": torch.zeros(2)}, file)
    elif kind == "word":
        save_file({f"model.{k}": v for k, v in load_file(file).items()}, file)
    else:
        spoil(file, how)
    with pytest.raises(UserError) as refused:
        method.load(dog, out)
    assert refused.value.code == "wrong-weights"
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("how", [*HOWS, "encoder"])
def test_so_is_an_image_adapter_and_its_encoder(tmp_path, base_of, how):
    write_adapter_snapshot(tmp_path)
    file = tmp_path / "models" / "ip-adapter_sd15.safetensors"
    sampler = load_protocol("mini").sampler.at_size(64)
    for is_spoilt in (False, True):
        model = load_base_model(base_of["other"], sampler, device="cpu", precision="fp32")
        if is_spoilt and how == "encoder":
            file = tmp_path / "models" / "image_encoder" / "model.safetensors"
        if is_spoilt:
            spoil(file, "one missing" if how == "encoder" else how)
        try:
            folder = tmp_path / "models"
            model.load_image_adapter(
                folder / "ip-adapter_sd15.safetensors", image_encoder=folder / "image_encoder"
            )
            assert not is_spoilt
        except UserError as refused:
            assert is_spoilt and refused.code == "wrong-weights"


@pytest.mark.parametrize("part", ["vit", "clip", "segmenter"])
@pytest.mark.parametrize("how", HOWS)
def test_so_are_encoders_and_the_segmenter(tmp_path, monkeypatch, part, how):
    folder = shutil.copytree(Path(BASE_MODELS["mini"].location).parent / part, tmp_path / part)
    (file,) = folder.glob("*.safetensors")
    spoil(file, how)
    owner = SegmenterSpec if part == "segmenter" else EncoderSpec
    monkeypatch.setattr(owner, "find_weights", lambda spec: folder)
    names = {"vit": "mini-vit", "clip": "mini-clip"}
    with pytest.raises(UserError) as refused:
        if part == "segmenter":
            _ = Segmenter(SEGMENTERS["mini-segmenter"], device="cpu").model
        else:
            _ = make_encoder(ENCODERS[names[part]]).model
    assert refused.value.code == "wrong-weights"
    assert str(folder) in str(refused.value)


def test_transformers_names_lack_nothing_unseen():
    state = {f"vision_model.encoder.layers.0.self_attn.{p}_proj.weight": torch.zeros(2, 2)
             for p in "qv"}  # fmt: skip
    found = to_open_clip({**state, "strange": torch.zeros(1)})
    assert "strange" in found
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" not in found
    assert len(found) == 3
