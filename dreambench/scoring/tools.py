"""What an image set is scored with: metrics, and the encoders and segmenter of their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreambench.artifacts.results import MetricInfo
from dreambench.config.protocol import Protocol
from dreambench.encoders.encoder import Encoder, EncoderSpec, find_encoder, load_encoder
from dreambench.encoders.parts import HashExtractor
from dreambench.encoders.segmentation import (
    Segmenter,
    fetch_segmenter,
    find_segmenter,
    load_segmenter,
)
from dreambench.metrics.base import HASH, MASK
from dreambench.metrics.registry import ChosenMetric, choose_metrics
from dreambench.progress import Progress, no_progress

NO_ENCODER = (MASK, HASH)


@dataclass(frozen=True)
class Tools:
    """Metrics in the order of tables, loaded encoders by role, and the segmenter.

    `why_no_mask` says why there is no segmenter. Metrics whose inputs are not all at hand stay in
    the list, so that results can say that they were not measured.
    """

    metrics: Sequence[ChosenMetric]
    encoders: Mapping[str, Encoder]
    segmenter: Segmenter | None
    why_no_mask: str

    @property
    def identities(self) -> dict[str, str]:
        """The identity of each input that is at hand."""
        found = {role: encoder.identity for role, encoder in self.encoders.items()}
        found[HASH] = HashExtractor.identity
        if self.segmenter is not None:
            found[MASK] = self.segmenter.identity
        return found

    def measured(self) -> list[ChosenMetric]:
        """Return the metrics whose inputs are at hand."""
        return [one for one in self.metrics if set(one.metric.inputs) <= set(self.identities)]

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


def choose_scored_metrics(protocol: Protocol, extra: Sequence[str] = ()) -> list[ChosenMetric]:
    """Return the metrics of a protocol and the extra ones, and the others that need no more.

    The package's other metrics come along where the listed ones need the same encoders; a
    segmenter's mask needs those of DINO and of CLIP.
    """
    chosen = choose_metrics(protocol, extra)
    listed = {*protocol.metrics, *(one.metric.name for one in chosen if one.code)}
    roles = {
        name
        for one in chosen
        if one.metric.name in listed
        for name in one.metric.inputs
        if name not in NO_ENCODER
    }

    def is_within(one: ChosenMetric) -> bool:
        needed = {name for name in one.metric.inputs if name not in NO_ENCODER}
        has_mask = MASK not in one.metric.inputs or {"dino", "clip"} <= roles
        return one.metric.name in listed or (bool(roles) and needed <= roles and has_mask)

    return [one for one in chosen if is_within(one)]


def encoder_specs(protocol: Protocol, metrics: Sequence[ChosenMetric]) -> dict[str, EncoderSpec]:
    """Return the encoder of each role that the metrics need, in the order of the protocol."""
    needed = {name for one in metrics for name in one.metric.inputs}
    roles = ("dino", "clip", "perceptual")
    return {
        role: find_encoder(getattr(protocol.encoders, role), role)  # type: ignore[arg-type]
        for role in roles
        if role in needed
    }


def smallest_side_px(protocol: Protocol) -> int:
    """Return the shorter side below which an encoder of the protocol would enlarge an image."""
    specs = encoder_specs(protocol, choose_scored_metrics(protocol))
    pixels = [spec.pixels for spec in specs.values()]
    return max((p.resize_px if p.fit == "crop" else p.crop_px for p in pixels), default=0)


def encoder_identities(
    protocol: Protocol, *, metrics: Sequence[str] = (), progress: Progress = no_progress
) -> dict[str, str]:
    """Return the identity of each encoder that scores need, without loading the networks.

    Weights that are not on this machine are downloaded, the segmenter's as well.

    Raises:
        UserError: an encoder cannot be had, or a metric or segmenter is unknown.
    """
    if protocol.encoders.segmenter is not None:
        fetch_segmenter(protocol.encoders.segmenter)
    specs = encoder_specs(protocol, choose_scored_metrics(protocol, metrics))
    return {role: spec.identity(progress) for role, spec in specs.items()}


def load_tools(protocol: Protocol, *, metrics: Sequence[str] = (), device: str) -> Tools:
    """Load what an image set of a protocol is scored with; networks are read when first needed."""
    chosen = choose_scored_metrics(protocol, metrics)
    specs = encoder_specs(protocol, chosen)
    encoders = {
        role: load_encoder(spec.name, role, device=device)  # type: ignore[arg-type]
        for role, spec in specs.items()
    }
    segmenter, why = open_segmenter(protocol.encoders.segmenter, device=device)
    return Tools(chosen, encoders, segmenter, why)


def open_segmenter(name: str | None, *, device: str) -> tuple[Segmenter | None, str]:
    """Return the protocol's segmenter, or None and the reason why there is none."""
    if name is None:
        return None, "the protocol names no segmenter"
    spec = find_segmenter(name)
    if spec.find_local() is None:
        why = f"segmenter '{name}' is not on this machine and could not be downloaded"
        return None, f"{why}; {spec.how_to_get}"
    return load_segmenter(name, device=device), ""
