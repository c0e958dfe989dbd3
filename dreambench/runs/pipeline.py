"""From images to numbers, all stages of a run, and the report of one row beside others."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dreambench.analysis.comparison import Scored, check_comparable
from dreambench.analysis.stats import estimate_table, mean_by_subject, why_no_interval
from dreambench.artifacts.failures import Failures, read_failures, summarise_failures
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import PRIOR_PROMPT_ID
from dreambench.config.recipe import PluginRecipe
from dreambench.encoders.base import Encoder, Extractor
from dreambench.encoders.extraction import AUTO, Pace
from dreambench.encoders.parts import BlackDetector, HashExtractor
from dreambench.encoders.registry import check_encoders, load_spec
from dreambench.encoders.segmentation import Segmenter
from dreambench.errors import UserError
from dreambench.machine.throughput import Setting, name_device, note_speed
from dreambench.methods.base import Context, Method, Work, describe_track, find_class, make_method
from dreambench.methods.guard import Guard
from dreambench.methods.plugins import check_recipe
from dreambench.metrics.conventions import find_convention, score_convention
from dreambench.metrics.metrics import METRICS
from dreambench.metrics.reference_bounds import compute_reference_bounds, mean_reference_bounds
from dreambench.progress import Progress
from dreambench.report.figures import plot_families, plot_fidelity, plot_grid, plot_intervals
from dreambench.report.tables import write_tables
from dreambench.runs.generate import generate_images
from dreambench.runs.run_folder import Run
from dreambench.runs.train import train_subjects
from dreambench.scoring.measures import (
    ask_for_measures,
    compute_measures,
    open_segmenter,
    summarise_measures,
)
from dreambench.scoring.scores import (
    COLUMNS,
    Extracted,
    clip_texts,
    compute_scores,
    encoder_specs,
    expected_counts,
    extract_image_set,
)
from dreambench.storage.files import make_dir, read_json, write_bytes, write_json

N_GRID_REFERENCES = 3
N_GRID_COLUMNS = 10


class Scorer:
    """The stages from images to numbers, whoever made the images."""

    def __init__(
        self,
        entry: ImageSet,
        *,
        cache_dir: Path,
        progress: Progress,
        pace: Pace = AUTO,
        encoders: Mapping[str, str] | None = None,
    ) -> None:
        self.overrides = encoders
        self.entry = entry
        self.cache_dir = make_dir(cache_dir)
        self.progress = progress
        self.pace = pace

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        specs = encoder_specs(self.entry.protocol, self.overrides)
        check_encoders(self.entry.encoders, specs, where=str(self.entry.run_dir))
        device = self.entry.device
        return {role: load_spec(spec, device=device) for role, spec in specs.items()}

    def embed(self) -> Extracted:
        """Embeds photos, images and texts, as far as the cache does not have them."""
        readers: dict[str, Encoder] = dict(self._encoders)
        clip = readers.get("clip")
        return extract_image_set(
            self.entry,
            readers,
            perceptual=readers.pop("perceptual", None),
            texts={"clip": (clip, clip_texts(self.entry))} if clip else {},
            beside=ask_for_measures(self.entry, self._encoders, self._segmenter[0]),
            cache_dir=self.cache_dir,
            pace=self.pace,
            progress=self.progress,
        )

    def score(self) -> pd.DataFrame:
        """Writes scores.parquet, measures.parquet, and oracles.csv: what the photos score."""
        found = self.embed()
        oracles = compute_reference_bounds(self.entry.subjects, found.rows)
        write_bytes(self.entry.bounds_path, oracles.to_csv(index=False).encode())
        scores = compute_scores(self.entry, found)
        _write_table(self.entry.scores_path, scores)
        measures = compute_measures(self.entry, found, self._encoders, self._segmenter[0])
        _write_table(self.entry.measures_path, measures)
        return scores

    @cached_property
    def _segmenter(self) -> tuple[Segmenter | None, str]:
        name = self.entry.protocol.encoders.segmenter
        return open_segmenter(name, device=self.entry.device, encoders=self.entry.encoders)

    def score_conventions(self, names: Sequence[str]) -> pd.DataFrame:
        """Scores the images under other scorers' conventions and writes conventions.csv.

        One pass over the files: each is decoded once for the encoders of all conventions.
        """
        entry = self.entry
        chosen = [find_convention(name) for name in names]
        specs = {c.name: c.encoders(entry.protocol) for c in chosen}
        distinct = {spec for encoders in specs.values() for spec in encoders.values()}
        for spec in distinct:
            spec.ensure_weights(self.progress)
        loaded = {spec: load_spec(spec, device=entry.device) for spec in distinct}
        readers: dict[str, Extractor] = {e.identity: e for e in loaded.values()}
        readers["black"] = BlackDetector()
        images = {s.name: entry.made_images(s.name) for s in entry.subjects}
        texts = {
            convention.name: (
                loaded[specs[convention.name]["clip"]],
                {
                    convention.text(unit.prompt, subject.class_name)
                    for subject in entry.subjects
                    for unit, _ in images[subject.name]
                },
            )
            for convention in chosen
        }
        found = extract_image_set(
            entry, readers, texts=texts, only_images=["black"], cache_dir=self.cache_dir,
            pace=self.pace, progress=self.progress,
        )  # fmt: skip
        black = {path: bool(row[0]) for path, row in found.rows["black"].items()}
        frames = []
        for convention in chosen:
            encoders = {role: loaded[spec] for role, spec in specs[convention.name].items()}
            frames.append(
                score_convention(
                    convention,
                    entry.subjects,
                    images,
                    {role: found.rows[encoder.identity] for role, encoder in encoders.items()},
                    found.texts[convention.name],
                    black,
                    {role: encoder.identity for role, encoder in encoders.items()},
                )
            )
        table = pd.concat(frames, ignore_index=True).assign(partial=is_partial(entry))
        write_bytes(entry.conventions_path, table.to_csv(index=False).encode())
        return table

    def summarise(self) -> dict[str, Any]:
        """Writes summary.json from the scores; UserError when there are none."""
        summary = make_summary(self.entry, read_scores(self.entry))
        summary["measures"] = self._summarise_measures()
        write_json(self.entry.summary_path, summary)
        return summary

    def _summarise_measures(self) -> dict[str, Any]:
        """Nothing for a protocol that has no metric of DINO or CLIP to stand beside."""
        encoders = self.entry.encoders
        if not {"dino", "clip"} <= set(encoders):
            return {}
        if not self.entry.measures_path.is_file():
            raise UserError(
                f"{self.entry.run_dir} has no measures",
                hint=f"first: dreambench score {self.entry.run_dir}",
            )
        segmenter, why = self._segmenter
        identities = {**encoders, "hash": HashExtractor.identity}
        if segmenter is not None:
            identities["mask"] = segmenter.identity
        images = [u for u in self.entry.plan.images if u.prompt_id != PRIOR_PROMPT_ID]
        return summarise_measures(
            pd.read_parquet(self.entry.measures_path), identities, n_expected=len(images),
            why_no_mask=why,
        )  # fmt: skip


def _write_table(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


class Job(Scorer):
    """All stages of one run. Each can be called alone and does only what is left.

    What a method fails at is in `failures`, and the rest goes on; a full disk, a stop by the user
    and what is wrong with the run itself are raised.
    """

    def __init__(
        self,
        run: Run,
        *,
        cache_dir: Path,
        progress: Progress,
        pace: Pace = AUTO,
        encoders: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(run, cache_dir=cache_dir, progress=progress, pace=pace, encoders=encoders)
        self.run = run
        self.failures = Failures(run.run_dir, run.name)
        self.refusal: UserError | None = None
        is_plugin = isinstance(run.request.recipe, PluginRecipe)
        self._guard = Guard(run, cache_dir=self.cache_dir) if is_plugin else None

    @cached_property
    def _method(self) -> Method | None:
        """The method; None, and a failure, when it cannot be had: then no subject can."""
        request = self.run.request
        context = Context(
            base_model=self.run.base_model,
            sampler=request.protocol.sampler,
            device=request.device,
            precision=request.precision,  # type: ignore[arg-type]
            batch_size=request.batch_size,
            cache_dir=self.cache_dir,
            progress=self.progress,
        )
        self.failures.forget("constructor")
        find_class(request.recipe)  # Not to have its code is no failure of the method's.
        try:
            with self._guard.watch() if self._guard else nullcontext():
                return make_method(request.recipe, context)
        except Exception as error:
            n_images = len(self.run.missing_images())
            self.failures.record("constructor", "", error, n_images=n_images)
            self.refusal = error if isinstance(error, UserError) else None
            return None

    def train(self) -> None:
        """Tunes on the subjects that are left."""
        self.failures.forget("fit")
        if self.run.missing_training() and (method := self._method) is not None:
            train_subjects(
                self.run, method, self.progress, failures=self.failures, guard=self._guard
            )
            self._note_training_speed()

    def generate(self) -> None:
        """Makes the images that are left, but of subjects whose tuning failed."""
        self.failures.forget("load", "generate")
        untuned = {unit.subject for unit in self.run.missing_training()}
        untuned -= self.failures.of("fit")
        # What cannot be made was said when the tuning wanted it.
        is_refused = "_method" in vars(self) and self._method is None
        if untuned and not is_refused:
            raise UserError(
                f"{len(untuned)} subjects of {self.run.run_dir} are not tuned",
                hint=f"first: dreambench train {self.run.run_dir}",
            )
        missing = self.run.missing_images()
        if missing and (method := self._method) is not None:
            started = time.monotonic()
            generate_images(
                self.run, method, self.progress, failures=self.failures, guard=self._guard
            )
            made = set(missing) - set(self.run.missing_images())
            if made and self._work.draws:
                seconds = time.monotonic() - started
                n_prior = sum(unit.prompt_id == PRIOR_PROMPT_ID for unit in made)
                n_drawn = n_prior + (len(made) - n_prior) * self._work.drawing
                n_calls = n_drawn * self.run.request.protocol.sampler.n_calls
                self._note_speed("network_call", seconds / n_calls)

    @property
    def _work(self) -> Work:
        return check_recipe(self.run.request.recipe, self.run.base_model)

    def _note_training_speed(self) -> None:
        """The median subject's, since the first one of a class may make class images as well."""
        n_images = self._work.optimizer_steps * self._work.images_per_step
        subjects = [
            u.subject for u in self.run.plan.train if self.run.train_dir(u.subject).is_dir()
        ]
        if n_images and subjects:
            notes = [self.run.train_dir(subject) / "done.json" for subject in subjects]
            seconds = float(np.median([read_json(note)["train_seconds"] for note in notes]))
            self._note_speed("training_image", seconds / n_images)

    def _note_speed(self, what: str, seconds_per_unit: float) -> None:
        request = self.run.request
        setting = Setting(
            name_device(request.device),
            self.run.base_model.name,
            request.protocol.sampler.size_px,
            request.precision,
        )
        note_speed(self.cache_dir, setting, what, seconds_per_unit=seconds_per_unit)

    def aggregate(self, *, allow_incomplete: bool = False) -> dict[str, Any]:
        """Writes summary.json; refuses a run with missing images unless told otherwise."""
        read_scores(self.run)  # A run without scores is told that first.
        missing = len(self.run.missing_images())
        if missing and not allow_incomplete:
            raise UserError(
                f"{self.run.run_dir}: {missing} of {len(self.run.plan.images)} images are missing",
                hint="run the same command again to make them, or pass --allow-incomplete",
            )
        return self.summarise()


