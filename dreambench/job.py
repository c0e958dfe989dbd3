"""The main job: all stages of a run, one after another, and the report of a run beside others."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dreambench.conventions import find_convention, score_convention
from dreambench.embed import AUTO, BlackFinder, Pace, Reader
from dreambench.encoders import Encoder, load_encoder, load_spec
from dreambench.errors import UserError
from dreambench.files import make_dir, read_json, write_bytes, write_json
from dreambench.generate import generate_images
from dreambench.methods import (
    Context,
    Method,
    Work,
    find_method,
    make_method,
    read_settings,
)
from dreambench.metrics import METRICS
from dreambench.oracles import compute_oracles, mean_oracles
from dreambench.plan import ImageUnit
from dreambench.plots import plot_families, plot_fidelity, plot_grid, plot_intervals
from dreambench.progress import Progress
from dreambench.protocol import PRIOR_PROMPT_ID
from dreambench.report import Scored, write_tables
from dreambench.run import Run
from dreambench.score import (
    Embedded,
    clip_texts,
    compute_scores,
    embed_run,
    encoder_specs,
    expected_counts,
)
from dreambench.speeds import Setting, name_device, note_speed
from dreambench.stats import estimate_table, mean_by_subject
from dreambench.train import train_subjects

N_GRID_REFERENCES = 3
N_GRID_COLUMNS = 10


class Job:
    """The stages of one run. Each can be called alone and does only what is left."""

    def __init__(
        self,
        run: Run,
        *,
        cache_dir: Path,
        progress: Progress,
        pace: Pace = AUTO,
    ) -> None:
        self.run = run
        self.cache_dir = make_dir(cache_dir)
        self.progress = progress
        self.pace = pace

    @cached_property
    def _method(self) -> Method:
        request = self.run.request
        return make_method(
            request.recipe,
            Context(
                base_model=self.run.base_model,
                sampler=request.protocol.sampler,
                device=request.device,
                precision=request.precision,  # type: ignore[arg-type]
                batch_size=request.batch_size,
                cache_dir=self.cache_dir,
                progress=self.progress,
            ),
        )

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        specs = encoder_specs(self.run.request.protocol)
        device = self.run.request.device
        return {role: load_encoder(spec.name, role, device=device) for role, spec in specs.items()}

    def train(self) -> None:
        """Tunes on the subjects that are left."""
        if self.run.missing_training():
            train_subjects(self.run, self._method, self.progress)
            self._note_training_speed()

    def generate(self) -> None:
        """Makes the images that are left."""
        if self.run.missing_training():
            raise UserError(
                f"{len(self.run.missing_training())} subjects of {self.run.run_dir} are not tuned",
                hint=f"first: dreambench train {self.run.run_dir}",
            )
        n_missing = len(self.run.missing_images())
        if n_missing:
            method, started = self._method, time.monotonic()
            generate_images(self.run, method, self.progress)
            if self._work.draws:
                seconds = time.monotonic() - started
                n_calls = n_missing * self.run.request.protocol.sampler.n_calls
                self._note_speed("network_call", seconds / n_calls)

    @property
    def _work(self) -> Work:
        recipe, base = self.run.request.recipe, self.run.base_model
        return find_method(recipe.method).count_work(read_settings(recipe, base.name), base)

    def _note_training_speed(self) -> None:
        """The median subject's, since the first one of a class may make class images as well."""
        n_images = self._work.optimizer_steps * self._work.images_per_step
        if n_images:
            notes = [self.run.train_dir(unit.subject) / "done.json" for unit in self.run.plan.train]
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

    def embed(self) -> Embedded:
        """Embeds photos, images and texts, as far as the cache does not have them."""
        readers: dict[str, Encoder] = dict(self._encoders)
        clip = readers.get("clip")
        return embed_run(
            self.run,
            readers,
            perceptual=readers.pop("perceptual", None),
            texts={"clip": (clip, clip_texts(self.run))} if clip else {},
            cache_dir=self.cache_dir,
            pace=self.pace,
            progress=self.progress,
        )

    def score(self) -> pd.DataFrame:
        """Writes scores.parquet, and oracles.csv: what the real photos score by these encoders."""
        found = self.embed()
        oracles = compute_oracles(self.run.subjects, found.rows)
        write_bytes(self.run.oracles_path, oracles.to_csv(index=False).encode())
        scores = compute_scores(self.run, found)
        buffer = io.BytesIO()
        scores.to_parquet(buffer, index=False)
        write_bytes(self.run.scores_path, buffer.getvalue())
        return scores

    def score_conventions(self, names: Sequence[str]) -> pd.DataFrame:
        """Scores the images under other scorers' conventions and writes conventions.csv.

        One pass over the files: each is decoded once for the encoders of all conventions.
        """
        protocol, device = self.run.request.protocol, self.run.request.device
        chosen = [find_convention(name) for name in names]
        specs = {c.name: c.encoders(protocol) for c in chosen}
        distinct = {spec for encoders in specs.values() for spec in encoders.values()}
        loaded = {spec: load_spec(spec, device=device) for spec in distinct}
        readers: dict[str, Reader] = {e.identity: e for e in loaded.values()}
        readers["black"] = BlackFinder()
        images = {s.name: self.run.made_images(s.name) for s in self.run.subjects}
        texts = {
            convention.name: (
                loaded[specs[convention.name]["clip"]],
                {
                    convention.text(unit.prompt, subject.class_name)
                    for subject in self.run.subjects
                    for unit, _ in images[subject.name]
                },
            )
            for convention in chosen
        }
        found = embed_run(
            self.run, readers, texts=texts, only_images=["black"], cache_dir=self.cache_dir,
            pace=self.pace, progress=self.progress,
        )  # fmt: skip
        black = {path: bool(row[0]) for path, row in found.rows["black"].items()}
        frames = []
        for convention in chosen:
            encoders = {role: loaded[spec] for role, spec in specs[convention.name].items()}
            frames.append(
                score_convention(
                    convention,
                    self.run.subjects,
                    images,
                    {role: found.rows[encoder.identity] for role, encoder in encoders.items()},
                    found.texts[convention.name],
                    black,
                    {role: encoder.identity for role, encoder in encoders.items()},
                )
            )
        table = pd.concat(frames, ignore_index=True)
        write_bytes(self.run.run_dir / "conventions.csv", table.to_csv(index=False).encode())
        return table

    def aggregate(self, *, allow_incomplete: bool = False) -> dict[str, Any]:
        """Writes summary.json; refuses a run with missing images unless told otherwise."""
        scores = read_scores(self.run)
        missing = len(self.run.missing_images())
        if missing and not allow_incomplete:
            raise UserError(
                f"{self.run.run_dir}: {missing} of {len(self.run.plan.images)} images are missing",
                hint="run the same command again to make them, or pass --allow-incomplete",
            )
        summary = make_summary(self.run, scores)
        write_json(self.run.summary_path, summary)
        return summary


