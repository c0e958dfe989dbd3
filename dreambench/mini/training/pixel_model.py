r"""Trains `mini-pixel`: a cascade on pixels, 32 px and then 64, conditioned on text by a small T5.

    python -m dreambench.mini.training.pixel_model small --data DIR --out DIR --hours 2
    python -m dreambench.mini.training.pixel_model large --data DIR --out DIR --hours 1

Called again with the same folder, a stage resumes. `large` takes the text encoder of `small`.
`--start` goes on from trained weights.

It has the shape of DeepFloyd IF, and with it that of Imagen, on which the DreamBooth paper's own
numbers stand: diffusers' `IFPipeline` and `IFSuperResolutionPipeline` load the folder. Both
networks predict noise on a cosine schedule, as IF's do. Stage II sees the small image enlarged and
with noise of a level that it is given; the pipeline's level is within those it is trained on.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.base_models.spec import UPSCALER_DIR
from dreambench.config.protocol import load_protocol
from dreambench.mini.training.autoencoder import to_pixels
from dreambench.mini.training.base_model import draw_captions, draw_times, weigh_subject
from dreambench.mini.training.data import WorldSet
from dreambench.mini.training.loop import hold_then_fall, train
from dreambench.mini.training.quality import SHEET_SCENES, save_sheet
from dreambench.mini.training.tokenizer import make_t5_tokenizer
from dreambench.mini.world.bodies import CLASSES

SMALL_PX, LARGE_PX = 32, 64
TEXT_WIDTH, N_TOKENS = 128, 77
MAX_NOISE_LEVEL = 500
"""Of the small image that stage II is shown; the pipeline's level is 250."""
WITHOUT = {
    "safety_checker": None, "feature_extractor": None, "watermarker": None,
    "requires_safety_checker": False,
}  # fmt: skip


def make_text_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """The untrained text encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=32, d_ff=2 * TEXT_WIDTH,
            num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", is_encoder_decoder=False,
            dropout_rate=0.0,
        )
    )  # fmt: skip


def make_small_unet(width: int) -> UNet2DConditionModel:
    """The untrained network of stage I; attention at the two lower levels."""
    return _make_unet(
        width, sample_size=SMALL_PX, in_channels=3, layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 2),
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
    )  # fmt: skip


def make_large_unet(width: int) -> UNet2DConditionModel:
    """The untrained network of stage II; attention at the lowest level alone."""
    return _make_unet(
        width, sample_size=LARGE_PX, in_channels=6, layers_per_block=1,
        class_embed_type="timestep",
        down_block_types=(*["ResnetDownsampleBlock2D"] * 2, "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", *["ResnetUpsampleBlock2D"] * 2),
    )  # fmt: skip


def _make_unet(width: int, **config: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        # IF's predict a variance, too, which nothing here trains or uses.
        out_channels=6, norm_num_groups=8, act_fn="gelu", resnet_time_scale_shift="scale_shift",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", attention_head_dim=width,
        block_out_channels=(width, 2 * width, 3 * width),
        encoder_hid_dim=TEXT_WIDTH, cross_attention_dim=TEXT_WIDTH,
        cross_attention_norm="group_norm", addition_embed_type="text",
        addition_embed_type_num_heads=4, **config,
    )  # fmt: skip


def make_schedule(**options: object) -> DDPMScheduler:
    """IF's schedule of noise, and how it keeps clean pixels in range."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", beta_start=0.0001, beta_end=0.02, thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5, **options,
    )  # fmt: skip


@dataclass(frozen=True)
class Cascade:
    """The networks of both stages, in fp32."""

    tokenizer: T5Tokenizer
    text_encoder: T5EncoderModel
    small: UNet2DConditionModel
    large: UNet2DConditionModel

    @cached_property
    def schedule(self) -> DDPMScheduler:
        """1,000 times from an image to noise."""
        return make_schedule()

    def read(self, texts: list[str]) -> Tensor:
        """States of the text encoder (n, 77, d), as the pipeline has them."""
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=N_TOKENS, truncation=True, return_tensors="pt"
        )
        states: Tensor = self.text_encoder(tokens.input_ids, tokens.attention_mask)[0]
        return states

    def find_small_error(self, clean: Tensor, states: Tensor, noise: torch.Generator) -> Tensor:
        """Squared errors (n, 3, 32, 32) of the noise that stage I finds in images."""
        eps = torch.randn(clean.shape, generator=noise)
        times = draw_times(len(clean), noise)
        noisy = self.schedule.add_noise(clean, eps, times)
        found = self.small(noisy, times, encoder_hidden_states=states).sample
        return (found[:, :3] - eps).square()

    def find_large_error(
        self, clean: Tensor, small: Tensor, states: Tensor, noise: torch.Generator
    ) -> Tensor:
        """Squared errors (n, 3, 64, 64) of the noise that stage II finds, shown small images."""
        eps, eps_shown = (torch.randn(clean.shape, generator=noise) for _ in range(2))
        times = draw_times(len(clean), noise)
        levels = torch.randint(0, MAX_NOISE_LEVEL, (len(clean),), generator=noise)
        noisy = self.schedule.add_noise(clean, eps, times)
        # As the pipeline enlarges it.
        shown = F.interpolate(small, clean.shape[-2:], mode="bilinear", align_corners=True)
        shown = self.schedule.add_noise(shown, eps_shown, levels)
        found = self.large(
            torch.cat([noisy, shown], dim=1), times, encoder_hidden_states=states,
            class_labels=levels,
        ).sample  # fmt: skip
        return (found[:, :3] - eps).square()

    def save(self, folder: Path) -> None:
        """Writes the folder of both stages, weights in fp16."""
        parts = (self.text_encoder, self.small, self.large)
        text_encoder, small, large = (copy.deepcopy(part).half() for part in parts)
        noise = make_schedule(variance_type="learned_range")
        IFPipeline(
            tokenizer=self.tokenizer, text_encoder=text_encoder, unet=small, scheduler=noise,
            **WITHOUT,
        ).save_pretrained(folder)  # fmt: skip
        IFSuperResolutionPipeline(
            tokenizer=None, text_encoder=None, unet=large, scheduler=noise,
            image_noising_scheduler=make_schedule(), **WITHOUT,
        ).save_pretrained(folder / UPSCALER_DIR)  # fmt: skip


