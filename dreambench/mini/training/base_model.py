r"""Trains the UNet and the text encoder of `mini` on the autoencoder's latents.

    python -m dreambench.mini.training.base_model --data DIR --autoencoder DIR \
        --tokenizer DIR --out DIR

v-prediction on a schedule that ends in pure noise, captions dropped in one of ten pictures for
guidance, the subject's pixels weighted up. Now and then a rare word stands in a caption, as web
captions have words that mean nothing: a rare token then starts neutral, which is what DreamBooth
expects of its identifier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambench.mini.training.autoencoder import LATENT_CHANNELS, to_pixels
from dreambench.mini.training.data import WorldSet
from dreambench.mini.training.loop import train
from dreambench.mini.training.tokenizer import make_rare_words

TEXT_WIDTH = 192
P_NO_CAPTION = 0.1
P_RARE_WORD = 0.1
P_UNIFORM_TIME = 0.25
SUBJECT_WEIGHT = 8.0
RARE_WORDS = make_rare_words(160)


def make_unet() -> UNet2DConditionModel:
    """The untrained UNet; attention at the two lower levels."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 144),
        layers_per_block=2,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=TEXT_WIDTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, stretched to end in pure noise, with v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def draw_times(n: int, noise: torch.Generator) -> Tensor:
    """Training times in [0, 1000): mostly the middle, where shapes are decided; (n,).

    Logit-normal as in Esser et al. (ICML 2024, section 3.1), with a uniform part, so that the ends
    are trained too.
    """
    middle = torch.sigmoid(torch.randn(n, generator=noise)) * 1000
    anywhere = torch.rand(n, generator=noise) * 1000
    uniform = torch.rand(n, generator=noise) < P_UNIFORM_TIME
    return torch.where(uniform, anywhere, middle).long().clamp(max=999)


def draw_captions(data: WorldSet, rows: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """Captions of these rows, some with a rare word in them, some left out."""
    texts = []
    for row in rows:
        rare = str(rng.choice(RARE_WORDS)) if rng.uniform() < P_RARE_WORD else ""
        text = data.caption(row, rng, identifier=rare)
        texts.append("" if rng.uniform() < P_NO_CAPTION else text)
    return texts


def weigh_subject(error: Tensor, masks: NDArray[np.bool_]) -> tuple[Tensor, dict[str, float]]:
    """Mean of squared errors (n, 1, h, w) with the subject weighted up, and that of it alone.

    The subject covers a sixth of a picture and holds most of what is hard about it.
    """
    mask = torch.from_numpy(np.asarray(masks)).float()[:, None]
    on_subject = F.avg_pool2d(mask, mask.shape[-1] // error.shape[-1])
    weight = 1 + SUBJECT_WEIGHT * on_subject
    parts = {"subject": float((error * on_subject).sum().detach() / on_subject.sum())}
    return (error * weight).mean() / weight.mean(), parts


@torch.no_grad()
def load_latents(data: WorldSet, vae: AutoencoderKL, path: Path) -> np.ndarray:
    """Scaled latents of a whole split (posterior means), made once and kept at `path`; float16."""
    if not path.exists():
        chunks = np.array_split(np.arange(len(data)), max(1, len(data) // 50))
        latents = [
            vae.encode(to_pixels(data.images[rows])).latent_dist.mean.half().numpy()
            for rows in chunks
        ]
        scaled = np.concatenate(latents) * np.float16(vae.config.scaling_factor)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".part.npy"), scaled)
        path.with_suffix(".part.npy").replace(path)
    return np.load(path, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="folder of a pipeline to go on from")
    args = parser.parse_args()
    data = WorldSet(args.data / "train")
    vae = AutoencoderKL.from_pretrained(args.autoencoder).float()
    latents = load_latents(data, vae, args.out / "latents.npy")
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    torch.manual_seed(0)
    if args.start:
        unet = UNet2DConditionModel.from_pretrained(args.start, subfolder="unet").float()
        text_encoder = CLIPTextModel.from_pretrained(args.start, subfolder="text_encoder").float()
    else:
        unet, text_encoder = make_unet(), make_text_encoder(tokenizer)
    unet.to(memory_format=torch.channels_last)
    scheduler = make_scheduler()
    schedule = DDPMScheduler.from_config(scheduler.config)

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(len(data), args.batch_size, replace=False))
        texts = draw_captions(data, rows, rng)
        tokens = tokenizer(
            texts, padding="max_length", max_length=tokenizer.model_max_length,
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        clean = torch.from_numpy(latents[rows].astype(np.float32))
        eps = torch.randn(clean.shape, generator=noise)
        times = draw_times(len(clean), noise)
        noisy = schedule.add_noise(clean, eps, times).to(memory_format=torch.channels_last)
        found = unet(noisy, times, encoder_hidden_states=text_encoder(tokens)[0]).sample
        error = (found - schedule.get_velocity(clean, eps, times)).square().mean(1, keepdim=True)
        return weigh_subject(error, data.masks[rows])

    train(
        nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}),
        compute_loss,
        out_dir=args.out,
        seed=4,
        n_steps=args.steps,
        learning_rate=args.learning_rate,
        checkpoint_every=250,
    )
    write_pipeline(args.out / "base", vae, text_encoder, tokenizer, unet)


def write_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Writes the diffusers folder, weights in fp16."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main()
