"""Commands before a run: what it will take, what this machine has, which identifiers there are."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreambench.cli.display import show_progress
from dreambench.cli.shared import (
    checkpoints_option,
    data_option,
    method_option,
    parse_steps,
    print_json,
    protocol_option,
    replicates_option,
    say,
    set_option,
    split,
    user_errors,
)
from dreambench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambench.artifacts.long_texts import CutText
    from dreambench.base_models.spec import BaseModel
    from dreambench.config.protocol import Protocol
    from dreambench.config.recipe import Recipe
    from dreambench.config.sampler import Precision
    from dreambench.datasets.subjects import Subject
    from dreambench.encoders.spec import AnyEncoderSpec, SegmenterSpec
    from dreambench.preflight.cost_estimate import Estimate


@click.command()
@method_option
@set_option
@protocol_option
@click.option("--base-model", help="Another base model: NAME, or NAME=FOLDER for a local one.")
@click.option(
    "--device", default="auto", show_default=True, help="Device to estimate for: auto, cpu, cuda."
)
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), help="By default what a run would take."
)
@replicates_option
@checkpoints_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
@user_errors
def plan(
    method: str, changes: tuple[str, ...], protocol: str | None, base_model: str | None,
    device: str, precision: Precision | None, replicates: int, checkpoints: str | None,
    as_json: bool, data_dir: Path | None,
) -> None:  # fmt: skip
    """Estimate what a run will take, before anything starts."""
    from dreambench.base_models.registry import find_base_model  # noqa: PLC0415
    from dreambench.benchmark.planning import (  # noqa: PLC0415
        RunOptions,
        choose_protocol,
        plan_work,
    )
    from dreambench.config.changes import parse_changes  # noqa: PLC0415
    from dreambench.config.protocol import list_all  # noqa: PLC0415
    from dreambench.machine.devices import pick_device, pick_precision  # noqa: PLC0415

    options = RunOptions(
        methods=split(method), alongside=(), protocol=protocol, settings=parse_changes(changes),
        base_model=base_model, replicates=replicates, checkpoints=parse_steps(checkpoints),
        data_dir=data_dir,
    )  # fmt: skip
    # Another machine's device may be asked for: its speed is then not known here.
    device = pick_device(device) if device == "auto" else device
    loaded = choose_protocol(options)
    precision = pick_precision(precision, protocols=loaded.precision, device=device)
    options = replace(options, precision=precision)
    base = find_base_model(base_model or loaded.base_model)
    found = plan_work(options, loaded, base)
    subjects = list_all(loaded, loaded.find_dataset(photos_dir=data_dir))
    cuts, notes = _read_words(loaded, base, [recipe for recipe, _ in found], subjects)
    common = _find_downloads(loaded, base)
    contents = [
        {
            "method": recipe.name,
            "settings": recipe.settings_for(base.name),
            **asdict(estimate),
            "downloads": common | estimate.downloads,
            "hours": _find_hours(
                loaded, base, device=device, precision=precision, counts=asdict(estimate)
            ),
            "cut_texts": [cut.model_dump() for cut in cuts[recipe.name]],
            "notes": notes[recipe.name],
        }
        for recipe, estimate in found
    ]
    if as_json:
        print_json(contents[0] if len(contents) == 1 else contents)
        return
    for (recipe, estimate), row in zip(found, contents, strict=True):
        _print_estimate(recipe, loaded, base, estimate, row["downloads"], row["hours"], precision)
        for line in [*map(str, cuts[recipe.name]), *notes[recipe.name]]:
            say(f"  {'note':16} {line}")


def _read_words(
    protocol: Protocol, base: BaseModel, recipes: Sequence[Recipe], subjects: Sequence[Subject]
) -> tuple[dict[str, list[CutText]], dict[str, list[str]]]:
    """Return by recipe which prompts are longer than they are read, and notes on what it does."""
    from dreambench.artifacts.plan import make_plan  # noqa: PLC0415
    from dreambench.artifacts.steering import describe_steering  # noqa: PLC0415
    from dreambench.methods.words import find_drawn_cuts, note_identifier  # noqa: PLC0415
    from dreambench.scoring.tools import (  # noqa: PLC0415  (imports torch)
        choose_scored_metrics,
        encoder_specs,
        find_scored_cuts,
    )

    units = make_plan(protocol, subjects, batch_size=1).images
    clip = encoder_specs(protocol, choose_scored_metrics(protocol)).get("clip")
    scored = [] if clip is None else find_scored_cuts(clip, units)
    cuts = {r.name: [*find_drawn_cuts(r, base, subjects, units), *scored] for r in recipes}
    notes = {
        r.name: [
            *note_identifier(r, base, subjects), *describe_steering(r.settings_for(base.name)),
        ]
        for r in recipes
    }  # fmt: skip
    return cuts, notes


def _print_estimate(
    recipe: Recipe, loaded: Protocol, base: BaseModel, found: Estimate,
    downloads: dict[str, int], hours: dict[str, float | None], precision: str,
) -> None:  # fmt: skip
    from dreambench.config.changes import describe_settings  # noqa: PLC0415

    say(f"{recipe.title} on {loaded.name} v{loaded.version} with {base.name}:")
    say(
        f"  {found.n_subjects} subjects, {found.n_prompts:,} prompts, {found.n_images:,} images, "
        f"and {found.n_prior_images:,} class images for PRES"
    )
    sampler = base.choose_sampler(loaded.sampler)
    settings = describe_settings(recipe.settings_for(base.name))
    lines = [
        ("settings", settings or "none"),
        ("weights", base.terms),
        ("sampler", f"{sampler.scheduler}, {sampler.n_steps} steps, guidance "
                    f"{sampler.guidance_scale:g}, {sampler.size_px} px"),
        ("class images", f"{found.n_class_images:,}"),
        ("optimizer steps", f"{found.n_optimizer_steps:,} on {found.n_training_images:,} images"),
        ("denoising", f"{found.n_network_calls:,} network calls on one image"),
        ("disk", f"{found.n_bytes / 1e9:.1f} GB: images {found.image_bytes / 1e9:.1f}, "
                 f"trained weights {found.weight_bytes / 1e9:.1f}"),
        ("memory", _describe_memory(found, precision)),
    ]  # fmt: skip
    for name, text in lines:
        say(f"  {name:16} {text}")
    for what, n_bytes in downloads.items():
        size = f"{n_bytes / 1e9:.2f} GB" if n_bytes else "size unknown"
        say(f"  {'download':16} {what} ({size})")
    for what, value in hours.items():
        unknown = "no speed was measured here yet" if found.is_counted else "not counted"
        shown = f"{value:.1f} hours" if value is not None else unknown
        say(f"  {'time, ' + what:16} {shown}")


def _describe_memory(found: Estimate, precision: str) -> str:
    if not found.memory_bytes:
        return "no network"
    text = f"{found.memory_bytes / 1e9:.1f} GB of the device in {precision}"
    if found.offloaded_bytes:
        least = found.memory_bytes - found.offloaded_bytes
        text += f"; where a GPU has less, {least / 1e9:.1f} with text encoders on the CPU"
    return text


def _find_downloads(protocol: Protocol, base: BaseModel) -> dict[str, int]:
    """What every method needs that is not on this machine yet, with its size in bytes."""
    from dreambench.encoders.registry import find_segmenter  # noqa: PLC0415
    from dreambench.scoring.tools import (  # noqa: PLC0415  (imports torch)
        choose_scored_metrics,
        encoder_specs,
    )

    missing = {} if base.is_here() else {f"{base.name}: {base.where}": base.n_download_bytes}
    specs: list[AnyEncoderSpec | SegmenterSpec] = [
        *encoder_specs(protocol, choose_scored_metrics(protocol)).values()
    ]
    if protocol.encoders.segmenter is not None:
        specs.append(find_segmenter(protocol.encoders.segmenter))
    for spec in specs:
        missing |= spec.find_missing()
    return missing


def _find_hours(
    protocol: Protocol, base: BaseModel, *, device: str, precision: str, counts: dict[str, Any]
) -> dict[str, float | None]:
    """Hours of training and of generating where this device's speed is known."""
    from dreambench.machine.devices import is_device, name_device  # noqa: PLC0415
    from dreambench.machine.throughput import Setting, Speed, read_speed  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    parts: dict[str, tuple[Speed, int]] = {
        "training": ("training_image", counts["n_training_images"]),
        "generating": ("network_call", counts["n_network_calls"]),
    }
    if not is_device(device) or not counts["is_counted"]:
        return dict.fromkeys(parts)
    size_px = base.choose_sampler(protocol.sampler).size_px
    setting = Setting(name_device(device), base.name, size_px, precision)
    hours: dict[str, float | None] = {}
    for name, (what, n_units) in parts.items():
        speed = read_speed(cache_dir(), setting, what)
        hours[name] = None if speed is None else speed * n_units / 3600
    return hours


