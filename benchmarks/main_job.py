"""Time and peak memory of the main job, in a fresh folder with an empty cache.

    python benchmarks/main_job.py [--out benchmarks/main_job.json]

Prints seconds in all, seconds of tuning alone (as the run itself notes them), the share that is
tuning, and the peak resident memory of the process. Asserts nothing: a figure depends on its
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--method", "dreambooth", "--protocol", "mini", "--device", "cpu"]
        words += ["--out", f"{folder}/runs", "--cache", f"{folder}/cache"]
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "dreambench.cli", *words], check=True)
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
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
