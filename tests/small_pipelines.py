"""Small pipelines of Stable Diffusion's and of SDXL's shape, and what tests on them share."""

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.sampler import Sampler
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.methods.base import Context

SAMPLER = Sampler(
    scheduler="ddim", n_steps=4, guidance_scale=3.0, size_px=64,
    options={"timestep_spacing": "trailing"},
)  # fmt: skip
NUMBERS = {
    "identifier": "auto", "learning_rate": 2e-4, "n_steps": 2, "batch_size": 2,
    "train_text_encoder": False, "prior_weight": 1.0, "n_class_images": 4,
    "weight_decay": 0.01, "max_grad_norm": 1.0, "optimizer": "adamw",
    "class_noun": "correct", "n_photos": 0, "gradient_checkpointing": False,
}  # fmt: skip
PROMPTS = ["a {subject} on the beach", "a {subject}", "a red {subject}"]


class Heard:
    """A progress display that remembers."""

    def __init__(self):
        self.calls = []

    def __call__(self, what, done, total):
        self.calls.append((what, done, total))


def context(
    cache_dir, *, base_model=BASE_MODELS["mini"], batch_size=4, progress=None, device="cpu"
):
    return Context(
        base_model=base_model, sampler=SAMPLER, device=device, precision="fp32",
        batch_size=batch_size, cache_dir=cache_dir, progress=progress or Heard(),
    )  # fmt: skip


def subjects(*names):
    found = {s.name: s for s in load_subjects(find_dataset("mini"), names=names)}
    return [found[name] for name in names]


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def write_sd_folder(folder):
    """A random pipeline of other sizes: 4 latent channels, two levels, epsilon prediction."""
    torch.manual_seed(3)
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=64,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=32, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
            attention_head_dim=2, cross_attention_dim=32,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            skip_prk_steps=True, set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def write_xl_folder(folder):
    """A random pipeline of SDXL's shape: two text encoders, pooled text and sizes to the UNet."""
    torch.manual_seed(4)
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")

    def text_config(width, **extra):
        return CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37,
            num_hidden_layers=2, num_attention_heads=4, projection_dim=24,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, **extra,
        )  # fmt: skip

    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=64,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(text_config(32)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(16, hidden_act="gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=32, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
            attention_head_dim=(2, 4), cross_attention_dim=48, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8, transformer_layers_per_block=(1, 2),
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def write_adapter_snapshot(root, *, text_width=32, image_width=16):
    """A random IP-Adapter in its authors' layout, for `write_sd_folder`'s UNet."""
    torch.manual_seed(5)
    levels = [16, 16, 16, 16]  # Cross-attention layers of that UNet: down, up, up, middle.
    state = {
        "image_proj.proj.weight": torch.randn(4 * text_width, image_width),
        "image_proj.proj.bias": torch.zeros(4 * text_width),
        "image_proj.norm.weight": torch.ones(text_width),
        "image_proj.norm.bias": torch.zeros(text_width),
    }
    for index, width in enumerate(levels):
        for kind in ("k", "v"):
            name = f"ip_adapter.{2 * index + 1}.to_{kind}_ip.weight"
            state[name] = torch.randn(width, text_width)
    folder = root / "models"
    folder.mkdir(parents=True)
    save_file(state, folder / "ip-adapter_sd15.safetensors")
    make_image_encoder(image_width).save_pretrained(folder / "image_encoder")


def make_image_encoder(projection_dim):
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=24, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            image_size=32, patch_size=8, projection_dim=projection_dim,
        )
    )  # fmt: skip


def write_unclip_folder(folder):
    """A random pipeline of stable unCLIP's shape."""
    torch.manual_seed(6)
    write_sd_folder(folder.with_name("sd"))
    plain = StableDiffusionPipeline.from_pretrained(folder.with_name("sd"), safety_checker=None)
    config = dict(plain.unet.config) | {
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": 32,
    }  # fmt: skip
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
        image_encoder=make_image_encoder(16),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=16),
        image_noising_scheduler=DDPMScheduler(),
        tokenizer=plain.tokenizer, text_encoder=plain.text_encoder,
        unet=UNet2DConditionModel.from_config(config), scheduler=plain.scheduler, vae=plain.vae,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