def is_partial(entry: ImageSet) -> bool:
    """Whether this is less than its protocol: narrowed, or with images missing."""
    return entry.is_partial or bool(entry.missing_images())


def read_scores(entry: ImageSet) -> pd.DataFrame:
    """The scores of a run; UserError when it has none."""
    if not entry.scores_path.is_file():
        raise UserError(
            f"{entry.run_dir} has no scores", hint=f"first: dreambench score {entry.run_dir}"
        )
    return pd.read_parquet(entry.scores_path)


def _read_measures(entry: ImageSet) -> pd.DataFrame:
    """The measures of a run's images; none where its protocol has no metric of DINO and CLIP."""
    if not entry.measures_path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_parquet(entry.measures_path)


def read_reference_bounds(entry: ImageSet) -> pd.DataFrame:
    """What the real photos of a run score; UserError when it was not scored."""
    if not entry.bounds_path.is_file():
        raise UserError(
            f"{entry.run_dir} has no oracles", hint=f"first: dreambench score {entry.run_dir}"
        )
    return pd.read_csv(entry.bounds_path)


def make_summary(entry: ImageSet, scores: pd.DataFrame) -> dict[str, Any]:
    """The numbers of a run, or of brought images, with everything that they depend on."""
    table = estimate_table(scores).set_index("metric")
    expected = expected_counts(entry)
    metrics = {}
    for name in expected:
        metric = METRICS[name]
        scored = int(scores.loc[scores["metric"] == name, "n_pairs"].sum())
        row = table.loc[name] if name in table.index else None
        n_subjects = 0 if row is None else int(row["n_subjects"])
        low = _number(row, "low")
        metrics[name] = {
            "mean": None if row is None else float(row["mean"]),
            "low": low,
            "high": _number(row, "high"),
            "n_subjects": n_subjects,
            "no_interval": why_no_interval(n_subjects, low),
            "n_scored": scored,
            "n_expected": expected[name],
            "higher_is_better": metric.higher_is_better,
            "signature": metric.signature(entry.encoders),
        }
        if name in entry.not_measured:
            metrics[name]["not_measured"] = entry.not_measured[name]
    session = entry.manifest["sessions"][-1]
    n_missing = len(entry.missing_images())
    summary = {
        "method": entry.name,
        "protocol": f"{entry.protocol.name} v{entry.protocol.version}",
        "partial": is_partial(entry),
        "n_images": len(entry.plan.images) - n_missing,
        "n_images_expected": len(entry.plan.images),
        "interval": "95 %, Student t over subjects, within the range of what is measured",
        "metrics": metrics,
        "oracles": mean_reference_bounds(read_reference_bounds(entry)),
        "digests": entry.manifest["digests"],
        "encoders": entry.encoders,
        "device": entry.device,
        "precision": entry.manifest["precision"],
        "packages": session["packages"],
        "python": session["python"],
        "code": session["code"],
    }
    if isinstance(entry, Run):
        recipe = entry.request.recipe
        summary["track"] = describe_track(recipe, entry.base_model.name)
        if isinstance(recipe, PluginRecipe):
            summary["method_code"] = recipe.code
        summary |= summarise_failures(read_failures(entry.run_dir))
    if "images" in entry.manifest:
        summary["images"] = entry.manifest["images"]
    return summary


