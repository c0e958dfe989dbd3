"""Protocols: which subjects, prompts, images, seeds, base model and encoders make a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    field_validator,
    model_validator,
)

from dreambench.config.sampler import Precision, SamplerSettings
from dreambench.config.slots import check_slot, check_subject_slots, has_pair_slots
from dreambench.config.toml_files import HINT, Origin, load_toml, read_toml
from dreambench.datasets.index import Dataset, Kind, find_dataset, read_index
from dreambench.datasets.subjects import (
    PairKind,
    References,
    Subject,
    list_subjects,
    load_subjects,
    make_pair,
    name_pair,
)
from dreambench.errors import UserError, unknown_name
from dreambench.storage.files import digest
from dreambench.storage.paths import FileName
from dreambench.storage.shipped import shipped_path

Family = Literal["recontextualization", "accessorization", "property", "art", "viewpoint"]
"""Prompt categories, under the key and column `family`."""
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
"""The form of a metric's name; which metrics there are, the metrics know."""
PROPERTY: Family = "property"
"""The prompt category in which a correct image must look less like the subject."""
PRIOR_PROMPT_ID = "prior"
MAX_ABOVE = 6
"""Folders above a run's in which a dataset of its protocol is looked for."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompt(_Frozen):
    """One prompt. `{subject}` becomes what a method calls its subject ("sks dog").

    Of a pair, `{first}` and `{second}` become what it calls the one and the other.
    """

    id: FileName = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    family: Family
    text: str
    kinds: tuple[Kind | PairKind, ...] = Field(default=("live", "object"), min_length=1)

    @field_validator("text")
    @classmethod
    def _has_slot(cls, text: str) -> str:
        return check_subject_slots(text)


class Pair(_Frozen):
    """Two subjects of the dataset that are to be in one picture; the order is that of prompts."""

    subjects: tuple[str, str]

    @field_validator("subjects")
    @classmethod
    def _are_two(cls, subjects: tuple[str, str]) -> tuple[str, str]:
        if len(set(subjects)) < len(subjects):
            raise ValueError(f"the two are one: {subjects[0]}")
        return subjects

    @property
    def name(self) -> str:
        """What stands for the pair where else a subject's name does."""
        return name_pair(self.subjects)


class Prior(_Frozen):
    """Class images, which show the class and not the subject, for PRES."""

    text: str = "a {class}"
    n_images: int = Field(ge=1, le=10_000)

    @field_validator("text")
    @classmethod
    def _has_slot(cls, text: str) -> str:
        return check_slot(text, "class")


class Encoders(_Frozen):
    """Names of encoders by role, and of the segmenter that finds the subject."""

    dino: str
    clip: str
    perceptual: str
    segmenter: str | None = None


