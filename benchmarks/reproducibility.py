"""Which settings of a machine change a bit of mini, and by how much.

    python benchmarks/reproducibility.py --out reports/benchmarks

Runs DreamBooth on two subjects of mini again and again, each time in a process of its own with an
empty cache and other threads or instruction sets, and compares images, weights and scores with
those of the protocol's own settings. Then scores one run's images under each setting. Asserts
nothing.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dreambench.machine.environment import describe_code, describe_packages
from dreambench.storage.images import load_image
from dreambench.storage.shipped import shipped_path

SUBJECTS = "dog,mug"
WIDEST = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "DEFAULT", "MKL_CBWR": ""}


@dataclass(frozen=True)
class Setting:
    """A way to run: the environment, and whether the protocol fixes the threads."""

    title: str
    environment: dict[str, str] = field(default_factory=dict)
    fixed: bool = True
    deterministic: bool = False


SETTINGS = [
    Setting("as shipped: 2 threads, AVX2"),
    Setting("the same again"),
    Setting("as shipped, OMP_NUM_THREADS=1", {"OMP_NUM_THREADS": "1"}),
    Setting("as shipped, OMP_NUM_THREADS=4", {"OMP_NUM_THREADS": "4"}),
    Setting("threads not fixed, OMP_NUM_THREADS=1", {"OMP_NUM_THREADS": "1"}, fixed=False),
    Setting("threads not fixed, OMP_NUM_THREADS=4", {"OMP_NUM_THREADS": "4"}, fixed=False),
    Setting("torch's deterministic algorithms", deterministic=True),
    Setting("AVX2, and MKL as it likes", {"MKL_CBWR": ""}),
    Setting("AVX2, and MKL for any CPU", {"MKL_CBWR": "COMPATIBLE"}),
    Setting("the CPU's own instructions", WIDEST),
]
CODE = """
import sys
if sys.argv.pop(1) == "deterministic":
    import torch
    torch.use_deterministic_algorithms(True)
from dreambench.cli import main
main(sys.argv[1:], prog_name="dreambench")
"""


def call(setting: Setting, *words: object) -> float:
    """Runs the command line under a setting; returns its seconds."""
    kind = "deterministic" if setting.deterministic else "plain"
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", CODE, kind, "-q", *map(str, words)], check=True,
        stdout=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1", **setting.environment},
    )  # fmt: skip
    return time.monotonic() - started


def run(setting: Setting, folder: Path) -> tuple[Path, float]:
    """Makes a run; returns its folder and its seconds."""
    text = shipped_path("protocols", "mini.toml").read_text()
    if not setting.fixed:
        text = text.replace("n_threads = 2\n", "")
    protocol = folder / "mini.toml"
    folder.mkdir()
    protocol.write_text(text)
    seconds = call(
        setting, "run", "--method", "dreambooth", "--protocol", protocol, "--alongside", "",
        "--subjects", SUBJECTS, "--device", "cpu", "--out", folder / "runs", "--cache",
        folder / "cache",
    )  # fmt: skip
    return folder / "runs" / "mini" / "dreambooth", seconds


def read_means(run_dir: Path) -> dict[str, float]:
    metrics = json.loads((run_dir / "summary.json").read_text())["metrics"]
    return {name: entry["whole"]["mean"] for name, entry in metrics.items() if entry["whole"]}


def compare(first: Path, second: Path) -> dict[str, object]:
    """How far two runs lie apart: images, their pixels, and means."""
    paths = sorted(path.relative_to(first) for path in first.glob("images/*/*/*.png"))
    pairs = [(load_image(first / p), load_image(second / p)) for p in paths]
    gaps = [np.abs(np.asarray(a, int) - np.asarray(b, int)) for a, b in pairs]
    means = read_means(first), read_means(second)
    named = {name: abs(means[0][name] - means[1][name]) for name in ("dino", "clip-t", "div")}
    return {
        "n_images": len(gaps),
        "n_same": sum(not gap.any() for gap in gaps),
        "largest_grey_levels": int(max(gap.max() for gap in gaps)),
        "mean_grey_levels": float(np.mean([gap.mean() for gap in gaps])),
        **named,
    }


def rescore(setting: Setting, run_dir: Path, folder: Path) -> float:
    """Scores a run's images again under a setting; the largest gap of any number."""
    call(
        setting, "score", run_dir / "images", "--protocol", run_dir.parents[2] / "mini.toml",
        "--name", "again", "--subjects", SUBJECTS, "--device", "cpu", "--out", folder / "scores",
        "--cache", folder / "again",
    )  # fmt: skip
    keys = ["subject", "prompt_id", "k", "metric"]
    frames = [
        pd.read_parquet(path / "scores.parquet").set_index(keys)["value"]
        for path in (run_dir, folder / "scores" / "mini" / "again")
    ]
    gaps = (frames[0] - frames[1]).abs()
    assert gaps.notna().all(), "other rows"
    return float(gaps.max())


def measure() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        first: Path | None = None
        for index, setting in enumerate(SETTINGS):
            folder = Path(name) / str(index)
            found, seconds = run(setting, folder)
            first = first or found
            rows.append(
                {
                    "setting": setting.title, "seconds": round(seconds, 1),
                    **compare(first, found), "largest_score_gap": rescore(setting, first, folder),
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


PAGE = """# What a machine changes

Made by `python benchmarks/reproducibility.py --out reports/benchmarks`
([reproducibility.json](reproducibility.json)): `dreambench run --method dreambooth --subjects
{subjects}` on mini, each time in a process of its own with an empty cache, on {cpu} with
{cpu_count} cores. Torch uses {capability} here. {packages}. {code}.

Images and means are compared with those of the first row. The last column asks another question:
the images of the first row, scored under each setting; it is the largest gap of any number of any
metric. The CPU's own instructions are {widest}.

{table}

- With the protocol's threads, the machine's do not show in an image.
- The limit to AVX2 costs what the last row saves. Training amplifies the last bits in which
  instruction sets differ; scores of the same images do not.
- MKL's mode for any CPU is slower. It gives Intel's and AMD's CPUs the same bits
  ([What the maker of the CPU changes](processors.md)).
"""


def make_page(found: dict) -> str:
    first = found["rows"][0]
    rows = [
        {
            "setting": row["setting"],
            "seconds": f"{row['seconds'] / first['seconds']:.2f} x",
            "images of the same bits": f"{row['n_same']} of {row['n_images']}",
            "grey levels apart, mean (largest)": f"{row['mean_grey_levels']:.2f} "
            f"({row['largest_grey_levels']})",
            "DINO, CLIP-T, DIV apart": ", ".join(
                f"{row[name]:.4f}" for name in ("dino", "clip-t", "div")
            ),
            "the same images scored": f"{row['largest_score_gap']:.1e}",
        }
        for row in found["rows"]
    ]
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return PAGE.format(table=table, **{key: found[key] for key in found if key != "rows"})


def find_widest() -> str:
    """What torch would use without a limit."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env={**os.environ, "ATEN_CPU_CAPABILITY": "avx512"},
    )  # fmt: skip
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch  # noqa: PLC0415  (not needed for --help)

    packages = describe_packages()
    found = {
        "subjects": SUBJECTS,
        "rows": measure(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "widest": find_widest(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "packages": f"torch {packages['torch']}, diffusers {packages['diffusers']}",
        "code": str(describe_code()),
    }
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "reproducibility.json").write_text(json.dumps(found, indent=2) + "\n")
        (args.out / "reproducibility.md").write_text(make_page(found))


if __name__ == "__main__":
    main()
