"""The Python verbs: run, score, compare, load_run, load_subjects; and what they give back.

Results hold pandas frames and show themselves as tables in a notebook.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd

from dreambench.analysis.comparison import Scored, compare_scored, load_comparable
from dreambench.analysis.replicates import add_replicates, load_with_replicates
from dreambench.analysis.stats import Way, mean_by_subject
from dreambench.artifacts.failures import Failure, read_failures
from dreambench.artifacts.image_set import ImageSet, read_image_set
from dreambench.artifacts.manifest import ExternalManifest, Manifest
from dreambench.artifacts.results import MetricSummary, Part, Summary, has_summary
from dreambench.config.protocol import load_protocol
from dreambench.config.sampler import Precision
from dreambench.datasets import subjects as datasets
from dreambench.datasets.index import find_dataset
from dreambench.progress import Progress, no_progress
from dreambench.report.formatting import format_headings, format_rows
from dreambench.report.model import Table
from dreambench.report.notes import list_signatures, make_comparison_notes, make_image_notes
from dreambench.report.tables import make_comparison_table, make_main_table
from dreambench.text import make_printable

if TYPE_CHECKING:
    from dreambench.datasets.subjects import Subject

MEAN_COLUMNS = [
    "metric", "title", "prompts", "listed", "mean", "low", "high", "n_subjects", "n_scored",
    "n_expected", "signature",
]  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Scores of a run or of external images, also written to `folder`.

    Attributes:
        name: what tables call it.
        folder: the folder of the run or of the scores.
        scores: a row for each number (`artifacts.results.COLUMNS`).
        summary: means, intervals, and all that they depend on.
        manifest: what the images were made from.
        alongside: results of the methods that ran with it.
        conventions: the images under other scorers' conventions; None unless asked for.
        paths: the files of the report, empty where none was written.
        failures: what a method failed at.
    """

    name: str
    folder: Path
    scored: Scored = field(repr=False)
    manifest: Manifest = field(repr=False)
    alongside: Sequence[Result] = ()
    conventions: pd.DataFrame | None = field(default=None, repr=False)
    paths: Sequence[Path] = field(default=(), repr=False)
    failures: Sequence[Failure] = field(default=(), repr=False)

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each number."""
        return self.scored.scores.frame

    @property
    def summary(self) -> Summary:
        """Means, intervals, and all that they depend on."""
        return self.scored.summary

    @property
    def means(self) -> pd.DataFrame:
        """A row a metric: its mean over subjects with a 95 % interval; NaN where there is none.

        `prompts` says over which: "all", or "not-property". `listed` marks the protocol's metrics.
        """
        return self._make_means("whole")

    @property
    def property_means(self) -> pd.DataFrame:
        """The same over property prompts alone."""
        return self._make_means("property")

    @property
    def by_subject(self) -> pd.DataFrame:
        """A row a metric and subject: its mean over all prompts."""
        return mean_by_subject(self.scores)

    @property
    def problems(self) -> pd.DataFrame:
        """A row for each thing that is not as in the protocol: kind, name, n_images, detail."""
        found = self.manifest.problems if isinstance(self.manifest, ExternalManifest) else []
        rows = [problem.model_dump() for problem in found]
        return pd.DataFrame(rows, columns=["kind", "name", "n_images", "detail"])

    def _make_means(self, which: str) -> pd.DataFrame:
        rows = [
            _mean_row(entry, part, which)
            for entry in self.summary.metrics.values()
            if (part := getattr(entry, which)) is not None
        ]
        numbers = dict.fromkeys(["mean", "low", "high"], float)
        return pd.DataFrame(rows, columns=MEAN_COLUMNS).astype(numbers)

    def _repr_html_(self) -> str:
        runs = [self.scored, *(other.scored for other in self.alongside)]
        lines = [*make_image_notes(runs), *list_signatures(self.scored)]
        return _to_html(make_main_table(runs), lines)


def _mean_row(entry: MetricSummary, part: Part, which: str) -> list[object]:
    info = entry.info
    prompts = "property" if which == "property" else info.prompts
    return [
        info.name, info.title, prompts, info.listed, part.mean, part.low, part.high,
        part.n_subjects, entry.n_scored, entry.n_expected, info.signature,
    ]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Paired differences between runs.

    Attributes:
        table: a row a difference and metric, unrounded (`analysis.comparison.compare_scored`).
        runs: names of the runs.
        notes: what a reader has to know.
    """

    table: pd.DataFrame = field(repr=False)
    runs: Sequence[str]
    notes: Sequence[str] = field(repr=False)
    scored: Sequence[Scored] = field(repr=False)

    def _repr_html_(self) -> str:
        return _to_html(make_comparison_table(self.table, self.scored[0].infos), self.notes)


