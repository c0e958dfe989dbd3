"""CLIP's role: two towers, of images and of texts, that open_clip builds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreambench.encoders.base import Encoder
from dreambench.encoders.spec import EncoderSpec
from dreambench.encoders.weights import fill_network, quietly, read_weights, to_open_clip
from dreambench.errors import UserError

TEXT_STEP = 8
N_SIGLIP_PLACES = 64


class ImageTextEncoder(Encoder):
    """Both towers' projections (Radford et al., ICML 2021, section 2).

    Its own path through the text tower stays, since open_clip's `encode_text` gives other last bits
    for more than half of all texts, and those are what scores were made with: here texts are cut
    behind their end token, which no token before it sees.
    """

    roles: ClassVar[tuple[str, ...]] = ("clip",)
    spec: EncoderSpec

    def load(self, device: torch.device) -> Any:
        """See `Encoder`."""
        import open_clip  # noqa: PLC0415  (slow import)

        weights = self.spec.find_weights()
        with quietly():
            if weights.is_dir():
                model = open_clip.create_model(f"local-dir:{weights}", load_weights=False)
                weights = weights / "open_clip_model.safetensors"
            else:
                model = open_clip.create_model(self.spec.architecture)
        fill_network(self.spec, weights, model, to_open_clip(read_weights(weights)))
        if self.spec.activation == "gelu-tanh":
            for layer in model.modules():
                if isinstance(layer, nn.GELU):
                    layer.approximate = "tanh"
        return model

    @functools.cached_property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """From a list of texts to token ids, (n, places)."""
        import open_clip  # noqa: PLC0415  (slow import)

        weights = self.spec.find_weights()
        if weights.is_dir():
            return open_clip.get_tokenizer(f"local-dir:{weights}")
        if self.spec.tokenizer_file:
            return _load_sentencepiece(weights.with_name(self.spec.tokenizer_file))
        return open_clip.get_tokenizer(self.spec.architecture)

    def forward(self, batch: Tensor) -> Tensor:
        """See `Encoder`."""
        return self.model.encode_image(batch)

    def forward_texts(self, texts: Sequence[str]) -> Tensor:
        """See `Encoder`; texts of one group of `group_texts`."""
        model, tokens = self.model, self._tokenize(texts)
        if not self._reads_forward:
            return model.encode_text(tokens)
        # As open_clip's own, without the padding behind the end token.
        length = self._text_lengths(tokens)[0]
        states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
        states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
        ends = tokens.argmax(-1)
        row = model.ln_final(states)[torch.arange(len(tokens), device=tokens.device), ends]
        projection = model.text_projection
        return projection(row) if isinstance(projection, nn.Linear) else row @ projection

    def group_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the indices of the texts by rounded length: what is cut alike shares a batch."""
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(self._text_lengths(self._tokenize(texts))):
            groups.setdefault(length, []).append(index)
        return list(groups.values())

    def _tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.tokenizer(list(texts)).to(self.device)

    @property
    def _reads_forward(self) -> bool:
        """Whether no token sees what comes after it, and the end token is the text's row."""
        is_causal = getattr(self.model, "attn_mask", None) is not None
        return is_causal and getattr(self.model, "text_pool_type", "") == "argmax"

    def _text_lengths(self, tokens: Tensor) -> list[int]:
        """Return how many tokens of each text have a part in its row, rounded up."""
        n_all = tokens.shape[1]
        if not self._reads_forward:
            return [n_all] * len(tokens)
        ends = tokens.argmax(-1).tolist()
        return [min(n_all, -(-(end + 1) // TEXT_STEP) * TEXT_STEP) for end in ends]


def _load_sentencepiece(path: Path) -> Callable[[list[str]], Tensor]:
    """Return SigLIP's tokenizer: lower case, no punctuation, filled up with the end token.

    Its own, for open_clip has this tokenizer for a hub's model alone and not for a file.
    """
    from open_clip.tokenizer import get_clean_fn  # noqa: PLC0415  (slow import)
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415

    clean = get_clean_fn("canonicalize")
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a valid SentencePiece model",
            hint="download it again from its source",
            code="unreadable-file",
        ) from error

    def tokenize(texts: list[str]) -> Tensor:
        end = pieces.eos_id()
        rows = [pieces.encode(clean(text))[: N_SIGLIP_PLACES - 1] for text in texts]
        return torch.tensor([row + [end] * (N_SIGLIP_PLACES - len(row)) for row in rows])

    return tokenize
