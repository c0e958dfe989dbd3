"""Units of a run's images: one subject each, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dreambench.artifacts.failures import Failure
from dreambench.config.recipe import PluginRecipe
from dreambench.methods.plugins import attach_code
from dreambench.runs.run_folder import Run, read_run

UnitStage = Literal["train", "generate"]
BOTH: tuple[UnitStage, ...] = get_args(UnitStage)

TRAINED, IMAGES = "unit: trained", "unit: images"
"""What a unit's progress calls the training and the images of its subject; a method's own work has
names for people."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How units are worked on; no bit of an image depends on it.

    `unit_timeout` is how many seconds a subject's training, its loading or a batch may take (see
    `methods.calls`); `data_dir` where the photos were read from; `keep_weights` whether what was
    trained stays when its images are made (None: where it is small, see `runs.weights`).
    """

    cache_dir: Path
    data_dir: Path | None = None
    unit_timeout: float | None = None
    keep_weights: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A subject of a run: training on it, and generating its images.

    `checkpoints` are runs of the same recipe with fewer steps, by their number, which are trained
    on the way. `is_last` says that no other subject of the run waits.
    """

    run: Run
    subject: str
    stages: Sequence[UnitStage] = BOTH
    terms: Terms
    is_last: bool = False
    checkpoints: Mapping[int, Run] = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        """Return what another process needs to have the same unit; the run folders hold the rest.

        The seeds, too, are in the run's plan.
        """
        terms, recipe = self.terms, self.run.recipe
        return {
            "folder": str(self.run.folder.absolute()),
            "subject": self.subject,
            "stages": list(self.stages),
            "is_last": self.is_last,
            "cache_dir": str(terms.cache_dir.absolute()),
            "data_dir": terms.data_dir and str(terms.data_dir.absolute()),
            "unit_timeout": terms.unit_timeout,
            "keep_weights": terms.keep_weights,
            "checkpoints": {
                step: str(run.folder.absolute()) for step, run in self.checkpoints.items()
            },
            "near": str(self.run.protocol.path) if self.run.protocol.path else None,
            "code": recipe.reference if isinstance(recipe, PluginRecipe) else None,
        }


class UnitReader:
    """Reads packed units; what several units of a run have in common is read once."""

    def __init__(self, *, device: str | None = None) -> None:
        self._device = device
        self._runs: dict[str, Run] = {}

    def unpack(self, packed: Mapping[str, Any]) -> Unit:
        """Return a unit of a run on this process's own device.

        Raises:
            UserError: as `read_run` and `attach_code` do.
        """
        data_dir = packed["data_dir"] and Path(packed["data_dir"])
        near = packed["near"] and Path(packed["near"])
        folders = [packed["folder"], *packed["checkpoints"].values()]
        if packed["folder"] not in self._runs:
            self._runs = {
                folder: self._read(Path(folder), data_dir, near, packed["code"])
                for folder in folders
            }
        return Unit(
            run=self._runs[packed["folder"]],
            subject=packed["subject"],
            stages=packed["stages"],
            is_last=packed["is_last"],
            terms=Terms(
                cache_dir=Path(packed["cache_dir"]),
                data_dir=data_dir,
                unit_timeout=packed["unit_timeout"],
                keep_weights=packed["keep_weights"],
            ),
            checkpoints={
                int(step): self._runs[folder] for step, folder in packed["checkpoints"].items()
            },
        )

    def _read(
        self, folder: Path, data_dir: Path | None, near: Path | None, code: str | None
    ) -> Run:
        run = read_run(folder, data_dir=data_dir, near=near)
        manifest = run.manifest
        if self._device is not None:
            manifest = manifest.model_copy(update={"device": self._device})
        return replace(run, recipe=attach_code(run.recipe, code), manifest=manifest)


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What came of a unit.

    `is_busy` says that another process works on it, and nothing was done; `failures` are those of
    this try, and `refusal` the line and the code of a mistake of the user's for which the method
    could not be made at all. `n_made` images were made, `n_class` of them of the class alone, in
    `generating_seconds`.
    """

    is_busy: bool = False
    failures: Sequence[Failure] = ()
    n_made: int = 0
    n_class: int = 0
    generating_seconds: float = 0.0
    refusal: tuple[str, str] | None = None

    def pack(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        failures = [failure.model_dump(mode="json") for failure in self.failures]
        return {**vars(self), "failures": failures}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> UnitResult:
        """Return what `pack` was called on."""
        failures = [Failure.model_validate(one) for one in packed["failures"]]
        refusal = packed["refusal"] and tuple(packed["refusal"])
        return cls(**{**packed, "failures": failures, "refusal": refusal})
