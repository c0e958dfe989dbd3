"""From the names of a command to runs that can be begun, or what they would take."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dreambench.analysis.steps import STEPS
from dreambench.artifacts.image_set import replicate_folder
from dreambench.base_models.registry import find_family
from dreambench.base_models.spec import BaseModel
from dreambench.config.protocol import Protocol, choose_prompts, list_all, load_protocol
from dreambench.config.recipe import Recipe
from dreambench.config.sampler import Precision
from dreambench.encoders.feature_cache import read_max_bytes
from dreambench.encoders.registry import ENCODER_LIBRARIES
from dreambench.errors import UserError
from dreambench.machine.child_process import prepare_children
from dreambench.machine.devices import pick_devices, pick_precision
from dreambench.methods.plugins import ALL, check_recipe, find_recipe, find_recipes
from dreambench.methods.registry import check_subjects, find_class
from dreambench.methods.words import note_identifier
from dreambench.preflight.cost_estimate import Estimate, make_estimate
from dreambench.preflight.workers import find_devices
from dreambench.progress import Progress, no_progress
from dreambench.runs.executors import local
from dreambench.runs.executors.ray import Storage
from dreambench.runs.run_folder import Request, Run, check_folder, plan_run
from dreambench.scoring import process
from dreambench.scoring.tools import prepare_encoders

ALONGSIDE = ("class-only", "copy-reference")
"""The floor of every method, and what copying a photo earns."""
PAPER_COMMAND = "dreambench run --method {method} --protocol dreambench"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `dreambench run` takes; empty for all or for the default.

    `methods` and `alongside` are names, recipes (.toml) or `FILE.py:Class`; `subjects`, `families`
    and `prompts` narrow a protocol; `metrics` are added to those of the protocol, `encoders`
    in place of its own by role; `settings` replace those of the recipes of
    `methods`, which then have names of their own. Methods that train have `replicates` runs, each
    with training seeds of its own. With `checkpoints` each of `methods` has a run for each of these
    numbers of steps, all of one training, and one photo of each subject is held out.
    `unit_timeout` is how many seconds a method may train on a subject or make a batch of images.
    `device` may name several, comma-separated; `workers` are the processes that train and generate
    at once (None: as `choose_workers` finds), on this machine or, by the executor `ray`, on the
    cluster at `address`, whose nodes see the run folders or not (`storage`); `keep_weights` says
    whether what was trained stays when its images are made (None: where it is small); `track` names
    a tracker of experiments. No image depends on these.
    """

    methods: Sequence[str]
    alongside: Sequence[str] = ALONGSIDE
    protocol: str | None = None
    subjects: Sequence[str] = ()
    families: Sequence[str] = ()
    prompts: Sequence[str] = ()
    metrics: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    replicates: int = 1
    checkpoints: Sequence[int] = ()
    out: Path = Path("runs")
    device: str = "auto"
    precision: Precision | None = None
    batch_size: int = 16
    data_dir: Path | None = None
    cache_dir: Path | None = None
    workers: int | None = None
    executor: Literal["local", "ray"] = "local"
    address: str | None = None
    storage: Storage = "shared"
    keep_weights: bool | None = None
    track: str | None = None
    unit_timeout: float | None = None


def plan_runs(options: RunOptions, *, progress: Progress = no_progress) -> list[Run]:
    """Plan all runs of a command before the first is begun: a mistake in the last shows now.

    Raises:
        UserError: a name is unknown, or a folder holds another run.
    """
    _prepare_children(options)
    named, optional = _check_names(options)
    device = _find_device(options)
    protocol = choose_protocol(options)
    precision = pick_precision(options.precision, protocols=protocol.precision, device=device)
    read_max_bytes()  # A mistake in the environment shows now, too.
    base_model = options.base_model or protocol.base_model
    recipes = _find_recipes(options, base_model.partition("=")[0], named, optional)
    encoders = prepare_encoders(
        protocol, metrics=options.metrics, overrides=options.encoders, progress=progress
    )
    prompts = choose_prompts(protocol, families=options.families, prompt_ids=options.prompts)
    planned = [
        plan_run(
            replicate_folder(options.out / protocol.name / recipe.name, replicate),
            Request(
                protocol=protocol,
                recipe=recipe,
                subjects=tuple(options.subjects) or None,
                prompts=prompts,
                base_model=base_model,
                device=device,
                precision=precision,
                batch_size=options.batch_size,
                replicate=replicate,
                encoders=encoders,
                data_dir=options.data_dir,
            ),
        )
        for replicate in range(1, options.replicates + 1)
        for recipe in recipes
        if replicate == 1 or find_class(recipe).tunes
    ]
    for run in planned:
        check_subjects(run.recipe, run.protocol)
        check_recipe(run.recipe, run.base_model)
        check_folder(run)
    _tell(planned)
    return planned


def _prepare_children(options: RunOptions) -> None:
    """Start what processes are forked from, before any code from outside runs here."""
    # A cluster's devices are not those of this machine.
    here = "auto" if options.executor == "ray" else options.device
    modules = [local.__name__, process.__name__, find_family("stable-diffusion").__module__]
    prepare_children(
        [*modules, *ENCODER_LIBRARIES], device=pick_devices(here)[0], n_at_once=options.workers or 1
    )


def _find_device(options: RunOptions) -> str:
    """Return the device that runs are planned for; which of several of a kind is chance."""
    if options.address is not None and options.executor != "ray":
        raise UserError(
            f"{options.address} is the address of a Ray cluster, but the executor is local",
            hint="add --executor ray",
            code="missing-option",
        )
    devices = find_devices(
        options.device, is_remote=options.executor == "ray", address=options.address
    )
    return devices[0] if len(devices) == 1 else devices[0].partition(":")[0]