def _number(row: pd.Series | None, key: str) -> float | None:
    """A float for JSON, which has no NaN."""
    return None if row is None or np.isnan(row[key]) else float(row[key])


def run_all(
    run: Run,
    *,
    cache_dir: Path,
    progress: Progress,
    pace: Pace = AUTO,
    encoders: Mapping[str, str] | None = None,
) -> Job:
    """Every stage of one run up to its summary, and the job for what failed in it.

    What a method failed at leaves the summary partial; where no image was made there is none.
    """
    job = Job(run, cache_dir=cache_dir, progress=progress, pace=pace, encoders=encoders)
    job.train()
    job.generate()
    if len(run.missing_images()) < len(run.plan.images):
        job.score()
        job.aggregate(allow_incomplete=bool(job.failures.found))
    return job


def read_comparable(runs: Sequence[ImageSet]) -> list[Scored]:
    """Scores and summaries of runs to be set side by side, each with a name of its own.

    Raises UserError when they are not of one protocol and data set, or one has no summary.
    """
    check_comparable(runs)
    found: list[Scored] = []
    for run in runs:
        if not run.summary_path.is_file():
            raise UserError(
                f"{run.run_dir} has no summary", hint=f"first: dreambench aggregate {run.run_dir}"
            )
        n_before = sum(other.name == run.name for other in runs[: len(found)])
        name = f"{run.name} #{n_before + 1}" if n_before else run.name
        found.append(
            Scored(name, read_scores(run), read_json(run.summary_path), _read_measures(run))
        )
        for metric, own in found[-1].signatures.items():
            # The same encoder does not do: a metric's own version may have changed in between.
            signature = found[0].signatures.get(metric)
            if None not in (own, signature) and own != signature:
                raise UserError(
                    f"{run.run_dir} has {own} where {runs[0].run_dir} has {signature}",
                    hint="score and aggregate both again",
                )
    return found