def _to_html(table: Table, lines: Sequence[str]) -> str:
    frame = pd.DataFrame(format_rows(table), columns=format_headings(table))
    shown = [html.escape(make_printable(line)) for line in lines]
    items = "".join(f"<li><small>{line}</small></li>" for line in shown)
    return f"{frame.to_html(index=False, escape=True)}<ul>{items}</ul>"


def run(
    method: str | Sequence[str],
    *,
    protocol: str | None = None,
    alongside: Sequence[str] | None = None,
    subjects: Sequence[str] = (),
    families: Sequence[str] = (),
    prompts: Sequence[str] = (),
    metrics: Sequence[str] = (),
    encoders: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, Any] = MappingProxyType({}),
    base_model: str | None = None,
    replicates: int = 1,
    out: str | Path = "runs",
    device: str = "auto",
    precision: Precision | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    unit_timeout: float | None = None,
    data_dir: Path | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Train, generate, score and report a method on a protocol; resumes where it was stopped.

    `method` is a name, a recipe (.toml) or `FILE.py:Class`, or several of them; the result is that
    of the first, with the others and those `alongside` (class-only and copy-reference, unless
    named) in its `alongside`. `subjects`, `families` (prompt categories) and `prompts` narrow the
    protocol and mark the result partial. `metrics` are added to the protocol's, `encoders` in
    place of its own by role; each by name or as `FILE.py:Class`. `settings` replace those of
    the method's recipe, as `{"n_steps": 200}`. `replicates` run each method that trains so many
    times, with other training seeds. `precision` is the protocol's on a GPU and fp32 on a CPU,
    unless it is named. `workers` processes train and generate at once, by default as many as
    devices, or a CPU's cores, have room for. `unit_timeout` is how many seconds a method may train
    on a subject or make a batch of images. Without `protocol` it is mini.

    Examples:
        >>> found = dreambench.run("dreambooth", protocol="mini")  # doctest: +SKIP
        >>> found.means[["metric", "mean", "low", "high"]]  # doctest: +SKIP

    Raises:
        UserError: a name is unknown, a folder holds another run, or no image could be made.
    """
    from dreambench.benchmark import execution, planning  # noqa: PLC0415  (imports torch)

    options = planning.RunOptions(
        methods=[method] if isinstance(method, str) else list(method),
        alongside=planning.ALONGSIDE if alongside is None else tuple(alongside),
        protocol=protocol, subjects=subjects, families=families, prompts=prompts, metrics=metrics,
        encoders=encoders, settings=settings, base_model=base_model, replicates=replicates,
        out=Path(out), device=device,
        precision=precision, batch_size=batch_size, workers=workers,
        unit_timeout=unit_timeout, data_dir=data_dir, cache_dir=cache,
    )  # fmt: skip
    planned = planning.plan_runs(options, progress=progress)
    outcome = execution.execute_runs(planned, options, progress=progress)
    if not outcome.scored:
        raise outcome.pipelines[0].explain_failure()
    first = [one for one in outcome.pipelines if one.run.manifest.replicate == 1]
    made = [one for one in first if has_summary(one.run)]
    results = [
        Result(one.run.name, one.run.folder, scored, one.run.manifest, failures=one.failures)
        for one, scored in zip(made, outcome.scored, strict=True)
    ]
    own = results[0]
    return Result(
        own.name, own.folder, own.scored, own.manifest, alongside=tuple(results[1:]),
        paths=outcome.paths, failures=own.failures,
    )  # fmt: skip


def score(
    folder: str | Path,
    *,
    protocol: str,
    name: str,
    index: str | Path | None = None,
    layout: str | None = None,
    partial: bool = False,
    subjects: Sequence[str] = (),
    families: Sequence[str] = (),
    prompts: Sequence[str] = (),
    metrics: Sequence[str] = (),
    encoders: Mapping[str, str] = MappingProxyType({}),
    conventions: Sequence[str] = (),
    out: str | Path = "scores",
    device: str = "auto",
    workers: int = 1,
    data_dir: Path | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Score images that any program made, by a protocol, and write OUT/PROTOCOL/NAME.

    `folder` is in one of the layouts of `scoring.layouts.LAYOUTS`, or an index itself; `index` is a
    CSV that says which of its files is which image. `layout` is needed where the folder has two.
    `subjects`, `families` and `prompts` narrow, and mark the result partial. `conventions` are
    other scorers' rules to score by as well. `workers` processes extract features at once.

    Examples:
        >>> found = dreambench.score("images", protocol="mini", name="mine")  # doctest: +SKIP
        >>> found.problems  # doctest: +SKIP

    Raises:
        ImageSetError: the images are not exactly the protocol's set, with all problems in its
            `problems`; with `partial`, what can be scored is, and marked partial. A folder
            without any class image is whole, and PRES is then not measured.
        UserError: a name is unknown, or a folder cannot be read or written.
    """
    from dreambench.benchmark import external  # noqa: PLC0415  (imports torch)
    from dreambench.scoring.external import ExternalRequest  # noqa: PLC0415

    request = ExternalRequest(
        folder=Path(folder), protocol=load_protocol(protocol), name=name,
        index=None if index is None else Path(index), layout=layout, partial=partial,
        subjects=subjects, families=families, prompts=prompts, metrics=metrics, encoders=encoders,
        data_dir=data_dir,
    )  # fmt: skip
    found = external.score_external(
        request, conventions=conventions, out=Path(out), device=device, cache_dir=cache,
        n_workers=workers, progress=progress,
    )  # fmt: skip
    return Result(
        found.scored.name, found.images.folder, found.scored, found.images.manifest,
        conventions=found.conventions, paths=found.paths,
    )  # fmt: skip


