"""Protocols: which subjects, prompts, images, seeds, base model and encoders make a benchmark."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dreambench.errors import UserError, invalid_file, unknown_name
from dreambench.files import digest, shipped_path
from dreambench.subjects import Kind

Family = Literal["recontextualization", "accessorization", "property", "art", "viewpoint"]
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
    """Names from the encoder table, by role."""

    dino: str
    clip: str
    perceptual: str


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

    def prompts_for(self, kind: Kind) -> list[Prompt]:
        """The prompts that a subject of this kind gets."""
        return [prompt for prompt in self.prompts if kind in prompt.kinds]


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as a dict; UserError when it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}", hint="mend the file and run again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


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
    try:
        return Protocol.model_validate(content)
    except ValidationError as error:
        raise invalid_file(path, error) from error