def write_report(run: ImageSet, beside: Sequence[ImageSet]) -> tuple[list[Scored], list[Path]]:
    """Tables, plots and the image grid of a run beside others, in `<run>/report`.

    Raises UserError when the runs are not of one protocol and data set.
    """
    scored = read_comparable([run, *beside])
    out_dir = make_dir(run.report_dir)
    paths = write_tables(scored, out_dir)
    estimates = pd.concat([estimate_table(s.scores).assign(method=s.label) for s in scored])
    families = pd.concat(
        [
            estimate_table(s.scores[s.scores["metric"].isin(["dino", "clip-t"])], by=["family"])
            .assign(method=s.label)
            for s in scored
        ]
    )  # fmt: skip
    paths.append(plot_intervals(estimates, out_dir / "intervals.png"))
    if len(families):
        paths.append(plot_families(families, out_dir / "families.png"))
    by_subject = {s.label: mean_by_subject(s.scores) for s in scored}
    if all({"dino", "clip-t"} <= set(s.scores["metric"]) for s in scored):
        paths.append(plot_fidelity(by_subject, out_dir / "fidelity.png"))
    grid = out_dir / "grid.png"
    if any(run.made_images(subject.name) for subject in run.subjects):
        paths.append(_write_grid(run, grid))
    elif grid.is_file():
        # Where brought images lie is written nowhere: their grid is from when they were scored.
        paths.append(grid)
    shown = [
        (one.label, entry)
        for one, entry in zip(scored, [run, *beside], strict=True)
        if any(entry.made_images(subject.name) for subject in run.subjects)
    ]
    grids_dir, grids = out_dir / "grids", []
    if len(shown) > 1:
        grids = [
            _write_grid(entry, make_dir(grids_dir) / f"{label}.png")
            for label, entry in shown
            if entry is not run
        ]
        paths += grids
        paths.append(_write_side_by_side(shown, out_dir / "side-by-side.png"))
    # An earlier report had other rows.
    for old in set(grids_dir.glob("*.png")) - set(grids):
        old.unlink()
    return scored, paths


