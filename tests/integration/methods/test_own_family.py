"""The family of the how-to: one file, a name in the registry and a recipe's table are enough."""

import sys

import numpy as np
import torch
from conftest import REPOSITORY, invoke
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
)
from small_flows import PROTOCOL, make_t5
from small_pipelines import pixels
from transformers import UMT5Config, UMT5EncoderModel

from dreambench.base_models import registry, spec
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.base_models.spec import BaseModel
from dreambench.config.sampler import FLOW, Sampler, SamplerSettings

SAMPLER = Sampler(scheduler=FLOW, n_steps=2, guidance_scale=3.0, size_px=64)
RECIPE = """
method = "dreambooth-lora"
title = "LoRA on a family of one's own"
source = "tests"

[aura]
identifier = "sks"
learning_rate = 1e-3
n_steps = 2
batch_size = 1
train_text_encoder = false
prior_weight = 1.0
n_class_images = 1
weight_decay = 0.0
max_grad_norm = 1.0
optimizer = "adamw"
class_noun = "correct"
n_photos = 0
gradient_checkpointing = false
rank = 2
"""


def write_folder(folder):
    torch.manual_seed(11)
    tokenizer, _ = make_t5(16)
    pipeline = AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
            )
        ),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 16), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        transformer=AuraFlowTransformer2DModel(
            sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=16, caption_projection_dim=32,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def test_one_file_and_a_name_add_a_family(tmp_path, shared_cache, monkeypatch):
    write_folder(tmp_path / "pipeline")
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "examples"), *sys.path])
    monkeypatch.setitem(registry.FAMILIES, "aura", "my_family:AuraFlow")
    monkeypatch.setitem(spec.PARTS, "aura", spec.PARTS["flux2"])
    own = BaseModel(
        "aura", "fal/AuraFlow-v0.3", family="aura", size_px=1024, licence="apache-2.0",
        weights_file=spec.TRANSFORMER_FILE,
        flow=SamplerSettings(scheduler=FLOW, n_steps=50, guidance_scale=3.5),
    )  # fmt: skip
    monkeypatch.setitem(registry.BASE_MODELS, "aura", own)

    base = find_base_model(f"aura={tmp_path / 'pipeline'}")
    found = pixels(load_base_model(base, SAMPLER).sample(["a dog", "a red mug"], [1, 2]))
    theirs = AuraFlowPipeline.from_pretrained(tmp_path / "pipeline")
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        ["a dog", "a red mug"], num_inference_steps=2, guidance_scale=3.0, height=64, width=64,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
    ).images  # fmt: skip
    assert np.array_equal(found, pixels(wanted))

    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    (tmp_path / "own.toml").write_text(RECIPE)
    invoke(
        "run", "--method", tmp_path / "own.toml", "--protocol", tmp_path / "tiny.toml",
        "--alongside", "", "--base-model", f"aura={tmp_path / 'pipeline'}",
        "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip
    assert (tmp_path / "runs" / "tiny" / "own" / "summary.json").is_file()
    assert "aura" in invoke("list", "base-models").stdout