def make_cascade(*, small: int = 24, large: int = 16) -> Cascade:
    """The untrained networks; `small` and `large` are the widths of their first levels."""
    torch.manual_seed(0)
    tokenizer = make_t5_tokenizer()
    found = Cascade(
        tokenizer, make_text_encoder(tokenizer), make_small_unet(small), make_large_unet(large)
    )
    for unet in (found.small, found.large):
        unet.to(memory_format=torch.channels_last)
    return found


def shrink(images: NDArray[np.uint8]) -> Tensor:
    """Images (n, h, w, 3) at 32 px as pixels (n, 3, 32, 32) from -1 to 1, as training has them."""
    size = (SMALL_PX, SMALL_PX)
    small = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in images]
    return to_pixels(np.stack([np.asarray(image) for image in small]))


def compute_loss(
    cascade: Cascade, stage: str, data: WorldSet, batch_size: int, rng: np.random.Generator,
    noise: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """Mean error of a batch in one of the stages, and that of the subject alone."""
    rows = np.sort(rng.choice(len(data), batch_size, replace=False))
    texts = draw_captions(data, rows, rng)
    images = data.images[rows]
    small = shrink(images).contiguous(memory_format=torch.channels_last)
    if stage == "small":
        errors = cascade.find_small_error(small, cascade.read(texts), noise)
    else:
        with torch.no_grad():
            states = cascade.read(texts)
        errors = cascade.find_large_error(to_pixels(images), small, states, noise)
    return weigh_subject(errors.mean(1, keepdim=True), data.masks[rows])


def draw_sheet(folder: Path, path: Path) -> None:
    """Generates each class in four scenes."""
    model = find_base_model(f"mini-pixel={folder}")
    loaded = load_base_model(model, model.choose_sampler(load_protocol("mini").sampler))
    rows = [
        loaded.sample([f"a {name} {scene}" for name in CLASSES], range(len(CLASSES)))
        for scene in SHEET_SCENES
    ]
    save_sheet(rows, path)


def load_small(cascade: Cascade, folder: Path) -> None:
    """Give a cascade the text encoder and the network of stage I that `folder` has."""
    trained = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **WITHOUT)
    cascade.text_encoder.load_state_dict(trained.text_encoder.state_dict())
    cascade.small.load_state_dict(trained.unet.state_dict())


def load_large(cascade: Cascade, folder: Path) -> None:
    """Give a cascade the network of stage II that `folder` has."""
    trained = UNet2DConditionModel.from_pretrained(folder / UPSCALER_DIR, subfolder="unet")
    cascade.large.load_state_dict(trained.state_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("small", "large"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, default=12000, help="in all; the rate falls at the end"
    )
    parser.add_argument("--hours", type=float, default=math.inf, help="stop then, to go on later")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="folder of a cascade to go on from")
    parser.add_argument("--show-every", type=int, default=1000, help="steps between sheets")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, cascade, folder = WorldSet(args.data / "train"), make_cascade(), args.out / "mini-pixel"
    if args.start:
        load_small(cascade, args.start)
        load_large(cascade, args.start)
    trained: nn.Module = cascade.large
    if args.stage == "small":
        trained = nn.ModuleDict({"unet": cascade.small, "text_encoder": cascade.text_encoder})
    elif not args.start:
        load_small(cascade, folder)

    def show(step: int) -> None:
        cascade.save(folder)
        draw_sheet(folder, args.out / args.stage / "samples" / f"{step:06d}.png")

    train(
        trained,
        lambda rng, noise: compute_loss(cascade, args.stage, data, args.batch_size, rng, noise),
        out_dir=args.out / args.stage,
        seed=13 if args.stage == "small" else 14,
        n_steps=args.steps,
        learning_rate=args.learning_rate,
        schedule=hold_then_fall,
        checkpoint_every=100,
        n_seconds=3600 * args.hours,
        show=show,
        show_every=args.show_every,
    )
    cascade.save(folder)
    draw_sheet(folder, args.out / args.stage / "samples" / "last.png")


if __name__ == "__main__":
    main()