class Protocol(_Frozen):
    """A frozen benchmark. Everything that a score depends on besides the method is in here.

    `references` says whether methods are shown all photos of a subject, one, or all but the last;
    scores are over all of them either way. `n_threads` fixes the threads of training and generating
    on a CPU, since sums depend on how they are split; None takes the machine's. `precision` is that
    of training and generating on a GPU; a CPU keeps fp32. With `pairs`, each image shows two
    subjects, and a pair takes the place of a subject everywhere.
    """

    name: FileName = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    title: str
    source: str
    dataset: str
    subjects: tuple[str, ...] = ()
    references: References = "all"
    base_model: str
    n_images_per_prompt: int = Field(ge=1, le=1000)
    n_threads: int | None = Field(default=None, ge=1, le=64)
    # Left out where it is the default, so that digests from before it are those of now.
    precision: Precision = Field(default="fp32", exclude_if=lambda value: value == "fp32")
    base_seed: int = 0
    sampler: SamplerSettings
    prior: Prior
    metrics: tuple[MetricName, ...] = Field(min_length=1)
    encoders: Encoders
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...] = Field(default=(), exclude_if=lambda value: not value)
    _origin: Origin = PrivateAttr(default=Origin())

    @field_validator("metrics")
    @classmethod
    def _unique_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if twice := _find_doubled(metrics):
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return metrics

    @model_validator(mode="after")
    def _unique_ids(self) -> Protocol:
        ids = [prompt.id for prompt in self.prompts]
        if twice := _find_doubled([*ids, PRIOR_PROMPT_ID]):
            raise ValueError(f"prompt ids used twice or reserved: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _one_or_two(self) -> Protocol:
        if self.pairs and self.subjects:
            raise ValueError("has subjects and pairs: list one of the two")
        if twice := _find_doubled([pair.name for pair in self.pairs]):
            raise ValueError(f"pairs listed twice: {', '.join(twice)}")
        wrong = [one.id for one in self.prompts if has_pair_slots(one.text) != bool(self.pairs)]
        if wrong:
            slots = "{first} and {second}" if self.pairs else "{subject} alone, or pairs"
            raise ValueError(f"the prompts {', '.join(wrong)} need {slots}")
        return self

    @property
    def n_subjects(self) -> int:
        """How many subjects an image shows."""
        return 2 if self.pairs else 1

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects, or pairs, that are listed; empty for all of the dataset."""
        return tuple(pair.name for pair in self.pairs) or self.subjects

    def locate(self, *keys: int | str) -> str:
        """Return where a key was written: `FILE:LINE`, else the protocol by its name.

        The n-th prompt of the file, from 0, is `locate("prompts", n)`. Where a protocol was read is
        part of neither its digest nor its equality.
        """
        for file in self._origin.files:
            return file.locate(*keys)
        return f"protocol '{self.name}'"

    def find_dataset(self, *, photos_dir: Path | None = None, near: Path | None = None) -> Dataset:
        """Return the dataset; see `datasets.subjects.find_dataset`.

        A relative folder is meant from the protocol's file, or else from the working folder. A
        protocol that was read back from a folder has no file: then those above that folder, `near`,
        are tried as well.

        Raises:
            UserError: there is no such dataset.
        """
        folders = [file.path.parent for file in self._origin.files[:1]]
        above = [] if near is None else list(near.absolute().parents)[:MAX_ABOVE]
        return find_dataset(self.dataset, photos_dir=photos_dir, folders=[*folders, Path(), *above])

    @property
    def path(self) -> Path | None:
        """The file that it was read from; None where it was read back from a folder."""
        return next((file.path.absolute() for file in self._origin.files), None)

    def digest(self) -> str:
        """Return the digest of all that is frozen here."""
        return digest(self.model_dump(mode="json"))

    def narrow(self, prompt_ids: Sequence[str] | None) -> Protocol:
        """Return it with these prompts alone, in the protocol's order; itself for None.

        Raises:
            UserError: the protocol does not have a prompt of that id.
        """
        if prompt_ids is None:
            return self
        known = [prompt.id for prompt in self.prompts]
        for prompt_id in prompt_ids:
            if prompt_id not in known:
                raise unknown_name("prompt", prompt_id, known)
        chosen = tuple(prompt for prompt in self.prompts if prompt.id in prompt_ids)
        return self.model_copy(update={"prompts": chosen})

    def prompts_for(self, kind: Kind | PairKind) -> list[Prompt]:
        """Return the prompts that a subject or pair of this kind gets."""
        return [prompt for prompt in self.prompts if kind in prompt.kinds]


def load_all(
    protocol: Protocol, dataset: Dataset, *, names: Sequence[str] | None = None
) -> list[Subject]:
    """Load a protocol's subjects, or pairs, that `names` picks, with checked photos.

    Raises:
        UserError: what `load_subjects` raises.
    """
    return _choose(protocol, dataset, names, load_subjects)


def list_all(
    protocol: Protocol, dataset: Dataset, *, names: Sequence[str] | None = None
) -> list[Subject]:
    """Return the same, whether or not their photos are on this machine."""
    return _choose(protocol, dataset, names, list_subjects)


def _choose(
    protocol: Protocol,
    dataset: Dataset,
    names: Sequence[str] | None,
    read: Callable[..., list[Subject]],
) -> list[Subject]:
    if not protocol.pairs:
        return read(dataset, names=names or protocol.subjects or None)
    chosen = [pair for pair in protocol.pairs if not names or pair.name in names]
    needed = dict.fromkeys(name for pair in chosen for name in pair.subjects)
    each = {subject.name: subject for subject in read(dataset, names=list(needed))}
    return [make_pair([each[name] for name in pair.subjects]) for pair in chosen]


def _find_doubled(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def choose_prompts(
    protocol: Protocol, *, families: Sequence[str], prompt_ids: Sequence[str]
) -> tuple[str, ...] | None:
    """Return the ids of the prompts that are of these categories and are named; None for all.

    Raises:
        UserError: a prompt category or a prompt is unknown, or no prompt is left.
    """
    if not families and not prompt_ids:
        return None
    for family in families:
        if family not in get_args(Family):
            raise unknown_name("prompt category", family, get_args(Family))
    protocol.narrow(prompt_ids)
    chosen = tuple(
        prompt.id
        for prompt in protocol.prompts
        if (not families or prompt.family in families)
        and (not prompt_ids or prompt.id in prompt_ids)
    )
    if not chosen:
        raise UserError(
            f"no prompt of '{protocol.name}' is both in these categories and of these names",
            hint=f"its categories: {', '.join(sorted({p.family for p in protocol.prompts}))}",
            code="nothing-left",
        )
    return chosen


def list_protocols() -> list[str]:
    """Return the names of the shipped protocols."""
    return sorted(path.stem for path in shipped_path("protocols").glob("*.toml"))


def load_protocol(name_or_path: str) -> Protocol:
    """Load a shipped protocol by name, or a custom one by the path of a TOML file.

    Its metrics and encoders are checked by form alone, since plug-ins may bring some.

    Raises:
        UserError: it is not there or not valid, with one line for each fault by file and line.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in list_protocols():
        path = shipped_path("protocols", f"{name_or_path}.toml")
    else:
        raise unknown_name("protocol", name_or_path, list_protocols())
    file = read_toml(path)
    protocol = load_toml(file, Protocol, {"name": path.stem, **file.content})
    protocol._origin = Origin((file,))
    _check_texts(protocol)
    _check_subjects(protocol)
    return protocol


def _check_texts(protocol: Protocol) -> None:
    """Raise a UserError for prompts that ask for the same image under two ids.

    Text encoders read neither capitals nor how many blanks there are.
    """
    first: dict[tuple[str, str], str] = {}
    faults = []
    for number, prompt in enumerate(protocol.prompts):
        text = " ".join(prompt.text.casefold().split())
        same = [first[text, kind] for kind in prompt.kinds if (text, kind) in first]
        if same:
            where = protocol.locate("prompts", number, "text")
            faults.append(f"{where}: prompt '{prompt.id}' has the text of prompt '{same[0]}'")
        first |= {(text, kind): prompt.id for kind in prompt.kinds}
    if faults:
        raise UserError.listed(faults, hint=HINT, code="invalid-value")


def _check_subjects(protocol: Protocol) -> None:
    """Raise a UserError for a dataset or subjects that do not exist."""
    where = "dataset"
    try:
        known = [row["subject"] for row in read_index(protocol.find_dataset()).subjects]
        where = "pairs" if protocol.pairs else "subjects"
        named = [name for pair in protocol.pairs for name in pair.subjects] or protocol.subjects
        unknown = dict.fromkeys(name for name in named if name not in known)
        faults = [str(unknown_name("subject", name, known)) for name in unknown]
        if not faults and protocol.pairs:
            faults = [
                f"the pair {pair.name} is {pair.kind}, which no prompt is for"
                for pair in list_all(protocol, protocol.find_dataset())
                if not protocol.prompts_for(pair.kind)
            ]
    except UserError as error:
        faults = [str(error)]
    if faults:
        raise UserError.listed(
            [f"{protocol.locate(where)}: {fault}" for fault in faults],
            hint=HINT,
            code="unknown-name",
        )
