"""Protocols: which subjects, prompts, images, seeds, base model and encoders make a benchmark."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dreambench.config.toml_files import load_toml, name_line, read_toml
from dreambench.datasets.subjects import Kind, find_dataset, read_index
from dreambench.errors import UserError, unknown_name
from dreambench.storage.files import digest
from dreambench.storage.shipped import shipped_path

Family = Literal["recontextualization", "accessorization", "property", "art", "viewpoint"]
MetricName = Literal["dino", "clip-i", "clip-t", "div", "pres"]
PROPERTY: Family = "property"
"""The family in which a right picture must lose likeness, and which so stands apart."""
PRIOR_PROMPT_ID = "prior"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _slots(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


class Prompt(_Frozen):
    """One prompt. `{subject}` becomes what a method calls its subject ("sks dog")."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    family: Family
    text: str
    kinds: tuple[Kind, ...] = ("live", "object")

    @field_validator("text")
    @classmethod
    def _has_slot(cls, text: str) -> str:
        if _slots(text) != {"subject"}:
            raise ValueError(f"'{text}' needs the slot {{subject}} and no other")
        return text


class Sampler(_Frozen):
    """How images are drawn from a diffusion model; the same for every method of a protocol."""

    scheduler: Literal["ddim", "dpm-solver", "ddpm"] = "ddim"
    n_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0)
    size_px: int = Field(ge=8)

    @property
    def n_calls(self) -> int:
        """Evaluations of the network for one image; guidance takes two a step."""
        return self.n_steps * (2 if self.guidance_scale > 1 else 1)


class Prior(_Frozen):
    """Images of the plain class, for PRES."""

    text: str = "a {class}"
    n_images: int = Field(ge=1)

    @field_validator("text")
    @classmethod
    def _has_slot(cls, text: str) -> str:
        if _slots(text) != {"class"}:
            raise ValueError(f"'{text}' needs the slot {{class}} and no other")
        return text


class Encoders(_Frozen):
    """Names from the encoder table, by role, and of the segmenter that finds the subject."""

    dino: str
    clip: str
    perceptual: str
    segmenter: str | None = None


class Protocol(_Frozen):
    """A frozen benchmark. Everything that a score depends on besides the method is in here."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    title: str
    source: str
    dataset: str
    subjects: tuple[str, ...] = ()
    base_model: str
    n_images_per_prompt: int = Field(ge=1)
    base_seed: int = 0
    sampler: Sampler
    prior: Prior
    metrics: tuple[MetricName, ...] = Field(min_length=1)
    encoders: Encoders
    prompts: tuple[Prompt, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_ids(self) -> Protocol:
        ids = [prompt.id for prompt in self.prompts]
        twice = sorted(
            {name for name in ids if ids.count(name) > 1} | ({PRIOR_PROMPT_ID} & set(ids))
        )
        if twice:
            raise ValueError(f"prompt ids used twice or reserved: {', '.join(twice)}")
        return self

    def digest(self) -> str:
        """Digest of all that is frozen here."""
        return digest(self.model_dump(mode="json"))

    def narrow(self, prompt_ids: Sequence[str] | None) -> Protocol:
        """With these prompts alone, in the protocol's order; itself for None.

        Raises UserError for an id that the protocol does not have.
        """
        if prompt_ids is None:
            return self
        known = [prompt.id for prompt in self.prompts]
        for prompt_id in prompt_ids:
            if prompt_id not in known:
                raise unknown_name("prompt", prompt_id, known)
        chosen = tuple(prompt for prompt in self.prompts if prompt.id in prompt_ids)
        return self.model_copy(update={"prompts": chosen})

    def prompts_for(self, kind: Kind) -> list[Prompt]:
        """The prompts that a subject of this kind gets."""
        return [prompt for prompt in self.prompts if kind in prompt.kinds]


def choose_prompts(
    protocol: Protocol, *, families: Sequence[str], prompt_ids: Sequence[str]
) -> tuple[str, ...] | None:
    """Ids of the prompts of these families, and of those named; None when all are meant.

    Raises UserError for an unknown family or prompt, and when nothing is left.
    """
    if not families and not prompt_ids:
        return None
    for family in families:
        if family not in get_args(Family):
            raise unknown_name("family", family, get_args(Family))
    protocol.narrow(prompt_ids)
    chosen = tuple(
        prompt.id
        for prompt in protocol.prompts
        if (not families or prompt.family in families)
        and (not prompt_ids or prompt.id in prompt_ids)
    )
    if not chosen:
        raise UserError(
            f"no prompt of '{protocol.name}' is both of these families and of these names",
            hint=f"families: {', '.join(sorted({p.family for p in protocol.prompts}))}",
        )
    return chosen


def list_protocols() -> list[str]:
    """Names of the shipped protocols."""
    return sorted(path.stem for path in shipped_path("protocols").glob("*.toml"))


def load_protocol(name_or_path: str) -> Protocol:
    """A shipped protocol by name, or one's own by the path of a TOML file."""
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in list_protocols():
        path = shipped_path("protocols", f"{name_or_path}.toml")
    else:
        raise unknown_name("protocol", name_or_path, list_protocols())
    content = read_toml(path)
    content.setdefault("name", path.stem)
    protocol = load_toml(path, Protocol, content)
    faults = []
    try:
        known = [row["subject"] for row in read_index(find_dataset(protocol.dataset)).subjects]
        faults += [
            f"{name_line(path, ('subjects',))}: {unknown_name('subject', name, known)}"
            for name in protocol.subjects
            if name not in known
        ]
    except UserError as error:
        faults.append(f"{name_line(path, ('dataset',))}: {error}")
    if faults:
        raise UserError.listed(faults, hint="mend the file and run again")
    return protocol
