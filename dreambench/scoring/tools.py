"""What an image set is scored with: metrics, and the encoders and segmenter of their inputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.long_texts import CutText, find_cut_texts
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.results import MetricInfo, check_identities
from dreambench.config.protocol import Protocol
from dreambench.datasets.index import EMBEDDED
from dreambench.datasets.subjects import References
from dreambench.encoders.base import Encoder
from dreambench.encoders.image_text import make_text_reader
from dreambench.encoders.parts import HashExtractor, ThumbnailExtractor
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import (
    ROLES,
    check_encoders,
    choose_encoders,
    find_segmenter,
    load_spec,
)
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.encoders.spec import REGIONS_IDENTITY, AnyEncoderSpec, has_own_pixels
from dreambench.errors import UserError
from dreambench.metrics.base import HASH, HELD_OUT, MASK, REGIONS, THUMBNAIL
from dreambench.metrics.registry import ChosenMetric, choose_metrics
from dreambench.progress import Progress, no_progress

logger = logging.getLogger(__name__)

NO_ENCODER = (MASK, REGIONS, HASH, THUMBNAIL, HELD_OUT)


@dataclass(frozen=True)
class Tools:
    """Metrics in the order of tables, loaded encoders by role, and the segmenter.

    `references` is the protocol's. `why_no_mask` says why there is no segmenter. Metrics whose
    inputs are not all at hand stay in the list, so that results can say that they were not
    measured.
    """

    metrics: Sequence[ChosenMetric]
    encoders: Mapping[str, Encoder]
    segmenter: Segmenter | None
    why_no_mask: str
    references: References = "all"

    @property
    def identities(self) -> dict[str, str]:
        """The identity of each input that is at hand."""
        found = {role: encoder.identity for role, encoder in self.encoders.items()}
        found[HASH] = HashExtractor.identity
        found[THUMBNAIL] = ThumbnailExtractor.identity
        if self.segmenter is not None:
            found[MASK] = self.segmenter.identity
            found[REGIONS] = f"{REGIONS_IDENTITY}|{self.segmenter.identity}"
        if self.references != "all":
            found[HELD_OUT] = f"shown:{self.references}"
        return found

    def measured(self) -> list[ChosenMetric]:
        """Return the metrics whose inputs are at hand."""
        return [one for one in self.metrics if set(one.metric.inputs) <= set(self.identities)]

    def find_cut_texts(self, units: Sequence[ImageUnit]) -> list[CutText]:
        """Return the prompts of which the encoder of texts does not read the end."""
        encoder = self.encoders.get("clip")
        return [] if encoder is None else find_scored_cuts(encoder.spec, units)

    def describe(
        self, chosen: ChosenMetric, *, listed: bool, n_expected: int, reason: str
    ) -> MetricInfo:
        """Return what results say of a metric; `reason` says why it was not measured."""
        info = chosen.metric.describe(self.identities, code=chosen.code)
        if info.signature is None:
            reason = self.why_no_mask
        return info.model_copy(
            update={"listed": listed, "n_expected": n_expected, "not_measured": reason}
        )


def find_scored_cuts(spec: AnyEncoderSpec, units: Sequence[ImageUnit]) -> list[CutText]:
    """Return the prompts that are longer than what an encoder of texts reads."""
    texts = [(unit.subject, unit.prompt_id, unit.clip_text) for unit in units]
    return find_cut_texts(make_text_reader(spec), texts, {})


def choose_scored_metrics(protocol: Protocol, extra: Sequence[str] = ()) -> list[ChosenMetric]:
    """Return the metrics of a protocol and the extra ones, and the others that need no more.

    The package's other metrics come along where the listed ones need the same encoders; a
    segmenter's mask and regions need those of DINO and of CLIP, and held-out photos are there where
    methods are not shown all of them.
    """
    chosen = choose_metrics(protocol, extra)
    listed = {*protocol.metrics, *(one.metric.name for one in chosen if one.is_extra)}
    roles = {
        name
        for one in chosen
        if one.metric.name in listed
        for name in one.metric.inputs
        if name not in NO_ENCODER
    }

    def is_within(one: ChosenMetric) -> bool:
        needed = {name for name in one.metric.inputs if name not in NO_ENCODER}
        needs_mask = bool({MASK, REGIONS} & set(one.metric.inputs))
        has_mask = not needs_mask or {"dino", "clip"} <= roles
        has_photos = HELD_OUT not in one.metric.inputs or protocol.references != "all"
        has_rest = has_mask and has_photos
        return one.metric.name in listed or (bool(roles) and needed <= roles and has_rest)

    return [one for one in chosen if is_within(one)]


def encoder_specs(
    protocol: Protocol,
    metrics: Sequence[ChosenMetric],
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, AnyEncoderSpec]:
    """Return the encoder of each input that metrics read.

    `overrides` are what `--encoder` names in place of the protocol's, see `choose_encoders`.
    """
    named: dict[str, str] = {role: getattr(protocol.encoders, role) for role in ROLES}
    inputs = {name for one in metrics for name in one.metric.inputs if name not in NO_ENCODER}
    return choose_encoders(named, overrides, inputs=inputs)


def smallest_side_px(protocol: Protocol, overrides: Mapping[str, str]) -> int:
    """Return the shorter side below which an encoder of the protocol would enlarge an image."""
    specs = encoder_specs(protocol, choose_scored_metrics(protocol), overrides)
    pixels = [spec.pixels for spec in specs.values()]
    return max((p.smallest_side_px for p in pixels if isinstance(p, Pixels)), default=1)


def prepare_encoders(
    protocol: Protocol,
    *,
    metrics: Sequence[str] = (),
    overrides: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = no_progress,
) -> dict[str, str]:
    """Download the weights that scores need, and return the identity of each encoder.

    No network is loaded. The segmenter's weights are downloaded as far as that works: metrics that
    need them are otherwise not measured.

    Raises:
        UserError: an encoder cannot be had, or a metric or segmenter is unknown.
    """
    if protocol.encoders.segmenter is not None:
        segmenter = find_segmenter(protocol.encoders.segmenter)
        with contextlib.suppress(UserError):
            segmenter.ensure_weights()
    specs = encoder_specs(protocol, choose_scored_metrics(protocol, metrics), overrides)
    for spec in specs.values():
        spec.ensure_weights(progress)
    _warn_of_mini(protocol, specs)
    return {role: spec.identity() for role, spec in specs.items()}


def _warn_of_mini(protocol: Protocol, specs: Mapping[str, AnyEncoderSpec]) -> None:
    """Say where photos of the world are to be scored by encoders that never saw it."""
    own = sorted({spec.name for spec in specs.values() if getattr(spec, "shipped", None)})
    if own and protocol.dataset not in EMBEDDED:
        logger.warning(
            "%s: %s were trained on mini's rendered world alone, and know nothing of other photos: "
            "treat these scores as a trial of the commands, and use other encoders for results "
            "(dreambench list encoders)",
            protocol.locate("encoders"), ", ".join(own),
        )  # fmt: skip


def load_tools(
    images: ImageSet,
    *,
    metrics: Sequence[str] = (),
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Tools:
    """Load what an image set is scored with; networks are read when first needed.

    Raises:
        UserError: the encoders are not those that the image set's manifest names, or an input is
            not what scores that are there were made with.
    """
    chosen = choose_scored_metrics(images.protocol, metrics)
    specs = encoder_specs(images.protocol, chosen, overrides)
    check_encoders(images.encoders, specs, where=str(images.folder))
    encoders = {role: load_spec(spec, device=images.device) for role, spec in specs.items()}
    segmenter, why = _open_segmenter(images)
    tools = Tools(chosen, encoders, segmenter, why, images.protocol.references)
    check_identities(images, tools.identities)
    return tools


def _open_segmenter(images: ImageSet) -> tuple[Segmenter | None, str]:
    """Return the protocol's segmenter, or None and the reason why no subject can be cut out."""
    name = images.protocol.encoders.segmenter
    if name is None:
        return None, "the protocol names no segmenter"
    for role in ("dino", "clip"):
        if has_own_pixels(images.encoders.get(role, "")):
            return None, f"the encoder for '{role}' prepares images by its own code"
    spec = find_segmenter(name)
    if spec.find_local() is None:
        why = f"segmenter '{name}' is not on this machine and could not be downloaded"
        return None, f"{why}; {spec.how_to_get}"
    return load_segmenter(name, device=images.device), ""