def read_scores(run: Run) -> pd.DataFrame:
    """The scores of a run; UserError when it has none."""
    if not run.scores_path.is_file():
        raise UserError(
            f"{run.run_dir} has no scores", hint=f"first: dreambench score {run.run_dir}"
        )
    return pd.read_parquet(run.scores_path)


def read_oracles(run: Run) -> pd.DataFrame:
    """What the real photos of a run score; UserError when it was not scored."""
    if not run.oracles_path.is_file():
        raise UserError(
            f"{run.run_dir} has no oracles", hint=f"first: dreambench score {run.run_dir}"
        )
    return pd.read_csv(run.oracles_path)


def make_summary(run: Run, scores: pd.DataFrame) -> dict[str, Any]:
    """The numbers of a run with everything that they depend on."""
    table = estimate_table(scores).set_index("metric")
    expected = expected_counts(run)
    encoders = dict(run.request.encoders)
    metrics = {}
    for name in expected:
        metric = METRICS[name]
        scored = int(scores.loc[scores["metric"] == name, "n_pairs"].sum())
        row = table.loc[name] if name in table.index else None
        metrics[name] = {
            "mean": None if row is None else float(row["mean"]),
            "low": _number(row, "low"),
            "high": _number(row, "high"),
            "n_subjects": 0 if row is None else int(row["n_subjects"]),
            "n_scored": scored,
            "n_expected": expected[name],
            "higher_is_better": metric.higher_is_better,
            "signature": metric.signature(encoders),
        }
    session = run.manifest["sessions"][-1]
    return {
        "method": run.name,
        "protocol": f"{run.request.protocol.name} v{run.request.protocol.version}",
        "partial": run.is_partial or bool(run.missing_images()),
        "n_images": len(run.plan.images) - len(run.missing_images()),
        "n_images_expected": len(run.plan.images),
        "interval": "95 %, Student t over subjects",
        "metrics": metrics,
        "oracles": mean_oracles(read_oracles(run)),
        "digests": run.manifest["digests"],
        "encoders": encoders,
        "device": run.request.device,
        "precision": run.request.precision,
        "packages": session["packages"],
        "python": session["python"],
        "code": session["code"],
    }


