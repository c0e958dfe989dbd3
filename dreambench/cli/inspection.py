"""Commands that read and change nothing: compare, status, list. They import no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreambench.cli.printing import print_comparison
from dreambench.cli.shared import data_option, json_option, print_json, say, split, user_errors

if TYPE_CHECKING:
    from dreambench.analysis.stats import Way


@click.command()
@click.argument(
    "run_dirs", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--all-pairs", is_flag=True, help="Compare every pair, not just the first with the others."
)
@click.option(
    "--metrics",
    help="Only these metrics, comma-separated: fewer tests to adjust for.  "
    "[default: those that the protocol lists]",
)
@click.option("--family", help="Only prompts of these categories, comma-separated.")
@click.option(
    "--interval",
    type=click.Choice(["student-t", "bootstrap-t"]),
    default="student-t",
    show_default=True,
    help="For interval and test; use bootstrap-t where subjects' differences are skewed.",
)
@json_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also write the table: .csv (unrounded), .md or .tex.",
)
@data_option
@user_errors
def compare(
    run_dirs: tuple[Path, ...], all_pairs: bool, metrics: str | None, family: str | None,
    interval: Way, as_json: bool, out: Path | None, data_dir: Path | None,
) -> None:  # fmt: skip
    """Test runs against the first, paired by subject and prompt."""
    from dreambench.analysis.comparison import compare_scored  # noqa: PLC0415
    from dreambench.analysis.replicates import (  # noqa: PLC0415
        add_replicates,
        load_with_replicates,
    )
    from dreambench.artifacts.image_set import read_image_set  # noqa: PLC0415
    from dreambench.report.pages import describe_comparison  # noqa: PLC0415
    from dreambench.report.writing import write_comparison  # noqa: PLC0415

    sets = [read_image_set(path, data_dir=data_dir) for path in run_dirs]
    scored, replicates = load_with_replicates(sets)
    table = compare_scored(
        scored, all_pairs=all_pairs, metrics=split(metrics) or None, families=split(family),
        way=interval,
    )  # fmt: skip
    table = add_replicates(table, scored, replicates, families=split(family))
    if out is not None:
        write_comparison(scored, table, out)
    if as_json:
        print_json(describe_comparison(scored, table))
        return
    print_comparison(scored, table)
    if out is not None:
        say(f"Written: {out}")


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@json_option
@data_option
@user_errors
def status(run_dir: Path, as_json: bool, data_dir: Path | None) -> None:
    """Say what is done and what is left in a run folder."""
    from dreambench.artifacts.status import read_status  # noqa: PLC0415

    found = read_status(run_dir, data_dir=data_dir)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            say(f"{key:12} {line}")


KINDS = ("methods", "protocols", "base-models", "encoders", "metrics", "conventions")


@click.command("list")
@click.argument("what", type=click.Choice(KINDS), required=False)
@click.option(
    "--base-model",
    default="mini",
    show_default=True,
    help="Base model to count trained parameters for: NAME.",
)
@json_option
@user_errors
def list_(what: str | None, base_model: str, as_json: bool) -> None:
    """List methods, protocols, base models, encoders and more.

    `list methods` shows each method's track (whether it trains, and how many photos it sees) and
    how many subjects it puts into one image.
    """
    chosen = [what] if what else list(KINDS)
    found = {kind: _describe(kind, base_model, brief=not (what or as_json)) for kind in chosen}
    if as_json:
        print_json(found[what] if what else found)
    elif what == "methods":
        _print_methods(found[what], base_model)
    else:
        for kind, rows in found.items():
            say(f"{kind}:")
            for row in rows:
                say(f"  {row['name']:18} {row['text']}")


def _describe(kind: str, base_model: str, *, brief: bool) -> list[dict[str, Any]]:
    """Return all of a kind, a row each; methods brief or with their track."""
    if kind == "methods":
        return _describe_recipes() if brief else _describe_methods(base_model)
    if kind == "protocols":
        from dreambench.config.protocol import list_protocols, load_protocol  # noqa: PLC0415

        loaded = [load_protocol(name) for name in list_protocols()]
        return [
            {"name": p.name, "version": p.version, "digest": p.digest(), "text": p.title}
            for p in loaded
        ]
    if kind == "base-models":
        from dreambench.base_models.catalogue import BASE_MODELS  # noqa: PLC0415

        return [
            {
                "name": m.name, "location": "shipped" if m.is_local else m.location,
                "revision": m.revision, "size_px": m.size_px, "licence": m.licence,
                "is_gated": m.is_gated,
                "text": f"{'shipped' if m.is_local else m.where}; "
                f"{m.size_px} px; {m.terms}",
            }
            for m in BASE_MODELS.values()
        ]  # fmt: skip
    if kind == "encoders":
        from dreambench.encoders.registry import describe_encoders  # noqa: PLC0415

        return describe_encoders()
    if kind == "metrics":
        return describe_metrics()
    from dreambench.metrics.conventions import CONVENTIONS  # noqa: PLC0415

    return [
        {"name": c.name, "title": c.title, "source": c.source, "text": f"{c.title}; {c.source}"}
        for c in CONVENTIONS.values()
    ]


def describe_metrics() -> list[dict[str, Any]]:
    """Return every metric with its formula, those of installed packages by name alone."""
    from dreambench.metrics.registry import GROUP, load_own_metrics  # noqa: PLC0415
    from dreambench.plugins import list_entry_points  # noqa: PLC0415

    rows: list[dict[str, Any]] = [
        {
            "name": one.name, "title": one.title, "version": one.version,
            "inputs": list(one.inputs), "tags": sorted(one.tags), "formula": one.formula,
            "higher_is_better": one.higher_is_better,
            "text": f"{one.title:16} {one.formula}; "
            f"{'higher' if one.higher_is_better else 'lower'} is better",
        }
        for one in load_own_metrics().values()
    ]  # fmt: skip
    return [*rows, *({"name": n, "text": p.value} for n, p in list_entry_points(GROUP).items())]


def _describe_recipes() -> list[dict[str, Any]]:
    from dreambench.config.recipe import list_recipes, load_recipe  # noqa: PLC0415

    recipes = [load_recipe(name) for name in list_recipes()]
    return [
        {"name": r.name, "text": f"{r.title} ({', '.join(r.tables)}); {r.source}"} for r in recipes
    ]


def _describe_methods(base_model: str) -> list[dict[str, Any]]:
    from dreambench.base_models.registry import find_base_model  # noqa: PLC0415
    from dreambench.methods.plugins import list_methods  # noqa: PLC0415

    return list_methods(find_base_model(base_model))


def _print_methods(rows: list[dict[str, Any]], base_model: str) -> None:
    from dreambench.methods.registry import MISSING  # noqa: PLC0415
    from dreambench.report.terminal import print_rows  # noqa: PLC0415

    headings = ("name", "title", "track", "subjects", "trained", "base models", "source")
    shown = [
        [
            row["name"], row["title"], row["track"], str(row["most_subjects"]),
            f"{row['trained_parameters']:,}" if row["trained_parameters"] else "-",
            " ".join(row["base_models"]), row["source"],
        ]
        for row in rows
    ]  # fmt: skip
    print_rows(
        f"Methods; trained parameters with {base_model}", headings, shown,
        folding=("title", "base models", "source"),
    )  # fmt: skip
    for name, reason in MISSING.items():
        say(f"Not here: {name}, since {reason}.")
