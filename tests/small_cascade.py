"""A small random cascade on pixels, of DeepFloyd IF's shape."""

import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from small_flows import make_t5

WIDTH, SMALL_PX, LARGE_PX = 24, 16, 32


def make_unet(**config):
    return UNet2DConditionModel(
        layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32, encoder_hid_dim=WIDTH, attention_head_dim=8,
        addition_embed_type="text", addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift", act_fn="gelu",
        **config,
    )  # fmt: skip


def make_noise(**options):
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", beta_start=0.0001, beta_end=0.02, thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5, **options,
    )  # fmt: skip


def write_cascade_folder(folder):
    """Stage I, and stage II in `upscaler/`, which has no text encoder of its own."""
    torch.manual_seed(12)
    tokenizer, text_encoder = make_t5(WIDTH)
    rest = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    rest["requires_safety_checker"] = False
    IFPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder,
        unet=make_unet(in_channels=3, sample_size=SMALL_PX),
        scheduler=make_noise(variance_type="learned_range"), **rest,
    ).save_pretrained(folder)  # fmt: skip
    IFSuperResolutionPipeline(
        tokenizer=None, text_encoder=None, image_noising_scheduler=make_noise(),
        unet=make_unet(in_channels=6, sample_size=LARGE_PX, class_embed_type="timestep"),
        scheduler=make_noise(variance_type="learned_range"), **rest,
    ).save_pretrained(folder / "upscaler")  # fmt: skip
