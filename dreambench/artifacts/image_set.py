"""What gets scored: the images of a plan, whoever made them, and the folder with their numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambench.artifacts.plan import ImageUnit, Plan
from dreambench.config.protocol import Protocol
from dreambench.datasets.subjects import Subject

EXTERNAL = "brought"
"""The `kind` in the manifest of images made elsewhere; a run's has none."""


@dataclass(frozen=True, kw_only=True)
class ImageSet(ABC):
    """One row of a table. It says which file is which image, and where its numbers are.

    `plan` has all images that there should be; the manifest says where they come from.
    """

    run_dir: Path
    protocol: Protocol
    subjects: list[Subject]
    plan: Plan
    manifest: dict[str, Any]

    @property
    @abstractmethod
    def name(self) -> str:
        """Names the row in every table."""

    @abstractmethod
    def find_image(self, unit: ImageUnit) -> Path | None:
        """The file of a unit's image; None when there is none."""

    @property
    def device(self) -> str:
        """Where networks run."""
        return str(self.manifest["device"])

    @property
    def encoders(self) -> dict[str, str]:
        """Identity of the encoder of each role."""
        return dict(self.manifest["encoders"])

    @property
    def is_partial(self) -> bool:
        """Whether this is known to be less than its protocol."""
        return bool(self.manifest["partial"])

    @property
    def not_measured(self) -> dict[str, str]:
        """Metrics of the protocol that are left out, with the reason."""
        return dict(self.manifest.get("not_measured", {}))

    @property
    def scores_path(self) -> Path:
        """One row for each thing scored."""
        return self.run_dir / "scores.parquet"

    @property
    def measures_path(self) -> Path:
        """The measures beside the metrics, one row for each and image."""
        return self.run_dir / "measures.parquet"

    @property
    def bounds_path(self) -> Path:
        """What the real photos score, one row a subject and metric."""
        return self.run_dir / "oracles.csv"

    @property
    def summary_path(self) -> Path:
        """Means, intervals, counts and what they depend on."""
        return self.run_dir / "summary.json"

    @property
    def conventions_path(self) -> Path:
        """The images under other scorers' conventions."""
        return self.run_dir / "conventions.csv"

    @property
    def report_dir(self) -> Path:
        """Tables, plots and the grid."""
        return self.run_dir / "report"

    def missing_images(self) -> list[ImageUnit]:
        """Units without an image."""
        return [unit for unit in self.plan.images if self.find_image(unit) is None]

    def made_images(self, subject: str) -> list[tuple[ImageUnit, Path]]:
        """The images of a subject that are there, with their units."""
        units = [unit for unit in self.plan.images if unit.subject == subject]
        found = [(unit, self.find_image(unit)) for unit in units]
        return [(unit, path) for unit, path in found if path is not None]


@dataclass(frozen=True, kw_only=True)
class ExternalImages(ImageSet):
    """Images made elsewhere. Read back from its results, it has the numbers and no `files`."""

    files: Mapping[ImageUnit, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its user calls the method."""
        return str(self.manifest["name"])

    def find_image(self, unit: ImageUnit) -> Path | None:
        """See `ImageSet`."""
        return self.files.get(unit)