def _number(row: pd.Series | None, key: str) -> float | None:
    """A float for JSON, which has no NaN."""
    return None if row is None or np.isnan(row[key]) else float(row[key])


def run_all(
    run: Run,
    *,
    cache_dir: Path,
    progress: Progress,
    pace: Pace = AUTO,
) -> None:
    """Every stage of one run up to its summary."""
    job = Job(run, cache_dir=cache_dir, progress=progress, pace=pace)
    job.train()
    job.generate()
    job.score()
    job.aggregate()


def write_report(run: Run, beside: Sequence[Run]) -> tuple[list[Scored], list[Path]]:
    """Tables, plots and the image grid of a run beside others, in `<run>/report`.

    Raises UserError when the runs are not of one protocol and data set.
    """
    runs = [run, *beside]
    for other in beside:
        for key in ("protocol", "data", "base_model"):
            if other.manifest["digests"][key] != run.manifest["digests"][key]:
                raise UserError(
                    f"{other.run_dir} has another {key} than {run.run_dir}",
                    hint="compare runs of one protocol only",
                )
    scored = [Scored(r.name, read_scores(r), read_json(r.summary_path)) for r in runs]
    out_dir = make_dir(run.run_dir / "report")
    paths = write_tables(scored, out_dir)
    estimates = pd.concat([estimate_table(s.scores).assign(method=s.name) for s in scored])
    families = pd.concat(
        [
            estimate_table(s.scores[s.scores["metric"].isin(["dino", "clip-t"])], by=["family"])
            .assign(method=s.name)
            for s in scored
        ]
    )  # fmt: skip
    paths.append(plot_intervals(estimates, out_dir / "intervals.png"))
    if len(families):
        paths.append(plot_families(families, out_dir / "families.png"))
    by_subject = {s.name: mean_by_subject(s.scores) for s in scored}
    if {"dino", "clip-t"} <= set(run.request.protocol.metrics):
        paths.append(plot_fidelity(by_subject, out_dir / "fidelity.png"))
    paths.append(_write_grid(run, out_dir / "grid.png"))
    return scored, paths


def _write_grid(run: Run, path: Path) -> Path:
    """A row a subject, a column a prompt: its first image."""
    columns = _choose_columns(run)
    rows = []
    for subject in run.subjects:
        units = [column.get(subject.name) for column in columns]
        files = [run.image_path(unit) if unit else Path() for unit in units]
        rows.append((subject.name, subject.photos, files))
    titles = [
        "\n".join(dict.fromkeys(u.prompt.replace("{subject}", "[V]") for u in column.values()))
        for column in columns
    ]
    return plot_grid(rows, titles, path, n_references=N_GRID_REFERENCES)


def _choose_columns(run: Run) -> list[dict[str, ImageUnit]]:
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
