"""The command line: parse, call one function, print. Imports nothing slow before it has to."""

from __future__ import annotations

import click

from dreambench import __version__
from dreambench.cli import cache, checks, data, runs


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """How faithfully does a method put a given subject into new pictures, and how sure are we?

    The main job, on the embedded benchmark (no GPU, no network):

        dreambench run --method dreambooth
    """


for _command in (
    runs.run,
    runs.train,
    runs.generate,
    runs.embed,
    runs.score,
    runs.aggregate,
    runs.report,
    runs.compare,
    runs.status,
    runs.list_,
    data.data,
    cache.cache,
    checks.plan,
    checks.tokens,
    checks.doctor,
    checks.metrics,
):
    main.add_command(_command)
