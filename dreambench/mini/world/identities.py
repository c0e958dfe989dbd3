"""The inhabitants of the small world: who they are, sampled at random or from two others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dreambench.mini.world.shapes import Vec3

PALETTE: dict[str, Vec3] = {
    "red": (0.84, 0.13, 0.12),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.96, 0.84, 0.16),
    "green": (0.16, 0.58, 0.20),
    "teal": (0.10, 0.62, 0.62),
    "blue": (0.13, 0.28, 0.80),
    "purple": (0.50, 0.16, 0.66),
    "pink": (0.96, 0.52, 0.70),
    "brown": (0.45, 0.27, 0.13),
    "white": (0.95, 0.95, 0.93),
    "grey": (0.52, 0.53, 0.56),
    "black": (0.12, 0.12, 0.14),
}
PATTERNS = ("plain", "striped", "banded", "checkered", "dotted")
N_SHAPE_PARAMETERS = 6


@dataclass(frozen=True)
class Identity:
    """One individual: everything that makes it this one and no other of its class.

    `colors` are body, second and accent colour by name; `tints` are the RGB values sampled around
    them; `shape` holds numbers in [0, 1] that the class turns into proportions.
    """

    class_name: str
    colors: tuple[str, str, str]
    tints: tuple[Vec3, Vec3, Vec3]
    pattern: str
    pattern_width: float
    shape: tuple[float, ...]

    @property
    def description(self) -> str:
        """Colours and pattern in words, e.g. "blue and yellow striped"; no class."""
        words = f"{self.colors[0]} and {self.colors[1]}"
        return words if self.pattern == "plain" else f"{words} {self.pattern}"


def mix(low: float, high: float, share: float) -> float:
    """Return the number that is a share of the way from one to another."""
    return low + (high - low) * share


def sample_identity(rng: np.random.Generator, class_name: str) -> Identity:
    """Samples an individual of a class."""
    names = [str(name) for name in rng.choice(list(PALETTE), size=3, replace=False)]
    tints = []
    for name in names:
        shift = rng.uniform(-0.05, 0.05, size=3)
        tints.append(tuple(float(v) for v in np.clip(np.asarray(PALETTE[name]) + shift, 0.03, 1)))
    # A plain body is as likely as any pattern.
    return Identity(
        class_name=class_name,
        colors=(names[0], names[1], names[2]),
        tints=(tints[0], tints[1], tints[2]),  # type: ignore[arg-type]
        pattern=str(rng.choice(PATTERNS)),
        pattern_width=float(rng.uniform(0.26, 0.4)),
        shape=tuple(float(v) for v in rng.uniform(size=N_SHAPE_PARAMETERS)),
    )


def interpolate_identity(first: Identity, second: Identity, share: float) -> Identity:
    """An individual between two of one class: colours and proportions mixed by `share`.

    The pattern cannot be mixed and is taken from the nearer end.
    """
    if first.class_name != second.class_name:
        raise ValueError("only identities of one class can be mixed")
    near = first if share < 0.5 else second

    def mix_all(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(mix(x, y, share) for x, y in zip(a, b, strict=True))

    return replace(
        near,
        tints=tuple(mix_all(a, b) for a, b in zip(first.tints, second.tints, strict=True)),  # type: ignore[arg-type]
        pattern_width=mix(first.pattern_width, second.pattern_width, share),
        shape=mix_all(first.shape, second.shape),
    )
