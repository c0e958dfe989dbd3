"""mini-flow by its folder: shown photos, and trained, under mini's own protocol."""

import json

from conftest import invoke
from safetensors.torch import load_file
from small_flows import write_mini_flow_folder

PHOTOS = """
method = "photo-prompting"
title = "t"
source = "s"

[mini-flow]
subject = "{class}"
instruction = "{prompt}"
max_photos = 2
"""
LORA = """
method = "dreambooth-lora"
title = "t"
source = "s"

[mini-flow]
identifier = "auto"
learning_rate = 1e-3
n_steps = 2
n_class_images = 2
prior_weight = 1.0
rank = 2
batch_size = 1
weight_decay = 0.01
max_grad_norm = 1.0
optimizer = "adamw"
n_photos = 0
gradient_checkpointing = false
train_text_encoder = false
class_noun = "correct"
"""


def test_methods_run_on_its_folder_with_minis_protocol(tmp_path, shared_cache):
    write_mini_flow_folder(tmp_path / "flow")
    (tmp_path / "photos.toml").write_text(PHOTOS)
    (tmp_path / "lora.toml").write_text(LORA)
    invoke(
        "run", "--method", f"{tmp_path / 'photos.toml'},{tmp_path / 'lora.toml'}",
        "--protocol", "mini", "--subjects", "dog", "--prompts", "jungle", "--alongside", "",
        "--base-model", f"mini-flow={tmp_path / 'flow'}", "--out", tmp_path / "runs",
        "--cache", shared_cache, "--keep-weights",
    )  # fmt: skip
    folder = tmp_path / "runs" / "mini"
    for name in ("photos", "lora"):
        assert len(list((folder / name / "images" / "dog" / "jungle").glob("*.png"))) == 2, name
        manifest = json.loads((folder / name / "run.json").read_text())
        assert manifest["sampler"]["scheduler"] == "flow-euler"
        assert manifest["sampler"]["n_steps"] == 20
    adapters = folder / "lora" / "train" / "dog" / "pytorch_lora_weights.safetensors"
    assert any("to_qkv_mlp_proj" in key for key in load_file(adapters))
