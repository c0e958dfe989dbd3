"""Networks whose files do not hold exactly their weights are refused, whichever part it is."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambench.base_models.registry import BASE_MODELS, find_base_model, load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.errors import UserError


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
