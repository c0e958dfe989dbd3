"""Named conventions: how public scorers turn the same images into other numbers.

A convention is the set of choices of one public scorer, so that a number from its papers can be
compared under its own rules. The choices were read from the code named in `source`; what a
convention multiplies by 100 there is so here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.config.slots import fill_subjects
from dreambench.datasets.subjects import Subject
from dreambench.encoders.registry import ENCODERS
from dreambench.encoders.spec import EncoderSpec
from dreambench.errors import unknown_name
from dreambench.metrics.base import compute_reference_similarity, compute_text_similarity
from dreambench.types import Features

COLUMNS = ["convention", "metric", "mean", "n_images", "n_dropped", "signature"]


@dataclass(frozen=True)
class Convention:
    """The choices of one scorer.

    `source` is the repository with the commit at which its code was read, and the file.
    `references`: all photos of a subject, the first alone, or the one that a published list names
    (`datasets.subjects.Subject.single`). `subject_word`: what stands for the subject in CLIP-T's
    text, `identifier` the word before the class noun, `prefix` what the text begins with. `clip_t`:
    plain cosine, or CLIPScore's 2.5 max(cosine, 0) (Hessel et al., EMNLP 2021). `average`: pairs
    within a subject and then subjects, or all pairs alike. `floor`: whether the final mean is cut
    at zero. `drops_black`: black images are left out.
    """

    name: str
    title: str
    source: str
    dino: str | None
    clip: str
    references: Literal["all", "first", "listed"] = "all"
    subject_word: Literal["class", "identifier", "removed"] = "class"
    identifier: str = "sks"
    prefix: str = ""
    clip_t: Literal["cosine", "clipscore"] = "cosine"
    average: Literal["subjects", "pairs"] = "subjects"
    scale: float = 1.0
    floor: bool = False
    drops_black: bool = False

    def encoders(self, protocol: Protocol) -> dict[str, EncoderSpec]:
        """The encoder of each role under this convention.

        On `mini`, whose world no published encoder has seen, they are the protocol's own with this
        convention's way of resizing.
        """
        found = {}
        for role, name in (("dino", self.dino), ("clip", self.clip)):
            if name is None:
                continue
            wanted, own = ENCODERS[name], ENCODERS.get(getattr(protocol.encoders, role))
            if own is None or own.shipped is None:
                found[role] = wanted
                continue
            way = {"fit": wanted.pixels.fit, "interpolation": wanted.pixels.interpolation}
            found[role] = replace(own, pixels=replace(own.pixels, **way))  # type: ignore[arg-type]
        return found

    def text(self, prompt: str, nouns: Sequence[str]) -> str:
        """CLIP-T's text for a prompt with its slots, one for each class noun."""
        words = {"class": "{}", "identifier": f"{self.identifier} {{}}", "removed": ""}
        filled = [words[self.subject_word].format(noun) for noun in nouns]
        return self.prefix + fill_subjects(prompt, filled)

    def choose_references(self, subject: Subject) -> tuple[Path, ...]:
        """The photos that images are compared with."""
        if self.references == "all":
            return subject.photos
        return (subject.photos[0 if self.references == "first" else subject.single],)

    def signature(self, metric: str, encoder: str) -> str:
        """Everything that the number depends on, in one string."""
        parts = [metric.upper(), f"convention:{self.name}", encoder]
        if metric == "clip-t":
            word = f"{self.subject_word}-{self.identifier}"
            parts.append(f"text:subject-{word if 'identifier' in word else self.subject_word}")
            parts += [f"prefix:{self.prefix.strip()}"] if self.prefix else []
            parts.append(self.clip_t)
        else:
            parts.append(f"refs:{self.references}")
        if self.drops_black:
            parts.append("black:dropped")
        order = "pairs>subject>mean" if self.average == "subjects" else "pairs>mean"
        floor = ",max(0)" if self.floor else ""
        return "|".join([*parts, f"{order}{floor},x{self.scale:g}"])


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention(
            "paper", "The DreamBooth paper", "Ruiz et al., CVPR 2023, section 4.2",
            dino="dino-vits16", clip="clip-vit-b-32",
        ),
        Convention(
            "dreambench-plus", "DreamBench++",
            "yuangpeng/dreambench_plus at c4eb5c1, dreambench_plus/metrics/",
            dino="dino-vits8", clip="clip-vit-b-32", references="first", average="pairs",
            scale=100,
        ),
        # CLIP is ViT-B/32 where the scores are run; ViT-L/14 is only the class's default. The list
        # of references: dataset/single-references.csv.
        Convention(
            "kosmos-g", "Kosmos-G",
            "microsoft/unilm at 7b4b9f0, kosmos-g/eval/clip_score.py and dino_score.py",
            dino="dino-vits16", clip="clip-vit-b-32", references="listed", average="pairs",
            scale=100, floor=True,
        ),
        # One scorer with two modes: the paper's way, and one reference a subject.
        Convention(
            "patchdpo", "PatchDPO",
            "hqhQAQ/PatchDPO at 558f0c2, evaluation/evaluate_dreambooth_func.py",
            dino="dino-vits16", clip="clip-vit-b-32",
        ),
        Convention(
            "patchdpo-single", "PatchDPO, one reference",
            "hqhQAQ/PatchDPO at 558f0c2, evaluation/evaluate_dreambooth_func.py (is_kosmosg)",
            dino="dino-vits16", clip="clip-vit-b-32", references="listed",
        ),
        Convention(
            "oft", "Orthogonal Finetuning", "Zeju1997/oft at 8d2b366, oft-db/eval.py",
            dino="dino-vits16-hf", clip="clip-vit-l-14", subject_word="identifier",
            identifier="qwe", average="pairs", drops_black=True,
        ),
        Convention(
            "aishutin", "subject-driven-gen-eval",
            "AIshutin/subject-driven-gen-eval at 834eeb8, evaluate.py and "
            "generation_utils/inference.py",
            dino="dino-vits16", clip="clip-vit-b-32", prefix="a photo of ",
        ),
        # It compares an image with one real image that its caller chooses; here the first.
        Convention(
            "imagenhub", "ImagenHub",
            "TIGER-AI-Lab/ImagenHub at 025ecbb, src/imagen_hub/metrics/dreambooth_metric.py",
            dino="dino-vits16", clip="clip-vit-b-32", references="first", average="pairs",
        ),
        Convention(
            "customconcept101", "Custom Diffusion's CustomConcept101",
            "adobe-research/custom-diffusion at c9c8be2, customconcept101/evaluate.py",
            dino="dino-vits16", clip="clip-vit-b-32", clip_t="clipscore",
        ),
        Convention(
            "textual-inversion", "Textual Inversion",
            "rinongal/textual_inversion at 424192d, evaluation/clip_eval.py",
            dino=None, clip="clip-vit-b-32-tensor", subject_word="removed",
        ),
    )
}  # fmt: skip


