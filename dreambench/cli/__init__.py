"""The command line: parse, call one function, print. Imports nothing slow before it has to."""

from __future__ import annotations

import click

from dreambench import __version__
from dreambench.cli import cache, checks, data, inspection, stages, verification
from dreambench.cli import run as run_command
from dreambench.cli.shared import set_up_logging


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notices, only errors.")
@click.option("-v", "--verbose", is_flag=True, help="Everything that the package logs.")
def main(quiet: bool, verbose: bool) -> None:
    """How faithfully does a method put a given subject into new images, and how sure are we?

    The main job, on the embedded benchmark (no GPU, no network):

        dreambench run --method dreambooth
    """
    set_up_logging(quiet=quiet, verbose=verbose)


for _command in (
    run_command.run,
    *stages.COMMANDS,
    verification.verify,
    inspection.compare,
    inspection.status,
    inspection.list_,
    data.data,
    cache.cache,
    checks.plan,
    checks.tokens,
    checks.doctor,
    checks.metrics,
):
    main.add_command(_command)
