r"""Trains `mini-flow`: a flow transformer that reads text, photos and its image in one sequence.

    python -m dreambench.mini.training.flow_model --data DIR --out DIR --hours 2 --threads 1

Called again with the same folders, it resumes. README.md says what that takes and yields.

The folder is of FLUX.2 [klein]'s shape: `Flux2KleinPipeline` loads it. Of diffusers' in-context
pipelines it wastes least on 64 px: it shows several photos at their own size and guides by a second
call. FLUX.1 Kontext's takes one photo and enlarges it to a megapixel, Qwen-Image-Edit's reads
photos with a vision model besides, and OmniGen's names them in the text.

- Latents: mini's autoencoder, whose weights are copied (reduction 4, 8 channels), so 16 x 16
  places. A token is a square of 2 x 2: 64 of 32 numbers for the image, and 64 for each photo.
- Text: 32 tokens of a causal language model of 3 layers, width 128, trained with the rest; its
  layers side by side, as the pipeline has them. The pipeline's defaults (512 tokens, layers 9, 18
  and 27) are the large model's: a caller passes `MiniFlow.text_options`.
- Transformer: width 256, 8 heads, 2 blocks with layers apart for text and 8 without: 11.6 million
  parameters, 23 MB in fp16. With autoencoder (1.5 M) and language model (0.8 M) 28 MB.

A token passes 10 blocks of 13 width^2 weights and attends to T tokens: 10 (26 width^2 + 4 T width)
FLOP forward, and twice that back, which is 56 million at T = 160. A batch of 16 (6 without photo, 7
with one, 3 with two) has 2,368 tokens: 133 GFLOP.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.training_utils import compute_density_for_timestep_sampling
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.flux2 import MiniFlow
from dreambench.mini.training.autoencoder import LAYERS
from dreambench.mini.training.base_model import draw_captions, load_latents, weigh_subject
from dreambench.mini.training.data import SHOTS_PER_IDENTITY, WorldSet, find_photos
from dreambench.mini.training.flow_quality import draw_sheet
from dreambench.mini.training.loop import hold_then_fall, train
from dreambench.mini.training.tokenizer import make_language_tokenizer

WIDTH, HEAD_WIDTH, N_DOUBLE, N_SINGLE = 256, 32, 2, 8
TEXT_WIDTH, N_TEXT_LAYERS = 128, 3
SHARES = (6, 7, 3)
"""Of 16 images, how many are learned without a photo, with one, and with two."""


def make_transformer(
    *, width: int = WIDTH, n_double: int = N_DOUBLE, n_single: int = N_SINGLE
) -> Flux2Transformer2DModel:
    """The untrained transformer. It begins as the identity of its residual stream, at zero flow."""
    model = Flux2Transformer2DModel(
        in_channels=4 * LAYERS["latent_channels"],
        num_layers=n_double,
        num_single_layers=n_single,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=width // HEAD_WIDTH,
        joint_attention_dim=N_TEXT_LAYERS * TEXT_WIDTH,
        axes_dims_rope=(HEAD_WIDTH // 4,) * 4,
        guidance_embeds=False,
    )
    modulations = [layer for name, layer in model.named_modules() if "modulation" in name]
    for layer in [*modulations, model.norm_out, model]:
        for zeroed in (getattr(layer, "linear", None), getattr(layer, "proj_out", None)):
            if zeroed is not None:
                nn.init.zeros_(zeroed.weight)
    return model


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """The untrained language model."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=N_TEXT_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=TEXT_WIDTH // 4,
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_autoencoder(vae: AutoencoderKL, latents: NDArray[np.float16]) -> AutoencoderKLFlux2:
    """Mini's autoencoder as the pipeline wants it, with the statistics of some `latents`."""
    found = AutoencoderKLFlux2(**LAYERS)
    found.load_state_dict({**found.state_dict(), **vae.state_dict()})
    places = cut_patches(latents) / vae.config.scaling_factor
    # Rounded as they are saved, so that training and pipeline have the same.
    found.bn.running_mean.copy_(places.mean((0, 2, 3)).half())
    found.bn.running_var.copy_(places.var((0, 2, 3)).half())
    return found


