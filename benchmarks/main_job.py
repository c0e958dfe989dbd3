"""Time and peak memory of the main job, in a fresh folder with an empty cache.

    python benchmarks/main_job.py [--out reports/benchmarks]

Prints seconds in all, seconds of training alone (as the run itself notes them), the share that is
training, and the peak resident memory of the process. Asserts nothing: a figure depends on its
machine.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = """# The main job: time and memory

Made by `python benchmarks/main_job.py --out reports/benchmarks` ([main-job.json](main-job.json)):
`dreambench run --method dreambooth` on mini in a fresh folder with an empty cache, with its floor
and copying alongside it, on {cpu_count} cores ({machine}), Python {python}.

| | |
|:--|--:|
| seconds in all | {seconds:.0f} |
| of them training (class images, optimizer steps) | {tuning_seconds:.0f} ({tuning_share:.0%}) |
| peak memory of the process | {peak_memory_gb:.2f} GB |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--method", "dreambooth", "--protocol", "mini", "--device", "cpu"]
        words += ["--out", f"{folder}/runs", "--cache", f"{folder}/cache"]
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "dreambench", *words], check=True)
        seconds = time.monotonic() - started
        peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        notes = Path(folder).glob("runs/mini/dreambooth/train/*/done.json")
        tuning = sum(json.loads(note.read_text())["train_seconds"] for note in notes)
    found = {
        "seconds": round(seconds, 1),
        "tuning_seconds": round(tuning, 1),
        "tuning_share": round(tuning / seconds, 3),
        "peak_memory_gb": round(peak_kb / 1e6, 2),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(found, indent=2))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "main-job.json").write_text(json.dumps(found, indent=2) + "\n")
        (args.out / "main-job.md").write_text(PAGE.format_map(found))


if __name__ == "__main__":
    main()