@click.command()
@click.option("--base-model", default="mini", show_default=True, help="NAME, or NAME=FOLDER.")
@click.option("--n", "n_tokens", type=click.IntRange(1), default=10, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Picks which ones are shown.")
@user_errors
def tokens(base_model: str, n_tokens: int, seed: int) -> None:
    """List rare tokens of a base model, for a recipe's `identifier`."""
    from dreambench.base_models.registry import find_base_model, find_family  # noqa: PLC0415
    from dreambench.methods.finetuning.identifier import (  # noqa: PLC0415
        choose_identifier,
        find_rare_tokens,
        find_token,
        sample_tokens,
    )

    base = find_base_model(base_model)
    tokenizer = find_family(base.family).load_tokenizer(base)
    found = find_rare_tokens(tokenizer)
    say(f"{len(found)} rare tokens; 'auto' is {choose_identifier(tokenizer, 'auto')}")
    for word in sample_tokens(found, n_tokens, seed=seed):
        say(f"  {word}  {find_token(tokenizer, word)}")


@click.command()
@click.option("--golden", is_flag=True, help="Score the real photos and compare with known values.")
@protocol_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
@user_errors
def doctor(golden: bool, protocol: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Say what this machine has and lacks for a protocol.

    With --golden it says whether the scorer here gives the known values of the real photos.
    """
    from dreambench.benchmark.planning import RunOptions, choose_protocol  # noqa: PLC0415
    from dreambench.machine.devices import pick_device  # noqa: PLC0415

    device = pick_device("auto")
    chosen = choose_protocol(RunOptions(methods=(), protocol=protocol))
    if golden:
        _print_golden(chosen, data_dir, as_json=as_json)
        return
    from dreambench.base_models.registry import find_base_model  # noqa: PLC0415
    from dreambench.preflight.doctor import (  # noqa: PLC0415
        check_machine,
        check_photos,
        check_recipes,
        check_weights,
        find_memory,
        judge,
    )

    recipes = check_recipes(*find_memory())
    found = [*check_machine(), *recipes, *check_weights(), check_photos(data_dir)]
    missing = _find_downloads(chosen, find_base_model(chosen.base_model))
    found.append(judge(chosen, device, missing=list(missing), data_dir=data_dir))
    if as_json:
        print_json([asdict(finding) for finding in found])
        return
    section = ""
    for finding in found[:-1]:
        if finding.section != section:
            section = finding.section
            say(f"{section}:")
        mark = {True: "ok", False: "--", None: "  "}[finding.ok]
        first, *more = finding.text.split("\n")
        say(f"  {mark} {finding.name:22} {first}")
        for line in more:
            say(" " * 28 + line)
    say(found[-1].text)


def _print_golden(loaded: Protocol, data_dir: Path | None, *, as_json: bool) -> None:
    from dreambench.datasets.subjects import load_subjects  # noqa: PLC0415
    from dreambench.encoders.registry import ENCODERS  # noqa: PLC0415
    from dreambench.scoring.reference_values import check_golden, load_golden  # noqa: PLC0415

    subjects = load_subjects(loaded.find_dataset(photos_dir=data_dir))
    names = (loaded.encoders.dino, loaded.encoders.clip)
    golden = load_golden(loaded.dataset)
    with show_progress() as progress:
        for name in names:
            ENCODERS[name].ensure_weights(progress)
    checks = [check_golden(ENCODERS[name], subjects, golden) for name in names]
    if as_json:
        rows = [
            {"encoder": c.encoder, "metric": c.metric, "passed": c.passed, "cause": c.cause,
             "mean": c.mean_found, "known": c.mean_known, "subjects": c.gaps.to_dict("records")}
            for c in checks
        ]  # fmt: skip
        print_json(rows)
    else:
        say(f"{len(subjects)} subjects against {golden.source}:")
        for check in checks:
            n_off = check.gaps.loc[check.gaps["off"], "subject"].nunique()
            worst = check.gaps.loc[check.gaps["gap"].abs().idxmax()]
            say(
                f"  {check.metric:7} {check.encoder:16} mean {check.mean_found:.5f}, known "
                f"{check.mean_known:.5f}; {n_off} of {len(subjects)} subjects off, the most "
                f"{worst['subject']} by {worst['gap']:+.5f}"
            )
    faults = [check for check in checks if not check.passed]
    if faults:
        raise UserError(
            "this scorer does not give the known values: "
            + "; ".join(f"{check.metric}: {check.cause}" for check in faults),
            hint="fix it before you trust a score",
            code="scorer-is-off",
        )
    if not as_json:
        say("all within tolerance")


@click.group()
def metrics() -> None:
    """List the metrics, and test what each of them can see."""


@metrics.command("list")
@user_errors
def list_metrics() -> None:
    """List every metric with its formula."""
    from dreambench.cli.inspection import describe_metrics  # noqa: PLC0415

    for row in describe_metrics():
        say(f"  {row['name']:13} {row['text']}")


@metrics.command("test")
@click.option("--subjects", "n_subjects", type=click.IntRange(2), default=14, show_default=True)
@click.option(
    "--pairs", "n_pairs", type=click.IntRange(2), default=8, show_default=True,
    help="Pairs of subjects in one picture, for the two-subject metrics.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/metrics-test",
    show_default=True,
    help="Folder of the page, its tables and plots.",
)
@user_errors
def test_metrics(n_subjects: int, n_pairs: int, out: Path) -> None:
    """Test all metrics on pictures whose truth is known."""
    from dreambench.mini.validation.page import write_trial  # noqa: PLC0415  (imports torch)
    from dreambench.mini.validation.pairs_page import write_pair_trial  # noqa: PLC0415
    from dreambench.report.formatting import format_interval, format_number  # noqa: PLC0415

    with show_progress() as progress:
        correlations, dominance, paths = write_trial(out, n_subjects=n_subjects, progress=progress)
        means, _, more = write_pair_trial(out, n_pairs=n_pairs, progress=progress)
    say("Kendall's tau with the truth, mean over subjects [95 %]; trivial baselines above:")
    above = dominance.set_index("metric")
    for row in correlations[correlations["cause"] == "truth"].itertuples():
        shares = [f"{name} {format_number(x)}" for name, x in above.loc[row.metric].items()]
        interval = format_interval(row.tau, row.low, row.high)
        say(f"  {row.metric:13} {interval:18} {', '.join(shares)}")
    say("Metrics of two subjects in one picture, mean over pairs:")
    for name, row in means.iterrows():
        values = [f"{key} {format_number(value)}" for key, value in row.items()]
        say(f"  {name:15} {', '.join(values)}")
    for path in [*paths, *more]:
        say(f"  {path}")