def load_run(folder: str | Path, *, data_dir: Path | None = None) -> Result:
    """Load the results of a run, or of external images, from their folder.

    Examples:
        >>> dreambench.load_run("runs/mini/dreambooth").by_subject  # doctest: +SKIP

    Raises:
        UserError: it is not such a folder, or has no summary.
    """
    images = read_image_set(Path(folder), data_dir=data_dir)
    (scored,) = load_comparable([images])
    return _make_result(images, scored)


def _make_result(images: ImageSet, scored: Scored) -> Result:
    failures = read_failures(images.folder)
    return Result(scored.name, images.folder, scored, images.manifest, failures=failures)


def compare(
    runs: Sequence[str | Path | Result],
    *,
    metrics: Sequence[str] | None = None,
    families: Sequence[str] = (),
    all_pairs: bool = False,
    interval: Way = "student-t",
    data_dir: Path | None = None,
) -> Comparison:
    """Test runs of one protocol against the first (or every pair), paired by subject and prompt.

    `runs` are folders or results. `metrics` are those that the protocol lists by default;
    `families` are prompt categories. `interval` "bootstrap-t" makes interval and test where the
    differences of subjects are skewed.

    Examples:
        >>> dreambench.compare(["runs/mini/dreambooth", "runs/mini/class-only"])  # doctest: +SKIP

    Raises:
        UserError: they cannot be compared; the line says why.
    """
    folders = [one.folder if isinstance(one, Result) else Path(one) for one in runs]
    sets = [read_image_set(path, data_dir=data_dir) for path in folders]
    scored, replicates = load_with_replicates(sets)
    table = compare_scored(
        scored, all_pairs=all_pairs, metrics=metrics, families=families, way=interval
    )
    table = add_replicates(table, scored, replicates, families=families)
    return Comparison(table, [one.label for one in scored], make_comparison_notes(table), scored)


def load_subjects(
    dataset: str = "dreambooth", *, names: Sequence[str] | None = None, data_dir: Path | None = None
) -> list[Subject]:
    """Load the subjects of a dataset with the paths of their photos, each checked by its SHA-256.

    `dataset` is "dreambooth", "mini", "mini-full", or a folder with the two index files;
    `data_dir` is where the photos of "dreambooth" lie (default: DREAMBENCH_DATA, else the user's
    cache folder).

    Examples:
        >>> [subject.name for subject in dreambench.load_subjects("mini")][:2]
        ['dog', 'dog2']

    Raises:
        UserError: names what is missing or changed.
    """
    found = find_dataset(dataset, photos_dir=data_dir)
    return datasets.load_subjects(found, names=names)
