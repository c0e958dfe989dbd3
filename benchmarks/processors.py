"""Which bits of a training step and of a picture depend on the maker of the CPU.

    apt-get install qemu-user
    python benchmarks/processors.py --out reports/benchmarks

Trains mini's base model for a step and generates a picture with it, on this CPU and on others that
QEMU emulates, instruction by instruction. Each has the instructions of AVX2, to which dreambench
limits sums, and its own maker, caches and name. Says which results have the same bits. About ten
minutes; asserts nothing.
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from dreambench.instructions import limit_instructions
from dreambench.machine.environment import describe_code, describe_packages

EMULATED = {
    "Haswell-v4": "Intel, emulated Haswell",
    "Skylake-Server-v4": "Intel, emulated Skylake server",
    "EPYC-v3": "AMD, emulated EPYC",
    "EPYC-Rome": "AMD, emulated EPYC Rome",
}
MODES = {
    "AVX2,STRICT": "MKL_CBWR=AVX2,STRICT (as shipped)",
    "COMPATIBLE": "MKL_CBWR=COMPATIBLE",
}
TEXTS = ["a sks dog", "a dog"]


def make_step() -> dict[str, str]:
    """Train for a step, and generate a picture; the digest of each result."""
    limit_instructions()
    import torch  # noqa: PLC0415  (after the limits are set)

    from dreambench.base_models.registry import (  # noqa: PLC0415  (imports torch)
        find_base_model,
        load_base_model,
    )
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415  (beside the others)
    from dreambench.datasets.index import find_dataset  # noqa: PLC0415
    from dreambench.datasets.subjects import load_subjects  # noqa: PLC0415
    from dreambench.methods.finetuning.training import (  # noqa: PLC0415  (imports torch)
        Batch,
        compute_losses,
    )
    from dreambench.storage.images import load_image  # noqa: PLC0415  (beside the others)

    def digest(*values: torch.Tensor) -> str:
        content = b"".join(value.detach().contiguous().numpy().tobytes() for value in values)
        return hashlib.sha256(content).hexdigest()[:12]

    torch.set_num_threads(1)
    sampler = load_protocol("mini").sampler.model_copy(update={"n_steps": 3})
    model = load_base_model(find_base_model("mini"), sampler)
    model.freeze()
    (unet,) = model.trainable_networks(with_text_encoders=False).values()
    unet.requires_grad_(True)
    photos = load_subjects(find_dataset("mini"))[0].photos[:2]
    encoded = model.encode_images([load_image(photo) for photo in photos])
    with torch.no_grad():
        text = model.encode_prompts(TEXTS)
    losses = compute_losses(
        model,
        lambda noise: Batch(encoded.sample(torch.arange(2), noise), text, n_subject=1),
        torch.Generator().manual_seed(1),
    )
    loss = losses["subject"] + losses["prior"]
    loss.backward()
    weights = [weight for weight in unet.parameters() if weight.grad is not None]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    torch.optim.AdamW(weights, lr=1e-4).step()
    image = model.sample(TEXTS[:1], [1])[0]
    return {
        "text": digest(text.tensors["states"]), "encoded photos": digest(encoded.means()),
        "loss": digest(loss), "gradients": digest(*gradients), "weights": digest(*weights),
        "picture": hashlib.sha256(image.tobytes()).hexdigest()[:12],
    }  # fmt: skip


def call_step(cpu: str | None, mode: str) -> dict[str, str]:
    """Run the step in a process of its own, emulated if a CPU is named."""
    words = [sys.executable, str(Path(__file__).resolve()), "--step"]
    if cpu is not None:
        # The interpreter itself, since a link would be looked up as this machine's own.
        interpreter = str(Path(sys.executable).resolve())
        words = ["qemu-x86_64", "-cpu", cpu, "-0", sys.executable, interpreter, *words[1:]]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True,
        env={**os.environ, "MKL_CBWR": mode, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{cpu}: {done.stderr}")
    print(cpu or "this CPU", mode, done.stdout.strip(), flush=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


PAGE = """# What the maker of the CPU changes

Made by `python benchmarks/processors.py --out reports/benchmarks`
([processors.json](processors.json)): a training step of mini's base model, and an image
generated after it, on {cpu} and on CPUs that {qemu} emulates, with one thread. {packages}. {code}.

Each cell says how many of the six results ({results})
have the bits that this CPU gives in the same mode of MKL, and which have others.

{table}

- As shipped, Intel's CPUs give the same bits. On AMD's a training step ends with others, although
  both use AVX2: MKL promises one order of sums for Intel's CPUs alone.
- With `MKL_CBWR=COMPATIBLE` this CPU leaves the emulated ones in the training step: it takes square
  roots, which MKL begins with the CPU's own approximation, and QEMU computes that exactly. Whether
  real CPUs of two makers agree in this mode cannot be seen here.
"""


def make_page(found: dict) -> str:
    rows: dict[str, dict[str, str]] = {}
    own = {row["mode"]: row["digests"] for row in found["rows"] if row["cpu"] is None}
    for row in found["rows"]:
        others = [name for name, value in row["digests"].items() if value != own[row["mode"]][name]]
        n_same = len(row["digests"]) - len(others)
        name = EMULATED[row["cpu"]] if row["cpu"] else f"this one: {found['cpu']}"
        rows.setdefault(name, {})[MODES[row["mode"]]] = f"{n_same} of {len(row['digests'])}" + (
            f" (not {', '.join(others)})" if others else ""
        )
    table = pd.DataFrame([{"CPU": name, **cells} for name, cells in rows.items()])
    return PAGE.format(
        table=table.to_markdown(index=False), results=", ".join(own["AVX2,STRICT"]),
        **{key: found[key] for key in ("cpu", "qemu", "packages", "code")},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", action="store_true", help="the step alone, on this CPU")
    args = parser.parse_args()
    if args.step:
        print(json.dumps(make_step()))
        return
    if shutil.which("qemu-x86_64") is None:
        raise SystemExit("qemu-x86_64 is missing: install Debian's package qemu-user")
    import torch  # noqa: PLC0415  (not needed for --help)

    packages = describe_packages()
    asked = list(itertools.product([None, *EMULATED], MODES))
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(lambda words: call_step(*words), asked))
    version = subprocess.check_output(["qemu-x86_64", "--version"], text=True)
    found = {
        "rows": [
            {"cpu": cpu, "mode": mode, "digests": made}
            for (cpu, mode), made in zip(asked, digests, strict=True)
        ],
        "cpu": torch.cpu.get_capabilities()["cpu_name"],
        "qemu": f"QEMU {version.split()[2]}",
        "packages": f"torch {packages['torch']}, diffusers {packages['diffusers']}",
        "code": str(describe_code()),
    }
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "processors.json").write_text(json.dumps(found, indent=2) + "\n")
        (args.out / "processors.md").write_text(make_page(found))


if __name__ == "__main__":
    main()
