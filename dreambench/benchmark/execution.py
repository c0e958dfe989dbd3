"""Planned runs from their first image to the report, with one worker or many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from dreambench.analysis.comparison import Scored
from dreambench.analysis.steps import STEPS
from dreambench.analysis.summary import summarise
from dreambench.artifacts.image_set import hold_folder
from dreambench.artifacts.results import has_summary
from dreambench.benchmark.planning import RunOptions
from dreambench.encoders.feature_cache import FeatureCache
from dreambench.encoders.pace import Shard
from dreambench.errors import UserError
from dreambench.machine.devices import pick_device, pick_devices
from dreambench.preflight.workers import choose_nodes, choose_workers
from dreambench.progress import Progress, no_progress
from dreambench.report.writing import write_report
from dreambench.runs.executors.base import Executor, Task
from dreambench.runs.executors.local import Here, LocalPlace
from dreambench.runs.executors.pool import Pool
from dreambench.runs.executors.ray import RayPool
from dreambench.runs.pipeline import Pipeline, work_through
from dreambench.runs.run_folder import Run, open_run
from dreambench.runs.tracking import Tracking, open_tracker
from dreambench.runs.units import Terms
from dreambench.scoring.process import (
    ScoreRequest,
    add_up,
    hash_ahead,
    make_handler,
    pack,
    score_apart,
    start_scoring,
    stop_scoring,
)
from dreambench.storage.files import digest
from dreambench.storage.shipped import cache_dir as default_cache_dir

TRACKED = "tracked"
"""Where a tracker keeps its files, in the folder of the runs."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a command of one or more methods ended with.

    `pipelines` are those of all methods, with what failed in them; `scored` and `paths` those of
    the report, which has no row for a method that made no image at all.
    """

    pipelines: Sequence[Pipeline]
    scored: Sequence[Scored]
    paths: Sequence[Path]


def execute_runs(
    planned: Sequence[Run],
    options: RunOptions,
    *,
    progress: Progress = no_progress,
    begin: Callable[[str, int, int], None] = no_progress,
) -> Outcome:
    """Train, generate, score and summarise each run, then write the report of the first.

    `begin` is called for each method before it starts: name, its index from 0, number of methods.
    """
    pipelines = complete_runs(planned, options, progress=progress, begin=begin)
    # Replicates join the report of their first by themselves.
    first = [one.run for one in pipelines if one.run.manifest.replicate == 1]
    runs = [run for run in first if has_summary(run)]
    if not runs:
        return Outcome(pipelines, [], [])
    with hold_folder(runs[0].folder, joins=True):
        return Outcome(pipelines, *write_report(runs[0], runs[1:]))


def complete_runs(
    planned: Sequence[Run],
    options: RunOptions,
    *,
    progress: Progress = no_progress,
    begin: Callable[[str, int, int], None] = no_progress,
) -> list[Pipeline]:
    """Run every stage up to the summary, see `execute_runs`; without an image there is none.

    Of the options only those of how the work is done count.
    """
    tracker = None if options.track is None else open_tracker(options.track, options.out / TRACKED)
    tracking = Tracking(tracker)
    pipelines = [_make_pipeline(run, options, progress, tracking=tracking) for run in planned]

    def open_folder(pipeline: Pipeline) -> None:
        begin(pipeline.run.name, pipelines.index(pipeline), len(pipelines))
        with hold_folder(pipeline.run.folder, joins=True):
            pipeline.run = open_run(pipeline.run, session=executor.describe(pipeline.run))
        pipeline.plan_images()

    def score(pipeline: Pipeline) -> None:
        run = pipeline.run
        if not run.has_images():
            return
        asked = ScoreRequest(
            metrics=options.metrics, encoders=options.encoders,
            cache_dir=pipeline.terms.cache_dir, data_dir=options.data_dir, device=scoring_device,
        )  # fmt: skip
        with hold_folder(run.folder, joins=True):
            # What was scored before is in the cache.
            is_shared = options.storage == "shared" and not has_summary(run)
            if isinstance(executor, RayPool) and is_shared:
                _extract_on_nodes(executor, run, asked, progress)
            score_apart(run, asked, progress=progress)
            summarise(run, allow_incomplete=bool(pipeline.failures))

    if options.executor == "ray" and options.storage == "driver":
        logger.warning("--storage driver: no node sees the images, so they are scored here alone")
    # Other machines may have what this one has not.
    scoring_device = pick_device("auto") if options.executor == "ray" else None
    start_scoring(scoring_device or planned[0].device)
    with _start_workers(planned, options) as executor:
        if options.checkpoints:
            _train_with_checkpoints(planned, options, executor, progress)
        work_through(pipelines, executor, begin=open_folder, finish=score)
    tracking.close()
    return pipelines


@contextmanager
def _start_workers(planned: Sequence[Run], options: RunOptions) -> Iterator[Executor]:
    """Start what makes images; end it, and what scores, where something else ends the command."""
    executor = _open_executor(planned, options)
    try:
        yield executor
    except BaseException:
        stop_scoring()
        raise
    finally:
        executor.close()


def _open_executor(planned: Sequence[Run], options: RunOptions) -> Executor:
    if options.executor == "ray":
        n_workers, needs = choose_nodes(planned, options.address, options.workers)
        return RayPool(n_workers, needs, device=planned[0].device, storage=options.storage)
    workers = choose_workers(planned, pick_devices(options.device), options.workers)
    if len(workers) == 1 and workers[0] == planned[0].device:
        return Here()
    return Pool([LocalPlace(device) for device in workers])


def _extract_on_nodes(pool: RayPool, run: Run, asked: ScoreRequest, progress: Progress) -> None:
    """Fill the cache with a run's features, by the workers of a cluster; then scoring is quick.

    Raises:
        UserError: as `Scorer` does; or no worker outlives its part.
    """
    asked = replace(asked, device=run.device, n_cores=int(pool.needs.n_cpus))
    tell = add_up(progress)
    with FeatureCache(asked.cache_dir) as cache:
        hash_ahead(run, cache)
        parts = [replace(asked, shard=Shard(n, pool.n_workers)) for n in range(pool.n_workers)]
        tasks = [
            Task(
                name=f"{run.name}, scoring", make_handler=make_handler, request=pack(run, part),
                seen={cache.session: b""},
            )
            for part in parts
        ]  # fmt: skip
        jobs = [pool.submit_task(task, partial(tell, n)) for n, task in enumerate(tasks)]
        # All of them, so that nobody else is at what is done here otherwise.
        errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        if not isinstance(error, UserError) or error.code != "not-shared":
            raise error
    if errors:
        logger.warning("%s; images are scored here alone", errors[0])


def _make_pipeline(
    run: Run,
    options: RunOptions,
    progress: Progress,
    checkpoints: Mapping[int, Run] = MappingProxyType({}),
    *,
    tracking: Tracking | None = None,
) -> Pipeline:
    terms = Terms(
        cache_dir=options.cache_dir or default_cache_dir(), data_dir=options.data_dir,
        unit_timeout=options.unit_timeout, keep_weights=options.keep_weights,
    )  # fmt: skip
    return Pipeline(run, terms=terms, progress=progress, checkpoints=checkpoints, tracking=tracking)


def _train_with_checkpoints(
    planned: Sequence[Run], options: RunOptions, executor: Executor, progress: Progress
) -> None:
    """Train each recipe to its last checkpoint, which leaves the others in their runs' folders.

    What fails here is tried again, and said, when the run's own turn comes.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in planned:
        settings = dict(run.manifest.recipe.settings)
        steps = settings.pop(STEPS, None)
        if steps in options.checkpoints:
            key = digest([run.recipe.method, settings, run.manifest.replicate])
            groups.setdefault(key, {})[steps] = run
    for group in groups.values():
        if not group[max(group)].missing_training():
            continue
        opened = {}
        for step, run in group.items():
            with hold_folder(run.folder, joins=True):
                opened[step] = open_run(run, session=executor.describe(run))
        last = opened.pop(max(opened))
        _make_pipeline(last, options, progress, checkpoints=opened).train(executor)
