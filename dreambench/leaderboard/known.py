"""What this version of dreambench knows, and a record is held against. No torch, no network.

That is the shipped protocols with their photos, encoders and base models, and the package's own
metrics. Someone else's protocol is known where its file is named.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dreambench.artifacts.plan import ImageUnit, make_plan
from dreambench.artifacts.record import Record
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model
from dreambench.config.protocol import Protocol, list_all, list_protocols, load_protocol
from dreambench.config.recipe import Recipe, list_recipes, load_recipe
from dreambench.config.track import NO_PHOTOS, ORACLE, name_track
from dreambench.datasets.subjects import Subject
from dreambench.encoders.registry import ENCODERS, ROLES, SEGMENTERS
from dreambench.encoders.spec import (
    HASH_IDENTITY,
    REGIONS_IDENTITY,
    THUMBNAIL_IDENTITY,
    EncoderSpec,
    SegmenterSpec,
)
from dreambench.errors import UserError
from dreambench.methods.registry import METHODS
from dreambench.metrics.base import HASH, HELD_OUT, MASK, REGIONS, THUMBNAIL, Metric
from dreambench.metrics.registry import load_own_metrics
from dreambench.scoring.reference_values import Golden, load_known_bounds

TRAINS = frozenset(
    ("dreambooth", "dreambooth-lora", "dreambooth-peft", "textual-inversion", "custom-diffusion")
)
"""The shipped methods that train on a subject; to ask their classes would take torch."""
SEE_NO_PHOTOS, ORACLES = frozenset(("class-only",)), frozenset(("real-images",))
MAX_UNITS = 200_000
"""Images of a plan; a protocol that asks for more is not laid out."""


@functools.cache
def _load_shipped(name: str) -> Protocol | None:
    return load_protocol(name) if name in list_protocols() else None


def find_namesake(record: Record, named: Protocol | None = None) -> Protocol | None:
    """Return the protocol with the name of a record's: the one `named`, or a shipped one."""
    if named is not None and named.name == record.protocol.name:
        return named
    return _load_shipped(record.protocol.name)


def is_known_protocol(record: Record, named: Protocol | None = None) -> bool:
    """Return whether a record is of a shipped protocol, or of the one that was `named`.

    A record of another one is shown, and never ranked.
    """
    known = find_namesake(record, named)
    return known is not None and known.digest() == record.protocol.digest()


@functools.lru_cache(maxsize=32)
def list_known_subjects(protocol: Protocol) -> tuple[Subject, ...]:
    """Return all subjects of a protocol by the index of its dataset; no photo needs to be here."""
    dataset = protocol.find_dataset()
    return tuple(list_all(protocol, dataset))


def count_units(protocol: Protocol, subjects: tuple[Subject, ...]) -> int:
    """Return how many images a protocol asks for, without laying them out."""
    n_prior = protocol.prior.n_images if "pres" in protocol.metrics else 0
    return sum(
        len(protocol.prompts_for(subject.kind)) * protocol.n_images_per_prompt + n_prior
        for subject in subjects
    )


@functools.lru_cache(maxsize=32)
def lay_out(
    protocol: Protocol, subjects: tuple[Subject, ...], batch_size: int
) -> tuple[tuple[ImageUnit, ...], str]:
    """Return all images that a protocol asks for, and the digest of the plan.

    Raises:
        UserError: they are more than MAX_UNITS.
    """
    if (n_units := count_units(protocol, subjects)) > MAX_UNITS:
        raise UserError(
            f"the protocol asks for {n_units:,} images, over {MAX_UNITS:,}",
            hint="submit a record of a smaller one",
            code="too-large",
        )
    plan = make_plan(protocol, subjects, batch_size=batch_size)
    return plan.images, plan.digest()


def find_metric(name: str, version: int, *, is_outside: bool) -> Metric | None:
    """Return the package's own metric of a name and version; None where it has none."""
    metric = None if is_outside else load_own_metrics().get(name)
    return metric if metric is not None and metric.version == version else None


@dataclass(frozen=True)
class KnownInput:
    """What an input of metrics has to be by a protocol: its identity.

    `exact` is None where nobody knows the digest of the weights; `form` has all but that.
    """

    name: str
    form: re.Pattern[str]
    exact: str | None

    @classmethod
    def of(cls, spec: EncoderSpec | SegmenterSpec) -> KnownInput:
        """Return what an encoder or segmenter of the package has to be."""
        return _describe_input(spec)


@functools.cache
def _describe_input(spec: EncoderSpec | SegmenterSpec) -> KnownInput:
    form = re.escape(spec.name_identity("DIGEST")).replace("DIGEST", "[0-9a-f]{16}")
    exact = spec.find_published_identity()
    if exact is None and spec.find_local() is not None:
        exact = spec.identity()
    return KnownInput(spec.name, re.compile(form), exact)


def list_known_inputs(protocol: Protocol) -> Mapping[str, KnownInput]:
    """Return what the inputs of metrics have to be by a protocol, as far as the package knows."""
    encoders = protocol.encoders
    specs: dict[str, EncoderSpec | SegmenterSpec | None] = {
        role: ENCODERS.get(getattr(encoders, role)) for role in ROLES
    }
    specs[MASK] = SEGMENTERS.get(encoders.segmenter or "")
    found = {name: KnownInput.of(spec) for name, spec in specs.items() if spec is not None}
    if MASK in found:
        mask = found[MASK]
        found[REGIONS] = KnownInput(
            mask.name, re.compile(f"{re.escape(REGIONS_IDENTITY)}\\|(?:{mask.form.pattern})"),
            None if mask.exact is None else f"{REGIONS_IDENTITY}|{mask.exact}",
        )  # fmt: skip
    plain = {
        HASH: HASH_IDENTITY,
        THUMBNAIL: THUMBNAIL_IDENTITY,
        HELD_OUT: f"shown:{protocol.references}",
    }
    for name, identity in plain.items():
        found[name] = KnownInput(name, re.compile(re.escape(identity)), identity)
    return found


@functools.cache
def find_base_identity(name: str) -> str | None:
    """Return the identity of a base model of the package; None for another."""
    return find_base_model(name).identity() if name in BASE_MODELS else None


@functools.cache
def find_bounds(dataset: str) -> Golden | None:
    """Return what the photos of a dataset are known to score; None where nobody knows."""
    try:
        return load_known_bounds(dataset)
    except UserError:
        return None


@functools.cache
def find_shipped_recipe(name: str) -> Recipe | None:
    """Return the shipped recipe of a name; None where there is none."""
    return load_recipe(name) if name in list_recipes() else None


def find_track(method: str, settings: Mapping[str, object]) -> str | None:
    """Return the track of a shipped method with these settings; None for a method of others.

    It is what `methods.registry.describe_track` says of the method's class.
    """
    if method in ORACLES:
        return ORACLE
    if method in SEE_NO_PHOTOS:
        return NO_PHOTOS  # Whatever settings a record claims.
    if method not in METHODS:
        return None
    return name_track(settings, tunes=method in TRAINS, n_references=None)
