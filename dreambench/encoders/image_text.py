"""CLIP's role: two towers, of images and of texts, that open_clip builds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreambench.artifacts.long_texts import TextReader
from dreambench.encoders.base import Encoder
from dreambench.encoders.spec import AnyEncoderSpec, EncoderSpec
from dreambench.encoders.weights import building, fill_network, read_weights, to_open_clip
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
        with building():
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
        self.spec.find_weights()
        found: Callable[[list[str]], Tensor] = _load_tokenizer(self.spec)
        return found

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


def _load_tokenizer(spec: EncoderSpec) -> Any:
    """Return an encoder's tokenizer; the weights need not be here unless it lies next to them."""
    import open_clip  # noqa: PLC0415  (slow import)

    if spec.tokenizer_file:
        return _load_sentencepiece(spec.find_weights().with_name(spec.tokenizer_file))
    weights = spec.find_local()
    if weights is not None and weights.is_dir():
        return open_clip.get_tokenizer(f"local-dir:{weights}")
    return open_clip.get_tokenizer(spec.architecture)


def make_text_reader(spec: AnyEncoderSpec) -> TextReader | None:
    """Return how much an encoder reads of a text; None where that is not known.

    So it is for code from outside, and where a tokenizer is not on this machine.
    """
    if not isinstance(spec, EncoderSpec) or spec.library != "open_clip":
        return None
    try:
        tokenizer = _load_tokenizer(spec)
    except (UserError, OSError):
        return None
    inner = getattr(tokenizer, "tokenizer", None)

    def count(text: str) -> int:
        if inner is not None:
            return len(inner(tokenizer.clean_fn(text), verbose=False).input_ids)
        return len(tokenizer.encode(text)) + 2

    if not hasattr(tokenizer, "context_length"):
        return TextReader(spec.name, N_SIGLIP_PLACES, tokenizer.count)
    return TextReader(spec.name, tokenizer.context_length, count)


def _load_sentencepiece(path: Path) -> _SentencePieces:
    """Return SigLIP's tokenizer: lower case, no punctuation, filled up with the end token.

    Its own, for open_clip has this tokenizer for a hub's model alone and not for a file.
    """
    from open_clip.tokenizer import get_clean_fn  # noqa: PLC0415  (slow import)
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415

    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a valid SentencePiece model",
            hint="download it again from its source",
            code="unreadable-file",
        ) from error

    return _SentencePieces(pieces, get_clean_fn("canonicalize"))


class _SentencePieces:
    """Turns texts into token ids, and counts them with their one end token."""

    def __init__(self, pieces: Any, clean: Callable[[str], str]) -> None:
        self.pieces, self.clean = pieces, clean

    def __call__(self, texts: list[str]) -> Tensor:
        end = self.pieces.eos_id()
        rows = [self.pieces.encode(self.clean(text))[: N_SIGLIP_PLACES - 1] for text in texts]
        return torch.tensor([row + [end] * (N_SIGLIP_PLACES - len(row)) for row in rows])

    def count(self, text: str) -> int:
        return len(self.pieces.encode(self.clean(text))) + 1
