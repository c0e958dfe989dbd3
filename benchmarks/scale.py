"""How far many workers go: two against one as measured here, and more in a simulation.

    python benchmarks/scale.py [--out reports/benchmarks]

Measures, on this machine's CPU: the units of DreamBooth on mini with one worker of one thread and
with two; what a unit costs besides its work, in this process, in another and on a Ray cluster; what
class images cost, and how unequal subjects are. From these it simulates the paper's protocol on 8
to 256 devices, whose units take as long as `--unit-seconds` says. Takes some ten minutes.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import ray
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt

from dreambench.artifacts.plan import derive_seed
from dreambench.benchmark.planning import RunOptions, plan_runs
from dreambench.config.protocol import load_protocol
from dreambench.datasets.subjects import list_subjects
from dreambench.machine.environment import describe_code
from dreambench.progress import no_progress
from dreambench.runs.executors.base import Executor
from dreambench.runs.executors.local import Here, LocalPlace
from dreambench.runs.executors.pool import Pool
from dreambench.runs.executors.ray import Needs, RayPool, connect
from dreambench.runs.pipeline import Pipeline, work_through
from dreambench.runs.run_folder import Run, open_run
from dreambench.runs.train import read_train_seconds
from dreambench.runs.units import Terms, Unit
from dreambench.storage.files import write_json

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
N_ROUNDS, N_IDLE_UNITS = 3, 40
N_STEPS = 12
"""Of training, so that a round takes a minute."""


# Measured


def write_protocol(folder: Path) -> Path:
    """Write mini's protocol with one thread for a worker, and fewer prompts."""
    text = Path("protocols/mini.toml").read_text(encoding="utf-8")
    path = folder / "one-thread.toml"
    path.write_text(re.sub("n_threads = .", "n_threads = 1", text), encoding="utf-8")
    return path


def plan(protocol: Path, out: Path, cache: Path) -> Run:
    options = RunOptions(
        methods=["dreambooth"], alongside=(), protocol=str(protocol), out=out, cache_dir=cache,
        settings={"n_steps": N_STEPS}, prompts=("jungle", "beach"), device="cpu",
    )  # fmt: skip
    (run,) = plan_runs(options)
    return open_run(run)


def work(run: Run, cache: Path, executor: Executor) -> float:
    """Return the seconds of all units of a run."""
    pipeline = Pipeline(run, terms=Terms(cache_dir=cache), progress=no_progress)
    pipeline.plan_images()
    started = time.perf_counter()
    work_through([pipeline], executor)
    assert not run.missing_images(), pipeline.failures
    return time.perf_counter() - started


def measure_workers(protocol: Path, folder: Path) -> dict[str, list[float]]:
    """Return the seconds of each round with one worker and with two, in turns."""
    found: dict[str, list[float]] = {"1": [], "2": []}
    cache = folder / "cache"
    pools = {str(n): Pool([LocalPlace("cpu") for _ in range(n)]) for n in (1, 2)}
    try:
        for name, pool in pools.items():  # What is loaded once, and the class images.
            work(plan(protocol, folder / f"warm-{name}", cache), cache, pool)
        for number in range(N_ROUNDS):
            for name, pool in pools.items():
                run = plan(protocol, folder / f"{name}-{number}", cache)
                found[name].append(round(work(run, cache, pool), 2))
    finally:
        for pool in pools.values():
            pool.close()
    return found


def measure_overhead(executor: Executor, run: Run, cache: Path) -> float:
    """Return the median seconds of a unit in which nothing is left to do."""
    unit = Unit(run=run, subject=run.subjects[0].name, terms=Terms(cache_dir=cache))
    executor.submit(unit, no_progress).result()
    seconds = []
    for _ in range(N_IDLE_UNITS):
        started = time.perf_counter()
        executor.submit(unit, no_progress).result()
        seconds.append(time.perf_counter() - started)
    executor.close()
    return round(float(np.median(seconds)), 4)