def cut_patches(latents: NDArray[np.float16]) -> Tensor:
    """Latents (n, c, h, w) as squares of 2 x 2 places, (n, 4 c, h / 2, w / 2)."""
    return F.pixel_unshuffle(torch.from_numpy(np.asarray(latents, np.float32)), 2)


@dataclass(frozen=True)
class Flow:
    """The networks that are trained, and what prepares their inputs; in fp32.

    `scale` is what the cached latents are multiplied with, which the pipeline's are not.
    """

    transformer: Flux2Transformer2DModel
    text_encoder: Qwen3ForCausalLM
    tokenizer: Qwen2Tokenizer
    vae: AutoencoderKLFlux2
    scale: float

    @cached_property
    def schedule(self) -> FlowMatchEulerDiscreteScheduler:
        """1,000 times from noise to image, in equal steps."""
        return FlowMatchEulerDiscreteScheduler()

    def trained(self) -> nn.ModuleDict:
        """The networks that are trained, with the statistics that a checkpoint has to keep."""
        return nn.ModuleDict(
            {
                "transformer": self.transformer, "text_encoder": self.text_encoder,
                "statistics": self.vae.bn,
            }
        )  # fmt: skip

    def normalize(self, latents: NDArray[np.float16]) -> Tensor:
        """Cached latents (n, c, h, w) as the transformer sees them (n, 4 c, h / 2, w / 2)."""
        bn = self.vae.bn
        middle = bn.running_mean.view(1, -1, 1, 1)
        spread = torch.sqrt(bn.running_var.view(1, -1, 1, 1) + self.vae.config.batch_norm_eps)
        return (cut_patches(latents) / self.scale - middle) / spread

    def read(self, texts: Sequence[str]) -> Tensor:
        """States of the language model (n, length, d), as the pipeline has them."""
        states: Tensor = Flux2KleinPipeline._get_qwen3_prompt_embeds(
            self.text_encoder, self.tokenizer, list(texts),
            max_sequence_length=MiniFlow.text_options["max_sequence_length"],
            hidden_states_layers=MiniFlow.text_options["text_encoder_out_layers"],
        )  # fmt: skip
        return states

    def squared_errors(
        self, clean: Tensor, photos: Sequence[Tensor], states: Tensor, noise: torch.Generator
    ) -> Tensor:
        """Squared errors (n, c, h, w) of the flow that is predicted for noisy images.

        `clean` and each of `photos` are (n, 4 c, h / 2, w / 2), `photos` in the order of showing.
        Times are logit-normal (Esser et al., ICML 2024, section 3.1), as diffusers draws them.
        """
        n_rows, _, height, width = clean.shape
        eps = torch.randn(clean.shape, generator=noise)
        share = compute_density_for_timestep_sampling(
            "logit_normal", n_rows, logit_mean=0.0, logit_std=1.0, generator=noise
        )
        steps = (share * self.schedule.config.num_train_timesteps).long()
        sigmas = self.schedule.sigmas[steps].view(n_rows, 1, 1, 1)
        noisy = (1 - sigmas) * clean + sigmas * eps
        tokens = [Flux2KleinPipeline._pack_latents(one) for one in (noisy, *photos)]
        places = Flux2KleinPipeline._prepare_latent_ids(noisy)
        if photos:
            beside = Flux2KleinPipeline._prepare_image_ids([one[:1] for one in photos])
            places = torch.cat([places, beside.expand(n_rows, -1, -1)], dim=1)
        (found,) = self.transformer(
            hidden_states=torch.cat(tokens, dim=1),
            timestep=self.schedule.timesteps[steps] / 1000,
            encoder_hidden_states=states,
            txt_ids=Flux2KleinPipeline._prepare_text_ids(states),
            img_ids=places,
            return_dict=False,
        )
        flow = found[:, : height * width].transpose(1, 2).unflatten(2, (height, width))
        return (F.pixel_shuffle(flow, 2) - F.pixel_shuffle(eps - clean, 2)).square()

    def save(self, folder: Path) -> None:
        """Writes the diffusers folder, weights in fp16."""
        parts = (self.vae, self.text_encoder, self.transformer)
        vae, text_encoder, transformer = (copy.deepcopy(part).half() for part in parts)
        Flux2KleinPipeline(
            scheduler=self.schedule, vae=vae, text_encoder=text_encoder,
            tokenizer=self.tokenizer, transformer=transformer,
        ).save_pretrained(folder)  # fmt: skip