def _write_side_by_side(shown: Sequence[tuple[str, ImageSet]], path: Path) -> Path:
    """A row a method, a column a subject with a prompt of its own; photos in the first row."""
    first = shown[0][1]
    columns = _choose_columns(first)
    subjects = first.subjects[:N_GRID_COLUMNS]
    units = [
        next(
            column[subject.name]
            for column in columns[index % len(columns) :] + columns
            if subject.name in column
        )
        for index, subject in enumerate(subjects)
    ]
    rows: list[tuple[str, Sequence[Path], Sequence[Path]]] = [
        ("a photo", (), [subject.photos[0] for subject in subjects])
    ]
    rows += [(label, (), [entry.find_image(u) or Path() for u in units]) for label, entry in shown]
    return plot_grid(rows, [unit.clip_text for unit in units], path, n_references=0)


def _write_grid(run: ImageSet, path: Path) -> Path:
    """A row a subject, a column a prompt: its first image."""
    columns = _choose_columns(run)
    rows = []
    for subject in run.subjects:
        units = [column.get(subject.name) for column in columns]
        files = [(unit and run.find_image(unit)) or Path() for unit in units]
        rows.append((subject.name, subject.photos, files))
    titles = [
        "\n".join(dict.fromkeys(u.prompt.replace("{subject}", "[V]") for u in column.values()))
        for column in columns
    ]
    return plot_grid(rows, titles, path, n_references=N_GRID_REFERENCES)


def _choose_columns(run: ImageSet) -> list[dict[str, ImageUnit]]:
    """Up to N_GRID_COLUMNS columns, subject -> image, from all families in turns.

    A prompt that only one kind of subject gets shares its column with one that the other gets.
    """
    first = [u for u in run.plan.images if u.k == 0 and u.prompt_id != PRIOR_PROMPT_ID]
    n_users = Counter(unit.prompt_id for unit in first)
    shared: dict[str, dict[str, ImageUnit]] = {}
    paired: dict[int, dict[str, ImageUnit]] = {}
    for subject in run.subjects:
        own = 0
        for unit in (unit for unit in first if unit.subject == subject.name):
            if n_users[unit.prompt_id] == len(run.subjects):
                shared.setdefault(unit.prompt_id, {})[subject.name] = unit
            else:
                paired.setdefault(own, {})[subject.name] = unit
                own += 1
    columns = [*shared.values(), *paired.values()]
    by_family: dict[tuple[str, ...], list[int]] = {}
    for index, column in enumerate(columns):
        families = tuple(sorted({unit.family for unit in column.values()}))
        by_family.setdefault(families, []).append(index)
    turns = [index for turn in zip_longest(*by_family.values()) for index in turn]
    chosen = [index for index in turns if index is not None][:N_GRID_COLUMNS]
    return [columns[index] for index in sorted(chosen)]
