"""The command line and other work in processes of their own, which can be killed as any can.

They are forked from one process that has imported what is slow to import: a fork starts in
milliseconds, where a new interpreter takes seconds until torch and diffusers are there.
"""

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

from dreambench.encoders.registry import ENCODER_LIBRARIES

PRELOADED = [
    "dreambench.benchmark.execution", "dreambench.cli", "dreambench.base_models.stable_diffusion",
    "dreambench.encoders.image_text", "dreambench.encoders.vision", *ENCODER_LIBRARIES, "diffusers",
    "matplotlib.pyplot", "scipy.stats",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
]  # fmt: skip
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


def start(*words, folder=None, env=None, cwd=None, max_file_bytes=None):
    """Starts a command; what it prints goes into `stdout` and `stderr` of a folder, or nowhere.

    A limit on the size of files is what an unprivileged test can have instead of a full disk.
    """
    outputs = (
        [os.devnull] * 2 if folder is None else [str(folder / n) for n in ("stdout", "stderr")]
    )
    place = str(cwd or Path.cwd())
    process = FORKS.Process(
        target=_enter,
        args=(list(map(str, words)), outputs, dict(env or os.environ), place, max_file_bytes),
    )
    process.start()
    return process


def _enter(words, outputs, environment, folder, max_file_bytes):
    gc.freeze()  # What was imported before the fork is not looked through for circles.
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if max_file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    sys.argv = ["dreambench", *words]
    # Its own children are forked from where it was itself, and so are there at once, too.
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
    # It is imported in the process forked from.
    from dreambench.cli import main  # noqa: PLC0415

    main(words)


def call(*words, **options):
    """Runs a command to its end and returns it as `subprocess.run` would."""
    with tempfile.TemporaryDirectory() as name:
        process = start(*words, folder=Path(name), **options)
        process.join(400)
        assert process.exitcode is not None, "it does not end"
        printed = [(Path(name) / output).read_text() for output in ("stdout", "stderr")]
    return subprocess.CompletedProcess(words, process.exitcode, *printed)