def find_convention(name: str) -> Convention:
    """A convention by name; UserError for an unknown one."""
    if name not in CONVENTIONS:
        raise unknown_name("convention", name, CONVENTIONS)
    return CONVENTIONS[name]


def score_convention(
    convention: Convention,
    subjects: Sequence[Subject],
    images: Mapping[str, Sequence[tuple[ImageUnit, Path]]],
    vectors: Mapping[str, Mapping[Path, Features]],
    texts: Mapping[str, Features],
    black: Mapping[Path, bool],
    identities: Mapping[str, str],
) -> pd.DataFrame:
    """A run's images under a convention, one row a metric; the columns of COLUMNS.

    Of a pair the similarity is the mean of those to its two subjects.

    `images` by subject; `vectors` and `identities` by role; `texts` by CLIP-T's text. Class
    images are left out.
    """
    values: dict[str, list[tuple[float, int]]] = {}
    n_images = n_dropped = 0
    for subject in subjects:
        units = [(u, p) for u, p in images[subject.name] if u.prompt_id != PRIOR_PROMPT_ID]
        kept = [(u, p) for u, p in units if not (convention.drops_black and black[p])]
        n_dropped += len(units) - len(kept)
        n_images += len(kept)
        if not kept:
            continue
        photos = [convention.choose_references(one) for one in subject.each]
        n_photos = sum(map(len, photos))
        for role, metric in (("dino", "dino"), ("clip", "clip-i")):
            if role in vectors:
                rows = np.stack([vectors[role][path] for _, path in kept])
                to_each = [
                    compute_reference_similarity(rows, np.stack([vectors[role][p] for p in own]))
                    for own in photos
                ]
                mean = float(np.mean([similarity.mean() for similarity in to_each]))
                values.setdefault(metric, []).append((mean, len(kept) * n_photos))
        wanted = [texts[convention.text(unit.prompt, subject.nouns)] for unit, _ in kept]
        rows = np.stack([vectors["clip"][path] for _, path in kept])
        cosines = compute_text_similarity(rows, np.stack(wanted))
        if convention.clip_t == "clipscore":
            cosines = 2.5 * cosines.clip(min=0)
        values.setdefault("clip-t", []).append((float(cosines.mean()), len(kept)))
    found = []
    for metric, means in values.items():
        sizes = [n for _, n in means] if convention.average == "pairs" else None
        mean = float(np.average([mean for mean, _ in means], weights=sizes)) * convention.scale
        mean = max(mean, 0.0) if convention.floor else mean
        identity = identities["dino" if metric == "dino" else "clip"]
        signature = convention.signature(metric, identity)
        found.append([convention.name, metric, mean, n_images, n_dropped, signature])
    return pd.DataFrame(found, columns=COLUMNS)
