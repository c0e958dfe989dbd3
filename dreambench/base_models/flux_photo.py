"""A photo in FLUX.1's sequence, as OminiControl puts it there (Tan et al., ICCV 2025, 2411.15098).

Tokens of a photo stand after those of text and image, and all attend to all. They are clean, so
that they are told the time 0; they stand at places of their own, beside the image's; and they alone
go through a low-rank adapter, while text and image go through the base model's layers as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dreambench.base_models.flux import TRAINING_GUIDANCE, Flux
from dreambench.base_models.weights import check_state, read_trained

ADAPTED = (
    r"x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)"
)
"""Layers that a photo's tokens go through, where the authors' adapters are."""
ENDS = ("lora_A.weight", "lora_B.weight")


@dataclass(frozen=True)
class _Part:
    """Tokens (n, length, d) of text, image or photo.

    `time` (n, d) is what they are told of their time, `angles` are those of their places.
    """

    tokens: Tensor
    time: Tensor
    angles: tuple[Tensor, Tensor]
    is_text: bool = False
    is_photo: bool = False


@dataclass(frozen=True)
class _Photo:
    """A photo's tokens (1, length, 4 c), their places (length, 3), and how much they count."""

    tokens: Tensor
    places: Tensor
    weight: float


class PhotoAdapter:
    """Generates with FLUX.1 from prompts and a photo; the base model itself stays as it is."""

    def __init__(self, model: Flux, file: Path) -> None:
        self.model = model
        self._factors = self._read(file)

    def _read(self, file: Path) -> Mapping[nn.Module, tuple[Tensor, Tensor]]:
        """Return the adapter's two factors of each layer that it has any for.

        Raises:
            UserError: the file is damaged, or not of an adapter for whole kinds of these layers.
        """
        state = read_trained(file)
        layers = {
            name: layer
            for name, layer in self.model.pipeline.transformer.named_modules()
            if re.fullmatch(ADAPTED, name)
        }
        named = {key.removeprefix("transformer.").removesuffix(f".{ENDS[0]}") for key in state}
        kinds = {re.sub(r"\d+", "", name) for name in named & layers.keys()}
        rank = next((len(value) for key, value in state.items() if key.endswith(ENDS[0])), 0)
        own = {}
        for name, layer in layers.items():
            if re.sub(r"\d+", "", name) in kinds or not kinds:
                shapes = ((rank, layer.in_features), (layer.out_features, rank))
                for end, shape in zip(ENDS, shapes, strict=True):
                    own[f"transformer.{name}.{end}"] = torch.empty(shape, device="meta")
        check_state(
            own, state, where=str(file), part="the photo adapter",
            hint="download the adapter again", harmless="",
        )  # fmt: skip
        found = {}
        for name, layer in layers.items():
            keys = [f"transformer.{name}.{end}" for end in ENDS]
            if keys[0] in state:
                down, up = (state[key].to(self.model.device) for key in keys)
                found[layer] = (down, up)
        return found

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        photo: Image.Image,
        shift: Sequence[int],
        weight: float,
    ) -> list[Image.Image]:
        """Return one image a prompt, shown a photo at the image's size.

        `shift` is how many tokens down and right of the image's own places the photo stands, and
        `weight` how much others attend to it: 1 as the adapter was trained, 0 not at all.
        """
        encoded = self.model.encode_images([photo]).means()
        _, _, height, width = encoded.shape
        places = self.model.pipeline._prepare_latent_image_ids(
            1, height // 2, width // 2, self.model.device, torch.float32
        )
        places = places + places.new_tensor([0, *shift])
        with self._shown(_Photo(self.model.pack(encoded), places, weight)):
            return self.model.sample(prompts, seeds)

    @contextmanager
    def _shown(self, photo: _Photo) -> Iterator[None]:
        """Let the transformer see a photo; hooks on it stay where they are."""
        transformer = self.model.pipeline.transformer
        transformer.forward = partial(self._predict, photo)
        try:
            yield
        finally:
            del transformer.forward

    def _predict(
        self,
        photo: _Photo,
        *,
        hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None,
        pooled_projections: Tensor,
        encoder_hidden_states: Tensor,
        txt_ids: Tensor,
        img_ids: Tensor,
        **_: Any,
    ) -> tuple[Tensor]:
        """Stand in for the transformer's `forward`, which the pipeline calls with these."""
        network = self.model.pipeline.transformer
        n_rows, dtype = len(hidden_states), hidden_states.dtype

        def tell_time(times: Tensor, guidance: Tensor | None) -> Tensor:
            told = [times.to(dtype) * 1000]
            told += [] if guidance is None else [guidance.to(dtype) * 1000]
            found: Tensor = network.time_text_embed(*told, pooled_projections)
            return found

        now = tell_time(timestep, guidance)
        clean = tell_time(
            torch.zeros_like(timestep),
            None if guidance is None else torch.full_like(guidance, TRAINING_GUIDANCE),
        )
        text = _Part(
            network.context_embedder(encoder_hidden_states), now, network.pos_embed(txt_ids),
            is_text=True,
        )  # fmt: skip
        image = _Part(network.x_embedder(hidden_states), now, network.pos_embed(img_ids))
        shown = photo.tokens.to(dtype).expand(n_rows, -1, -1)
        beside = _Part(shown, clean, network.pos_embed(photo.places), is_photo=True)
        beside = replace(beside, tokens=self._pass(network.x_embedder, shown, beside))
        parts = [text, image, beside]
        bias = _weigh([part.tokens.shape[1] for part in parts], photo.weight, like=hidden_states)
        for block in network.transformer_blocks:
            parts = self._pass_double(block, parts, bias)
        for block in network.single_transformer_blocks:
            parts = self._pass_single(block, parts, bias)
        return (network.proj_out(network.norm_out(parts[1].tokens, now)),)

    def _pass(self, layer: Any, inputs: Tensor, part: _Part) -> Tensor:
        """Return what a layer makes of a part's inputs, with the adapter for a photo's."""
        found: Tensor = layer(inputs)
        if part.is_photo and layer in self._factors:
            down, up = (factor.to(inputs.dtype) for factor in self._factors[layer])
            found = found + F.linear(F.linear(inputs, down), up)
        return found

    def _modulate(self, norm: Any, part: _Part, n: int) -> tuple[Tensor, list[Tensor]]:
        """Return a part's tokens, normed and modulated by its time, and n - 2 further factors."""
        made = self._pass(norm.linear, norm.silu(part.time), part)
        shift, scale, *others = (one[:, None] for one in made.chunk(n, dim=1))
        return norm.norm(part.tokens) * (1 + scale) + shift, others

    def _attend(
        self, attention: Any, parts: Sequence[_Part], inputs: Sequence[Tensor], bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return what each part's queries find among the keys of all parts (n, length, d)."""
        from diffusers.models.embeddings import apply_rotary_emb  # noqa: PLC0415  (slow import)

        kinds: list[list[Tensor]] = [[], [], []]
        for part, given in zip(parts, inputs, strict=True):
            # In blocks of the second kind, text goes through the image's layers.
            is_apart = part.is_text and attention.added_kv_proj_dim is not None
            names = ("to_q", "to_k", "to_v")
            norms = ("norm_q", "norm_k")
            if is_apart:
                names = ("add_q_proj", "add_k_proj", "add_v_proj")
                norms = ("norm_added_q", "norm_added_k")
            made = [self._pass(getattr(attention, name), given, part) for name in names]
            made = [one.unflatten(-1, (-1, attention.head_dim)) for one in made]
            for place, norm in enumerate(norms):
                normed = getattr(attention, norm)(made[place])
                made[place] = apply_rotary_emb(normed, part.angles, sequence_dim=1)
            for kind, one in zip(kinds, made, strict=True):
                kind.append(one)
        queries, keys, values = (torch.cat(kind, dim=1).transpose(1, 2) for kind in kinds)
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        found = found.transpose(1, 2).flatten(2)
        return found.split([one.shape[1] for one in inputs], dim=1)

    def _pass_double(self, block: Any, parts: Sequence[_Part], bias: Tensor | None) -> list[_Part]:
        """Return the parts after a block in which text has layers of its own."""
        made = [
            self._modulate(block.norm1_context if part.is_text else block.norm1, part, 6)
            for part in parts
        ]
        attended = self._attend(block.attn, parts, [inputs for inputs, _ in made], bias)
        found = []
        for part, seen, (_, (gate, shift, scale, last_gate)) in zip(
            parts, attended, made, strict=True
        ):
            out, norm, forward = block.attn.to_out[0], block.norm2, block.ff
            if part.is_text:
                out, norm, forward = block.attn.to_add_out, block.norm2_context, block.ff_context
            tokens = part.tokens + gate * self._pass(out, seen, part)
            hidden = forward.net[0](norm(tokens) * (1 + scale) + shift)
            tokens = tokens + last_gate * self._pass(forward.net[2], hidden, part)
            found.append(replace(part, tokens=tokens))
        return found

    def _pass_single(self, block: Any, parts: Sequence[_Part], bias: Tensor | None) -> list[_Part]:
        """Return the parts after a block whose layers all of them go through."""
        made = [self._modulate(block.norm, part, 3) for part in parts]
        attended = self._attend(block.attn, parts, [inputs for inputs, _ in made], bias)
        found = []
        for part, seen, (inputs, (gate,)) in zip(parts, attended, made, strict=True):
            hidden = block.act_mlp(self._pass(block.proj_mlp, inputs, part))
            joined = self._pass(block.proj_out, torch.cat([seen, hidden], dim=2), part)
            found.append(replace(part, tokens=part.tokens + gate * joined))
        return found


def _weigh(lengths: Sequence[int], weight: float, *, like: Tensor) -> Tensor | None:
    """Return what attention between the last part and the others has on top (length, length).

    That is the logarithm of a photo's weight, both ways, as in the paper; None for 1.
    """
    if weight == 1:
        return None
    whole, n_photo = sum(lengths), lengths[-1]
    bias = like.new_zeros(whole, whole)
    level = math.log(weight) if weight else -math.inf
    bias[-n_photo:, :-n_photo] = level
    bias[:-n_photo, -n_photo:] = level
    return bias