def make_flow(vae: AutoencoderKL, latents: NDArray[np.float16], **sizes: int) -> Flow:
    """The untrained networks; `latents` are some that their statistics are taken of.

    `sizes` are those of `make_transformer`.
    """
    torch.manual_seed(0)
    tokenizer = make_language_tokenizer()
    return Flow(
        make_transformer(**sizes), make_text_encoder(tokenizer), tokenizer,
        make_autoencoder(vae, latents), vae.config.scaling_factor,
    )  # fmt: skip


class Examples:
    """Images to learn, each with up to two photos of the same individual, none of them itself."""

    def __init__(self, data: WorldSet, latents: NDArray[np.float16]) -> None:
        self.data, self.latents = data, latents
        photos = find_photos(data)
        self.others = []
        for row in range(len(data)):
            own = photos[row // SHOTS_PER_IDENTITY]
            self.others.append(own[own != row])
        n_others = np.array([len(rows) for rows in self.others])
        self.rows = [np.flatnonzero(n_others >= n) for n in range(len(SHARES))]

    def draw(
        self, n_rows: int, n_photos: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of images (n,), and of what they are shown (photos, n)."""
        rows = np.sort(rng.choice(self.rows[n_photos], n_rows, replace=False))
        shown = [rng.choice(self.others[row], n_photos, replace=False) for row in rows]
        return rows, np.array(shown, np.int64).reshape(n_rows, n_photos).T


def compute_loss(
    flow: Flow,
    examples: Examples,
    batch_size: int,
    rng: np.random.Generator,
    noise: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Mean error of a batch in the shares of `SHARES`, and how it is without and with photos.

    Captions are left out without photos and with them, since the pipeline's guidance goes away
    from no text and keeps the photos.
    """
    losses: list[Tensor] = []
    parts: dict[str, float] = {}
    for n_photos, share in enumerate(SHARES):
        n_rows = batch_size * share // sum(SHARES)
        rows, shown = examples.draw(n_rows, n_photos, rng)
        states = flow.read(draw_captions(examples.data, rows, rng))
        clean = flow.normalize(examples.latents[rows])
        photos = [flow.normalize(examples.latents[one]) for one in shown]
        errors = flow.squared_errors(clean, photos, states, noise).mean(1, keepdim=True)
        loss, found = weigh_subject(errors, examples.data.masks[rows])
        parts |= {f"{n_photos}": float(loss.detach()), f"subject-{n_photos}": found["subject"]}
        losses.append(loss * n_rows / batch_size)
    return torch.stack(losses).sum(), parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, default=16000, help="in all; the rate falls at the end"
    )
    parser.add_argument("--hours", type=float, default=math.inf, help="stop then, to go on later")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="a multiple of 16")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--show-every", type=int, default=1000, help="steps between sheets of samples"
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="for a machine without a compiler"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = WorldSet(args.data / "train")
    vae = AutoencoderKL.from_pretrained(BASE_MODELS["mini"].location, subfolder="vae").float()
    latents = load_latents(data, vae, args.data / "latents.npy")
    flow = make_flow(vae, latents[:: max(1, len(data) // 2000)])
    if not args.no_compile:
        for block in [
            *flow.transformer.transformer_blocks,
            *flow.transformer.single_transformer_blocks,
        ]:
            block.compile()
    examples, folder = Examples(data, latents), args.out / "mini-flow"

    def show(step: int) -> None:
        flow.save(folder)
        draw_sheet(folder, args.out / "samples" / f"{step:06d}.png")

    train(
        flow.trained(),
        lambda rng, noise: compute_loss(flow, examples, args.batch_size, rng, noise),
        out_dir=args.out,
        seed=12,
        n_steps=args.steps,
        learning_rate=args.learning_rate,
        ema_decay=0.9995,
        n_warmup_steps=100,
        schedule=hold_then_fall,
        checkpoint_every=100,
        log_every=20,
        n_seconds=3600 * args.hours,
        show=show,
        show_every=args.show_every,
    )
    flow.save(folder)
    draw_sheet(folder, args.out / "samples" / "last.png")


if __name__ == "__main__":
    main()
