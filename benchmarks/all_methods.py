"""`dreambench run --method all` by one worker and by two, each of one thread: time, and the bits.

    python benchmarks/all_methods.py [--out reports/benchmarks]

Runs the command twice, on mini narrowed to `--subjects` and `--prompts`, each time with a cache of
its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from scale import write_protocol

from dreambench.machine.environment import describe_code
from dreambench.storage.files import digest, sha256_file, write_json

PAGE = """# All methods by one worker and by two

Made by `python benchmarks/all_methods.py --out reports/benchmarks`
([all-methods.json](all-methods.json)) on {cpus} cores ({machine}), Python {python}, torch {torch},
{code}. The command is

    {command}

with `n_threads = 1` in the protocol: start, imports, class images, training, generating, scores
and report of {n_methods} methods, {n_images} images in all, nothing in the cache.

| workers | seconds | digest of all images |
|--:|--:|:--|
| 1 | {seconds[0]:.0f} | `{digests[0]}` |
| 2 | {seconds[1]:.0f} | `{digests[1]}` |

Two workers take {ratio:.2f} of the time of one; asked is at most .6. {bits}
"""


def measure(command: list[str], n_workers: int, folder: Path) -> tuple[float, dict[str, str]]:
    """Return the seconds of the command, and the digest of each image that it made."""
    words = ["--workers", str(n_workers), "--out", str(folder / "runs")]
    words += ["--cache", str(folder / "cache")]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dreambench", *command, *words], check=True)
    seconds = time.perf_counter() - started
    images = sorted((folder / "runs").glob("*/*/images/**/*.png"))
    return seconds, {
        path.relative_to(folder / "runs").as_posix(): sha256_file(path) for path in images
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("all-methods"))
    parser.add_argument("--subjects", default="dog,mug")
    parser.add_argument("--prompts", default="beach")
    args = parser.parse_args()
    seconds, images = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["run", "--method", "all", "--protocol", str(write_protocol(folder))]
        command += ["--subjects", args.subjects, "--prompts", args.prompts, "--alongside", ""]
        for n_workers in (1, 2):
            taken, made = measure(command, n_workers, folder / str(n_workers))
            seconds.append(round(taken, 1))
            images.append(made)
    n_changed = sum(images[0].get(path) != images[1].get(path) for path in images[0] | images[1])
    bits = "All images are the same bits."
    if n_changed:
        bits = f"{n_changed} images are not the same bits."
    args.out.mkdir(parents=True, exist_ok=True)
    shown = shlex.join(["dreambench", *command]).replace(str(folder), ".")
    page = PAGE.format(
        cpus=os.cpu_count(), machine=platform.machine(), python=platform.python_version(),
        torch=torch.__version__, code=describe_code(), command=shown, seconds=seconds,
        n_methods=len({path.split("/")[1] for path in images[0]}), n_images=len(images[0]),
        digests=[digest(made) for made in images], ratio=seconds[1] / seconds[0], bits=bits,
    )  # fmt: skip
    (args.out / "all-methods.md").write_text(page, encoding="utf-8")
    write_json(args.out / "all-methods.json", {"seconds": seconds, "images": images})
    print(page)


if __name__ == "__main__":
    main()