def measure(folder: Path) -> dict[str, object]:
    protocol = write_protocol(folder)
    seconds = measure_workers(protocol, folder)
    cache, cold = folder / "cache", folder / "cold"
    run = replace(plan(protocol, folder / "1-0", cache))
    trained = read_train_seconds(run)
    # The same without class images in the cache: what the first of each class pays for the others.
    here = Here()
    first = plan(protocol, folder / "cold-run", cold)
    work(first, cold, here)
    here.close()
    of_class = sum(read_train_seconds(first)) - sum(trained)
    n_classes = len({subject.class_name for subject in run.subjects})
    connect(None)
    needs = Needs(n_cpus=1, memory_bytes=1_000_000_000)
    overhead = {
        "in this process": measure_overhead(Here(), run, cache),
        "in another process": measure_overhead(Pool([LocalPlace("cpu")]), run, cache),
        "on a Ray cluster": measure_overhead(
            RayPool(1, needs, device="cpu", storage="shared"), run, cache
        ),
        "on a Ray cluster, through the driver": measure_overhead(
            RayPool(1, needs, device="cpu", storage="driver"), run, cache
        ),
    }
    ray.shutdown()
    return {
        "seconds": seconds,
        "n_units": len(run.subjects),
        "overhead_seconds": overhead,
        "class_share": round(max(of_class, 0.0) / n_classes / float(np.mean(trained)), 3),
        "spread": round(float(np.std(trained) / np.mean(trained)), 3),
    }


# Simulated


@dataclass(frozen=True)
class Load:
    """Units by the class of their subject, in order, and what they take, in seconds."""

    classes: Sequence[str]
    unit_seconds: Sequence[float]
    class_seconds: float
    driver_seconds: float


def simulate(load: Load, n_devices: int) -> float:
    """Return the seconds of a load on so many devices.

    Whoever is free takes the next unit; the driver hands out one after another. The first unit of a
    class makes its class images, and who comes meanwhile waits for them.
    """
    free = [0.0] * n_devices
    ready: dict[str, float] = {}
    handed = ended = 0.0
    for name, seconds in zip(load.classes, load.unit_seconds, strict=True):
        handed = max(handed, heapq.heappop(free)) + load.driver_seconds
        start = handed
        if name in ready:
            start = max(start, ready[name])
        else:
            start += load.class_seconds
            ready[name] = start
        end = start + seconds
        ended = max(ended, end)
        heapq.heappush(free, end)
    return ended


def make_load(n_methods: int, unit_seconds: float, found: dict[str, object]) -> Load:
    """Return the paper's 30 subjects for some methods, with a spread as it was measured."""
    protocol = load_protocol("dreambench")
    subjects = list_subjects(protocol.find_dataset())
    rng = np.random.default_rng(derive_seed("scale", n_methods))
    units = [f"{subject.class_name}" for _ in range(n_methods) for subject in subjects]
    seconds = unit_seconds * rng.lognormal(0.0, float(str(found["spread"])), len(units))
    overhead = found["overhead_seconds"]
    assert isinstance(overhead, dict)
    return Load(
        units, seconds.tolist(), float(str(found["class_share"])) * unit_seconds,
        float(overhead["on a Ray cluster, through the driver"]),
    )  # fmt: skip


