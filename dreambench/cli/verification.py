"""`dreambench verify`."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dreambench.cli.display import show_progress
from dreambench.cli.printing import print_verified
from dreambench.cli.shared import (
    data_option,
    decoding_option,
    encoder_option,
    json_option,
    metric_option,
    print_json,
    say,
    user_errors,
)
from dreambench.errors import UserError


def sample_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose which images are scored again: `share` of them, and `seed`."""

    @user_errors
    @functools.wraps(command)
    def wrapped(*args: Any, sample: str, everything: bool, seed: int | None, **kwargs: Any) -> Any:
        share = 1.0 if everything else parse_share(sample)
        drawn = random.SystemRandom().randrange(2**16) if seed is None else seed
        return command(*args, share=share, seed=drawn, **kwargs)

    for option in (
        click.option(
            "--seed",
            type=click.IntRange(0),
            help="Seed of the sample, to draw it again.  [default: a new one]",
        ),
        click.option("--all", "everything", is_flag=True, help="Score all images again."),
        click.option(
            "--sample",
            default="5 %",
            show_default=True,
            help="Share of the images that are scored again from their pixels; 0 for none.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@sample_options
@click.option(
    "--images",
    "images_dir",
    type=click.Path(path_type=Path),
    help="For scores of external images: the folder or index of the images.",
)
@metric_option
@encoder_option
@decoding_option
@data_option
@json_option
@user_errors
def verify(
    folder: Path, share: float, seed: int, images_dir: Path | None,
    metrics: tuple[str, ...], encoders: tuple[str, ...], n_decoding: int, data_dir: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Check that the numbers of a folder follow from its files.

    The exit code is 0 if everything that was checked is right, and 1 if anything is not.
    """
    from dreambench.analysis.checking import FAILED  # noqa: PLC0415  (imports pandas)
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415  (imports torch)
    from dreambench.verification import VerifyOptions  # noqa: PLC0415
    from dreambench.verification import verify as check  # noqa: PLC0415

    options = VerifyOptions(
        share=share, seed=seed, images_dir=images_dir, metrics=metrics,
        encoders=parse_encoder_options(encoders), data_dir=data_dir, n_decoding=n_decoding,
    )  # fmt: skip
    with show_progress() as progress:
        found = check(folder, options, progress=progress)
    is_right = all(one.outcome != FAILED for one in found)
    if as_json:
        print_json(
            {
                "passed": is_right,
                "share": share,
                "seed": seed,
                "checks": [asdict(f) for f in found],
            }
        )
    else:
        print_verified(found)
        if 0 < share < 1:
            say(f"The sample was drawn with --seed {seed}.")
    raise SystemExit(0 if is_right else 1)


def parse_share(text: str) -> float:
    """Return what `--sample` says, from 0 to 1.

    Raises:
        UserError: it is not a valid share.
    """
    number, is_percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    try:
        share = float(number) / (100 if is_percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(
            f"--sample: '{text}' is not a share of the images",
            hint="write it like 5 % or 0.05",
            code="invalid-value",
        )
    return share
