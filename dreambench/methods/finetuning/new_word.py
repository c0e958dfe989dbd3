"""A new word in a base model's vocabulary: its vectors are trained, all other words' stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import embedding

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.encodings import TextEncoder
from dreambench.base_models.weights import load_trained
from dreambench.storage.files import write_bytes


class Vocabulary(nn.Module):
    """An embedding table of which only the last rows are trained."""

    def __init__(self, table: nn.Embedding, n_new: int) -> None:
        super().__init__()
        self.table = table
        self.n_old = table.num_embeddings - n_new
        self.vectors = nn.Parameter(table.weight[self.n_old :].detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors (..., d) of token ids."""
        # The gradient of indexing adds up in whatever order threads come; this one in a fixed one.
        new = embedding((ids - self.n_old).clamp(min=0), self.vectors)
        return torch.where((ids >= self.n_old)[..., None], new, self.table(ids))


@dataclass(frozen=True)
class _Place:
    """Where the word stands in one text encoder."""

    encoder: TextEncoder
    rows: list[int]

    @property
    def vectors(self) -> Tensor:
        """The word's vectors (n, d), those being trained where it is being learned."""
        table = self.encoder.network.get_input_embeddings()
        return table.vectors if isinstance(table, Vocabulary) else table.weight[self.rows]

    @property
    def table(self) -> nn.Embedding:
        table: nn.Embedding = self.encoder.network.get_input_embeddings()
        return table


class NewWord:
    """A word of one or more vectors in each text encoder of a base model.

    With `others` further words, of one vector each, that are trained and saved with it.

    Saved as `learned_embeds.safetensors`, which `pipeline.load_textual_inversion` reads, and
    `learned_embeds_2.safetensors` for a second text encoder (`places` has a key for each suffix).
    """

    def __init__(
        self, model: LoadedModel, word: str, *, n_vectors: int = 1, others: Sequence[str] = ()
    ) -> None:
        self.word = word
        self.others = list(others)
        self.places: dict[str, _Place] = {}
        # diffusers reads the word in a prompt as all of these in a row.
        words = [word, *(f"{word}_{index}" for index in range(1, n_vectors)), *others]
        for suffix, encoder in model.text_encoders.items():
            tokenizer = encoder.tokenizer
            tokenizer.add_tokens([name for name in words if name not in tokenizer.get_vocab()])
            encoder.network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            encoder.network.requires_grad_(False)
            self.places[suffix] = _Place(encoder, tokenizer.convert_tokens_to_ids(words))

    def find_vectors(self, text: str) -> dict[str, Tensor]:
        """Return a text's own vectors, repeated or cut to as many as the word's: (n_vectors, d)."""
        found = {}
        for suffix, place in self.places.items():
            ids = place.encoder.tokenizer(text, add_special_tokens=False).input_ids
            chosen = [ids[index % len(ids)] for index in range(len(place.rows))]
            found[suffix] = place.table.weight[chosen].detach().clone()
        return found

    @torch.no_grad()
    def put(self, vectors: dict[str, Tensor]) -> None:
        """Make these the word's vectors."""
        for suffix, place in self.places.items():
            weight = place.table.weight
            weight[place.rows] = vectors[suffix].to(weight)

    @contextmanager
    def learning(self) -> Iterator[list[nn.Module]]:
        """Yield modules whose only parameters with gradients are the word's vectors, then kept."""
        tables = {suffix: place.table for suffix, place in self.places.items()}
        learned = {
            suffix: Vocabulary(table, len(self.places[suffix].rows))
            for suffix, table in tables.items()
        }
        for suffix, place in self.places.items():
            place.encoder.network.set_input_embeddings(learned[suffix])
        try:
            yield list(learned.values())
        finally:
            for suffix, place in self.places.items():
                place.encoder.network.set_input_embeddings(tables[suffix])
        self.put({suffix: vocabulary.vectors for suffix, vocabulary in learned.items()})

    def save(self, out_dir: Path) -> None:
        """Write the word's vectors."""
        for suffix, place in self.places.items():
            vectors = place.vectors.detach().cpu().contiguous()
            content = save(self._name_rows(vectors), metadata={"format": "pt"})
            write_bytes(out_dir / f"learned_embeds{suffix}.safetensors", content)

    def load(self, out_dir: Path) -> None:
        """Put saved vectors into the vocabulary.

        Raises:
            UserError: the files do not hold exactly the word's vectors.
        """
        found = {}
        for suffix, place in self.places.items():
            file = out_dir / f"learned_embeds{suffix}.safetensors"
            own = self._name_rows(place.vectors)
            state = load_trained(file, own, part="the new word")
            found[suffix] = torch.cat([state[name] for name in own])
        self.put(found)

    def _name_rows(self, vectors: Tensor) -> dict[str, Tensor]:
        """Return the vectors (n, d) of each word, by its name."""
        n_first = len(vectors) - len(self.others)
        parts = vectors.split([n_first, *(1 for _ in self.others)])
        return dict(zip([self.word, *self.others], parts, strict=True))