def _find_recipes(
    options: RunOptions, base_name: str, named: Sequence[str], optional: Sequence[str]
) -> list[Recipe]:
    """Return the recipe of each row, the methods alongside last."""
    every = _list_changes(options)
    recipes = [
        recipe
        for changes in every[:-1]
        for recipe in find_recipes(options.methods, base_name, changes=changes)[0]
    ]
    last, skipped = find_recipes(
        options.methods, base_name, alongside=named, optional=optional, changes=every[-1]
    )
    recipes += last
    _warn_of_skipped(skipped, base_name)
    _refuse_doubled([recipe.name for recipe in recipes])
    if options.replicates > 1 and not any(find_class(recipe).tunes for recipe in recipes):
        raise UserError(
            "none of these methods trains, so all replicates would be the same",
            hint="leave --replicates out",
            code="invalid-value",
        )
    return recipes


def _tell(planned: Sequence[Run]) -> None:
    """Log what someone who plans these runs should know, once each."""
    notes = [
        *(n for run in planned for n in run.base_model.note_sampler(run.protocol.sampler)),
        *(str(cut) for run in planned for cut in run.manifest.cut_texts),
        *(n for run in planned for n in note_identifier(run.recipe, run.base_model, run.subjects)),
    ]
    for note in dict.fromkeys(notes):
        logger.warning("%s", note)


def plan_work(
    options: RunOptions, protocol: Protocol, base_model: BaseModel
) -> list[tuple[Recipe, Estimate]]:
    """Count what each recipe of a command will take; `options` as for `plan_runs`.

    Raises:
        UserError: a name is unknown, or a recipe does not work with the base model.
    """
    subjects = list_all(protocol, protocol.find_dataset(photos_dir=options.data_dir))
    every = _list_changes(options)
    found = []
    for index, changes in enumerate(every):
        recipes, skipped = find_recipes(options.methods, base_model.name, changes=changes)
        if not index:
            _warn_of_skipped(skipped, base_model.name)
        for recipe in recipes:
            check_subjects(recipe, protocol)
            check_recipe(recipe, base_model)
            # Checkpoints are left by the training to the last of them.
            estimate = make_estimate(
                protocol, recipe, base_model, subjects, replicates=options.replicates,
                precision=options.precision or protocol.precision,
                is_checkpoint=index < len(every) - 1,
            )  # fmt: skip
            found.append((recipe, estimate))
    return found


def choose_protocol(options: RunOptions) -> Protocol:
    """Return the protocol that a run takes: where none is asked for, mini on every machine.

    Raises:
        UserError: there is no such protocol.
    """
    if options.protocol is not None:
        protocol = load_protocol(options.protocol)
    else:
        logger.warning(
            "No --protocol: using the embedded benchmark 'mini'. The paper's benchmark: %s",
            PAPER_COMMAND.format(method=",".join(options.methods) or "METHOD"),
        )
        protocol = load_protocol("mini")
    return _hold_out(protocol) if options.checkpoints else protocol


def _warn_of_skipped(names: Sequence[str], base_model: str) -> None:
    for name in names:
        logger.warning("Left out: %s has no table for the base model '%s'", name, base_model)


def _list_changes(options: RunOptions) -> list[Mapping[str, Any]]:
    """Return what is changed in the recipes, once for each of their rows.

    Raises:
        UserError: a checkpoint is not a step, or the steps are set in another way, too.
    """
    steps = sorted(options.checkpoints)
    if not steps:
        return [options.settings]
    if steps[0] < 1 or len(set(steps)) < len(steps):
        raise UserError(
            f"checkpoints {', '.join(map(str, steps))}: not distinct numbers of at least 1",
            hint="pass numbers of steps, e.g. 100,200,400",
            code="invalid-value",
        )
    if STEPS in options.settings:
        raise UserError(
            f"{STEPS} is set, and the checkpoints set it as well",
            hint=f"leave --set {STEPS} out: training ends at the last checkpoint",
            code="invalid-value",
        )
    return [{**options.settings, STEPS: step} for step in steps]


def _hold_out(protocol: Protocol) -> Protocol:
    """Return a protocol whose methods are not shown the last photo of each subject.

    Its runs lie in a folder of their own, since no number of theirs is one of the protocol's.
    """
    return protocol.model_copy(
        update={
            "name": f"{protocol.name}-checkpoints",
            "title": f"{protocol.title}; the last photo of each subject held out",
            "references": "all-but-last",
        }
    )


def _check_names(options: RunOptions) -> tuple[list[str], Sequence[str]]:
    """Check names early; return the methods alongside that were named, and those by default.

    What nobody named is left out where the base model does not know it.
    """
    optional = ALONGSIDE if tuple(options.alongside) == ALONGSIDE else ()
    named = [name for name in options.alongside if name not in optional]
    if not options.methods:
        raise UserError(
            "no method is named",
            hint="see what there is: dreambench list methods",
            code="missing-option",
        )
    for name in (*options.methods, *named):
        if name != ALL:
            find_recipe(name)
    if options.protocol is not None:
        load_protocol(options.protocol)
    return named, optional


def _refuse_doubled(names: Sequence[str]) -> None:
    """Raise UserError for two rows of one name, which would share a folder."""
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise UserError(
            f"two methods have the name '{doubled[0]}'",
            hint="rename yours: the recipe's file, or the class's attribute `name`",
            code="name-taken",
        )