def plot(speedups: dict[int, dict[int, float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(3.25, 2.6), layout="constrained")
    axes.plot(DEVICES, DEVICES, color="0.7", linewidth=1, label="ideal")
    for (n_methods, by_devices), marker in zip(speedups.items(), "os^", strict=False):
        plural = "method" if n_methods == 1 else "methods"
        axes.plot(
            DEVICES, [by_devices[n] for n in DEVICES], marker=marker, markersize=3.5, linewidth=1,
            label=f"{n_methods} {plural}, {30 * n_methods} units",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(DEVICES, [str(n) for n in DEVICES])
    axes.set_yticks(DEVICES, [str(n) for n in DEVICES])
    axes.minorticks_off()
    axes.set_xlabel("devices", fontsize=8)
    axes.set_ylabel("times as fast as one", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=200)
    plt.close(figure)


PAGE = """# How far many workers go

Made by `python benchmarks/scale.py --out reports/benchmarks` ([scale.json](scale.json)) on {cpus}
cores ({machine}), Python {python}, torch {torch}, Ray {ray}, {code}. No GPU was used; what is
simulated is named so.

## Measured: one worker and two

The {n_units} units of DreamBooth on mini ({n_steps} steps, two prompts), each worker a process
with one thread, class images in the cache; {n_rounds} rounds in turns.

| workers | seconds, median (all) | units a minute |
|--:|:--|--:|
| 1 | {one:.1f} ({ones}) | {one_rate:.1f} |
| 2 | {two:.1f} ({twos}) | {two_rate:.1f} |

Two workers do {efficiency:.2f} x 2 of the work of one; asked is at least .9.

## Measured: what a unit costs besides its work

Seconds of a unit in which nothing is left to do (claim, look at the folder, answer; median of
{n_idle}):

| where | seconds |
|:--|--:|
{overhead}

In units of mini, which take {unit:.0f} s, that is under {share:.1%}. Class images cost the first
unit of a class {class_share:.2f} of a unit's training; subjects differ by a standard deviation of
{spread:.1%}.

## Simulated: the paper's protocol

30 subjects, {n_classes} classes; units of {unit_seconds:.0f} s (a guess for one subject of
DreamBooth on one GPU: change it with `--unit-seconds`), with the spread, the share of class
images and the overhead that were measured here. Times as fast as one device:

| devices | {heads} |
|--:|{rules}
{rows}

![speed-up by devices](scale.png)

Where it stops: one method has 30 units, so that no more than 30 devices have work, and from 16 on
the last units run alone (a wave of 30 on 16 devices takes two units' time). Class images hold up
the start, where two subjects of a class wait for one another's; they weigh less the more methods
there are. The driver hands out a unit in {driver:.0f} ms and would be the limit at about
{limit:,.0f} devices. For more devices: more methods, replicates or protocols in one command.
"""


def write_page(found: dict[str, object], unit_seconds: float, out: Path) -> None:
    speedups = {}
    for n_methods in (1, 4, 14):
        load = make_load(n_methods, unit_seconds, found)
        alone = simulate(load, 1)
        speedups[n_methods] = {n: round(alone / simulate(load, n), 2) for n in DEVICES}
    seconds, overhead = found["seconds"], found["overhead_seconds"]
    assert isinstance(seconds, dict)
    assert isinstance(overhead, dict)
    one, two = (float(np.median(seconds[name])) for name in "12")
    n_units = int(str(found["n_units"]))
    driver = overhead["on a Ray cluster, through the driver"]
    heads = [f"{n} {'method' if n == 1 else 'methods'} ({30 * n} units)" for n in speedups]
    page = PAGE.format(
        cpus=os.cpu_count(), machine=platform.machine(), python=platform.python_version(),
        torch=torch.__version__, ray=ray.__version__, code=describe_code(), n_units=n_units,
        n_steps=N_STEPS, n_rounds=N_ROUNDS, n_idle=N_IDLE_UNITS, one=one, two=two,
        ones=", ".join(f"{s:.1f}" for s in seconds["1"]),
        twos=", ".join(f"{s:.1f}" for s in seconds["2"]),
        one_rate=60 * n_units / one, two_rate=60 * n_units / two, efficiency=one / two / 2,
        overhead="\n".join(f"| {where} | {s:.4f} |" for where, s in overhead.items()),
        unit=one / n_units, share=max(overhead.values()) * n_units / one,
        class_share=float(str(found["class_share"])), spread=float(str(found["spread"])),
        n_classes=len(set(make_load(1, 1.0, found).classes)), unit_seconds=unit_seconds,
        heads=" | ".join(heads), rules="--:|" * len(speedups),
        rows="\n".join(
            f"| {n} | " + " | ".join(f"{by[n]:.1f}" for by in speedups.values()) + " |"
            for n in DEVICES
        ),
        driver=1000 * driver, limit=unit_seconds / driver,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    plot(speedups, out / "scale.png")
    (out / "scale.md").write_text(page, encoding="utf-8")
    write_json(out / "scale.json", {**found, "unit_seconds": unit_seconds, "speedups": speedups})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("scale"))
    parser.add_argument("--unit-seconds", type=float, default=600.0, help="of a simulated device")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    write_page(found, args.unit_seconds, args.out)
    print((args.out / "scale.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
