"""The plan: recipe x protocol x subjects as units of work with derived seeds. No torch, no disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.config.slots import fill_slot, fill_subjects
from dreambench.datasets.subjects import Subject
from dreambench.storage.files import digest


@dataclass(frozen=True)
class TrainUnit:
    """Training on one subject."""

    subject: str
    seed: int


@dataclass(frozen=True)
class ImageUnit:
    """One image. `prompt` still has its slots; `clip_text` is what CLIP-T compares with.

    Units of one `batch` are generated together, so that an image has the same bits whether or not
    its run was interrupted.
    """

    subject: str
    prompt_id: str
    family: str
    k: int
    prompt: str
    clip_text: str
    seed: int
    batch: int

    @property
    def relative_path(self) -> str:
        """Path of the image inside a run folder."""
        return f"images/{self.subject}/{self.path_of_subject}"

    @property
    def path_of_subject(self) -> str:
        """Path of the image inside the folder of its subject's images."""
        return f"{self.prompt_id}/{self.k}.png"


@dataclass(frozen=True)
class Plan:
    """All the work of a run, in the order in which it is done."""

    train: tuple[TrainUnit, ...]
    images: tuple[ImageUnit, ...]

    @property
    def paths(self) -> list[str]:
        """Where each image lies in the run's folder."""
        return [unit.relative_path for unit in self.images]

    def digest(self) -> str:
        """Digest of every unit."""
        return digest([[asdict(u) for u in self.train], [asdict(u) for u in self.images]])

    def without_prior(self) -> Plan:
        """The same without the class images, which are for PRES alone."""
        return Plan(self.train, tuple(u for u in self.images if u.prompt_id != PRIOR_PROMPT_ID))


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^48) from a hash of its parts, so that neither order nor worker changes it."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def make_plan(
    protocol: Protocol, subjects: Sequence[Subject], *, batch_size: int, replicate: int = 1
) -> Plan:
    """Lays out a run. The recipe changes what is done in a unit, never which units there are.

    Each `replicate`, from 1, trains with seeds of its own; the seeds of images are the same in all.
    """
    train, images = [], []
    batch = 0
    again = () if replicate == 1 else ("replicate", replicate)
    for subject in subjects:
        seed = derive_seed("train", subject.name, protocol.base_seed, *again)
        train.append(TrainUnit(subject.name, seed))
        wanted: list[tuple[str, str, str, str, int]] = [
            (p.id, p.family, p.text, fill_subjects(p.text, subject.nouns), k)
            for p in protocol.prompts_for(subject.kind)
            for k in range(protocol.n_images_per_prompt)
        ]
        prior = fill_slot(protocol.prior.text, subject.class_name, "class")
        n_prior = protocol.prior.n_images if "pres" in protocol.metrics else 0
        wanted += [(PRIOR_PROMPT_ID, PRIOR_PROMPT_ID, prior, prior, k) for k in range(n_prior)]
        for index, (prompt_id, family, text, clip_text, k) in enumerate(wanted):
            seed = derive_seed("image", subject.name, prompt_id, k, protocol.base_seed)
            images.append(
                ImageUnit(
                    subject.name, prompt_id, family, k, text, clip_text, seed,
                    batch + index // batch_size,
                )
            )  # fmt: skip
        batch += -(-len(wanted) // batch_size)
    return Plan(tuple(train), tuple(images))
