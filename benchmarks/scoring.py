"""Speed and memory of scoring with encoders of real size, on images that the script makes.

    python benchmarks/scoring.py [--out reports/benchmarks] [--repeats 3] [--n-subjects 30]

ViT-S/16 and CLIP ViT-B/32 (and LPIPS where the whole protocol is scored) with random weights, which
cost what trained ones cost; no segmenter; two threads. Four parts:

- the best batch size of a bare pass of each encoder;
- cold scoring of a run of 300 images of 1024 px, in each round beside two others on the same
  images: the bound (each file decoded once, one bare pass of each encoder at its best batch size),
  and a loop of the shape that public scorers have (dreambench_plus at c4eb5c1: batch 1, a pass for
  each metric, the reference encoded again for each image, each of them decoding again);
- peak memory of the command `dreambench score` for 300 and for 3,000 images;
- warm scoring of these 3,000 images, intervals included.

Nothing is asserted: a figure depends on its machine. Other processes of the machine are waited for,
and their share of the processor is noted beside each figure.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import os
import platform
import shlex
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageFile

N_THREADS = 2
SIZE_PX = 1024
N_PICTURES = 60
COLD_SUBJECTS = ("backpack", "cat", "robot_toy")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
PEERS_SHARE = 3  # Peers' loop takes each third image of a round, others in the next one.
QUIET_SHARE, QUIET_SECONDS, MAX_WAIT_SECONDS = 0.05, 1.0, 1200.0
LPIPS_NUMBERS = 640_128  # AlexNet's five layers at 256 px.
# On paper: a machine to make the images of the paper's protocol on.
N_CORES, H100_FP32_FLOPS, UTILISATION = 16, 67e12, 0.4


def draw_picture(seed: int) -> bytes:
    """PNG of a picture whose spectrum falls off as that of photos does (about 1/f)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIZE_PX, SIZE_PX, 3), np.float32)
    n, weight = 4, 1.0
    while n <= SIZE_PX:
        coarse = rng.normal(size=(n, n, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel])
            grown = layer.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
            total[..., channel] += weight * np.asarray(grown)
        n, weight = 2 * n, 0.6 * weight
    total = (total - total.mean()) / total.std() * 50 + 128
    buffer = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def add_note(png: bytes, text: str) -> bytes:
    """The same picture as another file: a text chunk before the end."""
    body = b"tEXtComment\0" + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-12] + chunk + png[-12:]


def make_weights(folder: Path) -> None:
    """Random weights in the layouts of the files that people bring."""
    import open_clip  # noqa: PLC0415  (the parent process of a part needs no torch)
    import timm  # noqa: PLC0415
    import torch  # noqa: PLC0415
    import torchvision  # noqa: PLC0415

    from dreambench.encoders.registry import ENCODERS  # noqa: PLC0415

    torch.manual_seed(0)
    makers: dict[str, Callable[[], Any]] = {
        "dino-vits16": lambda: timm.create_model("vit_small_patch16_224.dino", num_classes=0),
        "clip-vit-b-32": lambda: open_clip.create_model("ViT-B-32-quickgelu"),
        "lpips-alex": lambda: torchvision.models.alexnet(weights=None),
    }
    for name, make in makers.items():
        (folder / name).mkdir(parents=True)
        torch.save(make().state_dict(), folder / name / ENCODERS[name].file)


class World:
    """The paper's subjects and prompts with pictures of the script's own, and runs of them."""

    def __init__(self, root: Path, n_subjects: int) -> None:
        from dreambench.storage.shipped import shipped_path  # noqa: PLC0415

        self.root = root
        self.pictures = [draw_picture(seed) for seed in range(N_PICTURES)]
        self.n_made = 0
        with shipped_path("dataset", "subjects.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        first = [row for row in rows if row["subject"] in COLD_SUBJECTS]
        rows = (first + [row for row in rows if row not in first])[:n_subjects]
        self.names = [row["subject"] for row in rows]
        data = root / "data"
        images = []
        for row in rows:
            for index in range(int(row["n_images"])):
                path = data / row["subject"] / f"{index:02}.png"
                content = self.write(path)
                file = path.relative_to(data).as_posix()
                digest = hashlib.sha256(content).hexdigest()
                images.append({"subject": row["subject"], "file": file, "sha256": digest})
        for name, table in (("subjects.csv", rows), ("images.csv", images)):
            with (data / name).open("w", newline="") as stream:
                writer = csv.DictWriter(stream, fieldnames=list(table[0]))
                writer.writeheader()
                writer.writerows(table)
        text = shipped_path("protocols", "dreambench.toml").read_text()
        text = text.replace('dataset = "dreambooth"', f"dataset = {json.dumps(str(data))}")
        text = text.replace('base_model = "sd15"', 'base_model = "mini"')
        text = text.replace('segmenter = "clipseg"\n', "")
        (root / "whole.toml").write_text(text)
        metrics = 'metrics = ["dino", "clip-i", "clip-t", "div", "pres"]'
        text = text.replace(metrics, 'metrics = ["dino", "clip-i", "clip-t"]')
        (root / "three.toml").write_text(text)

    def write(self, path: Path) -> bytes:
        """Another file with one of the pictures."""
        content = add_note(self.pictures[self.n_made % N_PICTURES], f"number {self.n_made}")
        self.n_made += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return content

    def make_run(self, protocol: str, subjects: Sequence[str]) -> Any:
        """An opened run folder with all its images, as if a method had made them."""
        from dreambench.config.protocol import load_protocol  # noqa: PLC0415
        from dreambench.config.recipe import load_recipe  # noqa: PLC0415
        from dreambench.runs.run_folder import Request, open_run, plan_run  # noqa: PLC0415
        from dreambench.scoring.tools import prepare_encoders  # noqa: PLC0415
        from dreambench.storage.sums import write_sums  # noqa: PLC0415

        loaded = load_protocol(str(self.root / f"{protocol}.toml"))
        request = Request(
            protocol=loaded,
            recipe=load_recipe("copy-reference"),
            subjects=tuple(subjects),
            base_model=loaded.base_model,
            device="cpu",
            precision="fp32",
            batch_size=16,
            encoders=prepare_encoders(loaded),
        )
        run_dir = self.root / "runs" / protocol / f"{subjects[0]}-{len(subjects)}"
        run = open_run(plan_run(run_dir, request))
        for unit in run.plan.images:
            self.write(run.image_path(unit))
        for subject in subjects:
            write_sums(run.images_dir(subject))
        return run


class Others:
    """What other processes take of the processor."""

    def __init__(self) -> None:
        self.me = psutil.Process()
        self.patience_seconds = MAX_WAIT_SECONDS

    def read(self) -> tuple[float, float, float]:
        """Seconds by the clock, of all cores busy, of this process and those it has started."""
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0)
        # Those that have ended are in the times of the process that waited for them.
        own = 0.0
        for process in (self.me, *self.me.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found = process.cpu_times()
                own += found.user + found.system + found.children_user + found.children_system
        return time.monotonic(), busy, own

    def share(self, since: tuple[float, float, float]) -> float:
        """Their part of all cores' time since then."""
        now = self.read()
        wall, busy, own = (b - a for a, b in zip(since, now, strict=True))
        return max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))

    def wait(self) -> None:
        """Until they are quiet; MAX_WAIT_SECONDS over all waits."""
        while self.patience_seconds > 0:
            since = self.read()
            time.sleep(QUIET_SECONDS)
            if self.share(since) < QUIET_SHARE:
                return
            self.patience_seconds -= QUIET_SECONDS


def measure(others: Others, work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a piece of work, and the others' share meanwhile."""
    others.wait()
    since = others.read()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started, others.share(since)


@contextmanager
def counted(encoders: dict[str, Any]) -> Any:
    """Counts files decoded, and passes and images through the real networks."""
    counts: Counter[str] = Counter()
    load = ImageFile.ImageFile.load

    def load_counted(image: ImageFile.ImageFile) -> Any:
        # Its pixels are read once: then it has no tiles any more.
        counts["decodes"] += bool(image.tile)
        return load(image)

    def hook(name: str) -> Any:
        def note(_module: Any, inputs: Any, _output: Any) -> None:
            counts[f"{name} passes"] += 1
            counts[f"{name} images"] += len(inputs[0])

        return note

    networks = {"DINO": encoders["dino"].model, "CLIP": encoders["clip"].model.visual}
    handles = [net.register_forward_hook(hook(name)) for name, net in networks.items()]
    ImageFile.ImageFile.load = load_counted
    try:
        yield counts
    finally:
        ImageFile.ImageFile.load = load
        for handle in handles:
            handle.remove()


def open_plainly(path: Path) -> Image.Image:
    """The bare decode."""
    with Image.open(path) as image:
        return image.convert("RGB")


def find_batch_sizes(encoders: dict[str, Any], others: Others) -> dict[str, dict[int, float]]:
    """Milliseconds an image of a bare pass, by encoder and batch size: the best of three."""
    found: dict[str, dict[int, float]] = {}
    for role, encoder in encoders.items():
        found[role] = {}
        for size in BATCH_SIZES:
            n_images = max(size, 16)
            seconds = [
                measure(others, lambda e=encoder, s=size, n=n_images: pass_bare(e, s, n))[0]
                for _ in range(3)
            ]
            found[role][size] = round(min(seconds) / n_images * 1000, 2)
    return found


def pass_bare(encoder: Any, batch_size: int, n_images: int) -> None:
    """Passes of ready pixels through a network alone."""
    import torch  # noqa: PLC0415

    forward = encoder.model if encoder.spec.role == "dino" else encoder.model.encode_image
    batch = torch.zeros(batch_size, 3, 224, 224)
    with torch.inference_mode():
        for start in range(0, n_images, batch_size):
            forward(batch[: n_images - start])


def score_like_peers(encoders: dict[str, Any], pairs: Sequence[tuple[Path, Path]]) -> None:
    """DINO, CLIP-I and CLIP-T in turns, image by image, each beside its subject's first photo.

    `pairs` are of an image and that photo. Texts are left out, which is in the peers' favour: they
    encode one for each image.
    """
    import torch  # noqa: PLC0415

    def embed(role: str, path: Path) -> np.ndarray:
        encoder = encoders[role]
        pixels = torch.from_numpy(encoder.pixels.prepare(open_plainly(path)))[None]
        forward = encoder.model if role == "dino" else encoder.model.encode_image
        with torch.no_grad():
            row = forward(pixels)[0]
        return (row / row.norm()).numpy()

    for role in ("dino", "clip"):
        for path, reference in pairs:
            embed(role, path) @ embed(role, reference)
    for path, _ in pairs:
        embed("clip", path)


def measure_cold(
    run: Any, encoders: dict[str, Any], best: dict[str, int], repeats: int, root: Path,
    others: Others,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rounds on a run's images: bound, ours and peers, in changing order."""
    from dreambench.progress import no_progress  # noqa: PLC0415
    from dreambench.scoring.process import ScoreRequest, extract_on_all  # noqa: PLC0415
    from dreambench.scoring.scorer import Scorer  # noqa: PLC0415

    reference = {subject.name: subject.photos[0] for subject in run.subjects}
    pairs = [(run.image_path(unit), reference[unit.subject]) for unit in run.plan.images]
    files = [photo for subject in run.subjects for photo in subject.photos]
    files += [image for image, _ in pairs]

    def decode() -> None:
        for path in files:
            open_plainly(path)

    def decode_together() -> None:
        with ThreadPoolExecutor(N_THREADS) as pool:
            list(pool.map(open_plainly, files))

    def passes() -> None:
        for role, encoder in encoders.items():
            pass_bare(encoder, best[role], len(files))

    rounds = []
    for number in range(repeats):
        some = pairs[number % PEERS_SHARE :: PEERS_SHARE]

        def ours(number: int = number) -> None:
            Scorer(run, cache_dir=root / f"cold-{number}", progress=no_progress).score()

        def ours_workers(number: int = number) -> None:
            cache = root / f"shared-{number}"
            asked = ScoreRequest(cache_dir=cache)
            extract_on_all(run, asked, n_workers=N_THREADS, progress=no_progress)
            Scorer(run, cache_dir=cache, progress=no_progress).score()

        def peers(some: Sequence[tuple[Path, Path]] = some) -> None:
            score_like_peers(encoders, some)

        parts = {
            "decode": decode, "decode_2_threads": decode_together, "passes": passes,
            "ours": ours, "ours_workers": ours_workers, "peers": peers,
        }  # fmt: skip
        names = list(parts)
        turn = number % len(names)
        found: dict[str, Any] = {"n_images": len(pairs)}
        found |= {"n_files": len(files), "n_peers": len(some)}
        for name in names[turn:] + names[:turn]:
            with counted(encoders) as counts:
                seconds, share = measure(others, parts[name])
            found[name] = {"seconds": round(seconds, 3), "others_share": round(share, 3)}
            found[name] |= {"counts": dict(counts)}
        rounds.append(found)
        print(json.dumps(found), flush=True)
    return rounds


def summarise(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round."""
    rates: dict[str, list[float]] = {}
    for found in rounds:
        seconds = {name: part["seconds"] for name, part in found.items() if isinstance(part, dict)}
        n = found["n_images"]
        values = {
            "ours": n / seconds["ours"],
            "ours_workers": n / seconds["ours_workers"],
            "bound": n / (seconds["decode"] + seconds["passes"]),
            "bound_2_threads": n / (seconds["decode_2_threads"] + seconds["passes"]),
            "peers": found["n_peers"] / seconds["peers"],
            "decode_ms": seconds["decode"] / found["n_files"] * 1000,
            "decode_2_threads_ms": seconds["decode_2_threads"] / found["n_files"] * 1000,
            "passes_ms": seconds["passes"] / found["n_files"] * 1000,
        }
        values["ours_to_bound"] = values["ours"] / values["bound"]
        values["ours_to_bound_2_threads"] = values["ours"] / values["bound_2_threads"]
        values["ours_workers_to_bound"] = values["ours_workers"] / values["bound"]
        values["workers_to_bound_2_threads"] = values["ours_workers"] / values["bound_2_threads"]
        values["ours_to_peers"] = values["ours"] / values["peers"]
        for name, value in values.items():
            rates.setdefault(name, []).append(value)
    return {
        name: {
            "median": round(float(np.median(values)), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
        }
        for name, values in rates.items()
    }


# A process takes over the peak of the one that started it, and this one has held networks; so a
# small one stands between them.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def measure_command(words: Sequence[str]) -> tuple[float, float, str]:
    """Seconds, peak resident gigabytes and output of a process."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN, *words],
        env={**os.environ, "OMP_NUM_THREADS": str(N_THREADS)},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed")
    *printed, peak = done.stdout.splitlines()
    return seconds, int(peak) * 1024 / 1e9, "\n".join(printed)


def measure_memory(runs: Sequence[Any], root: Path) -> list[dict[str, Any]]:
    """Peak memory of the command, once for each run, with an empty cache."""
    found = []
    for run in runs:
        words = [sys.executable, "-m", "dreambench", "score", str(run.folder)]
        n_images = len(run.plan.images)
        seconds, peak_gb, _ = measure_command([*words, "--cache", str(root / f"warm-{n_images}")])
        found.append(
            {"n_images": n_images, "seconds": round(seconds, 1), "peak_gb": round(peak_gb, 3)}
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def measure_warm(run: Any, root: Path, repeats: int, others: Others) -> list[dict[str, Any]]:
    """Scores again from the cache, in a new process each time."""
    found = []
    for _ in range(repeats):
        others.wait()
        cache = root / f"warm-{len(run.plan.images)}"
        words = [sys.executable, __file__, "--warm", str(run.folder), "--cache", str(cache)]
        found.append(json.loads(measure_command(words)[2]))
        print(json.dumps(found[-1]), flush=True)
    return found


def score_warm(run_dir: Path, cache: Path) -> None:
    """The part of `measure_warm` in the new process: the clock starts when imports are through."""
    from dreambench.analysis.summary import summarise  # noqa: PLC0415
    from dreambench.progress import no_progress  # noqa: PLC0415
    from dreambench.runs.run_folder import read_run  # noqa: PLC0415
    from dreambench.scoring.scorer import Scorer  # noqa: PLC0415

    started = time.perf_counter()
    run = read_run(run_dir)
    opened = time.perf_counter()
    scorer = Scorer(run, cache_dir=cache, progress=no_progress)
    scorer.score()
    scored = time.perf_counter()
    summarise(run)
    ended = time.perf_counter()
    parts = {"open": opened - started, "score": scored - opened, "summarise": ended - scored}
    content = {"n_images": len(run.plan.images), "seconds": round(ended - started, 3)}
    print(json.dumps(content | {name: round(value, 3) for name, value in parts.items()}))


def count_flops(encoders: dict[str, Any]) -> dict[str, float]:
    """Floating-point operations of one pass on one image, in billions."""
    import torch  # noqa: PLC0415
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    # The counter does not see into the fused attention of nn.MultiheadAttention.
    torch.backends.mha.set_fastpath_enabled(False)
    found = {}
    for role, encoder in encoders.items():
        forward = encoder.model if role == "dino" else encoder.model.encode_image
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            forward(torch.zeros(1, 3, 224, 224))
        found[role] = round(counter.get_total_flops() / 1e9, 2)
    torch.backends.mha.set_fastpath_enabled(True)
    return found


def measure_preparation(encoders: dict[str, Any], path: Path, others: Others) -> float:
    """Milliseconds an image of one thread for both encoders' pixels, decoding not counted."""
    image = open_plainly(path)

    def work() -> None:
        for _ in range(20):
            for encoder in encoders.values():
                encoder.pixels.prepare(image)

    return round(float(np.median([measure(others, work)[0] for _ in range(5)])) / 20 * 1000, 2)


def estimate_gpu(result: dict[str, Any]) -> dict[str, Any]:
    """Images a second of the two parts on a machine with a GPU, from counts and measured costs."""
    cold = result["cold"]
    thread_ms = cold["decode_ms"]["median"] + result["preparation_ms"]
    # How well two threads share the decoding here is taken for sixteen.
    sharing = min(
        1.0, cold["decode_ms"]["median"] / (N_THREADS * cold["decode_2_threads_ms"]["median"])
    )
    flops = sum(result["gflops"].values()) * 1e9
    return {
        "thread_ms": round(thread_ms, 1),
        "sharing": round(sharing, 2),
        "decoded_per_s": round(N_CORES * sharing * 1000 / thread_ms),
        "embedded_per_s": round(H100_FP32_FLOPS * UTILISATION / flops),
    }


PAGE = """# Scoring: speed and memory

Made by `{command}`, which also says how it is measured;
raw figures of every round in [scoring.json](scoring.json). {cpu_count} cores ({cpu}), {n_threads}
threads, Python {python}, torch {torch}. ViT-S/16 and CLIP ViT-B/32 with random weights, PNG images
of {size_px} px and {mean_mb} MB on average. Other processes took {others} of the machine (median
over all measured parts; highest {highest_others}).

## Cold: 300 images, nothing in the cache

{n_rounds} rounds on one run of three subjects; medians, and the lowest and highest round. Ratios
are taken within a round; peers' loop takes each third image, others in the next round. Ours is
`Scorer.score`, which `dreambench score` calls: hashing, decoding, preparation, both encoders,
texts, perceptual hashes, cache, scores of all metrics, and their files.

| | images/s | rounds |
|:--|--:|--:|
{rates}

| ratio | | rounds |
|:--|--:|--:|
{ratios}

Counted in the real functions, for each generated image (the subject's photos are shared out among
its images, and a batch that is filled up counts whole):

| | files decoded | DINO passes | images through DINO | CLIP passes | images through CLIP |
|:--|--:|--:|--:|--:|--:|
{counts}

Milliseconds an image of a bare pass, best of three, by batch size; the bound takes {best_dino} for
DINO and {best_clip} for CLIP, ours {own_batch} for both:

| batch | ViT-S/16 | CLIP ViT-B/32 |
|--:|--:|--:|
{batches}

## Memory and warm scoring: the paper's protocol with its five metrics

`dreambench score` with an empty cache, in a process of its own:

| images | peak memory | seconds |
|--:|--:|--:|
{memory}

The peak of the second is {growth} of the first's.

Scored again with what that left in the cache (no network is read), {n_images} images and {n_photos}
photos, up to the summary with its intervals: **{warm} s** ({warm_all} in {n_warm} new processes,
their start not counted). The cache takes {cache_mb} MB; LPIPS features of these images, had they
been kept in place of distances, would take {features_gb} GB.

## On paper: {n_cores} cores and an H100

| figure | value | source |
|:--|--:|:--|
| decoding, one thread | {decode_ms} ms an image | measured here |
| pixels for both encoders, one thread | {preparation_ms} ms an image | measured here |
| how well threads share it | {sharing} | measured here with {n_threads}, assumed for {n_cores} |
| ViT-S/16, one image | {dino_gflops} GFLOP | counted by torch |
| CLIP ViT-B/32, one image | {clip_gflops} GFLOP | counted by torch |
| H100 SXM, fp32 | {gpu_tflops} TFLOP/s | NVIDIA's data sheet |
| of which these networks get | {utilisation} | assumed |

Each file is decoded once and goes once through each encoder, so {n_cores} cores decode and prepare
{decoded} images a second, and the GPU embeds {embedded}. **The bottleneck is {bottleneck}**:
{n_files} files take {longer_s} s, of which the GPU works {gpu_s}. To keep it busy took {n_needed}
cores at {size_px} px; at 512 px, as Stable Diffusion 1.5 generates, a quarter of the pixels is
decoded and {n_needed_512} would do. None of this was run on a GPU.

What a user can turn, without turning a number:

- `--workers` of `score` and `extract`: processes that share the images out, on one GPU each or
  their part of the cores.
- `--decoding-threads`: by default as many as there are cores, up to 16. It is what counts there:
  give the command more cores, then more threads.
- `--batch-size` of `extract` and `score`: images that an encoder takes at once, by default 64 on a
  GPU and 8 on a CPU. A larger one does nothing for a GPU that waits for images; a smaller one saves
  memory.
- Precision is not among them: scores are fp32 (and TF32 is off), since fp16 moves them by about
  .001, and the GPU is not what is waited for.
"""


def write_page(result: dict[str, Any], path: Path) -> None:
    """The result in words."""
    cold, paper, batch_ms = result["cold"], result["paper"], result["batch_ms"]
    few, many = result["memory"]
    warm = sorted(part["seconds"] for part in result["warm"])
    n_files = many["n_images"] + result["n_photos"]
    decode_s, gpu_s = n_files / paper["decoded_per_s"], n_files / paper["embedded_per_s"]
    n_needed = paper["embedded_per_s"] / paper["decoded_per_s"] * N_CORES
    columns = ("decodes", "DINO passes", "DINO images", "CLIP passes", "CLIP images")

    def make_rows(titles: dict[str, str]) -> str:
        return "\n".join(
            f"| {title} | {cold[name]['median']:.2f} | "
            f"{cold[name]['low']:.2f} to {cold[name]['high']:.2f} |"
            for name, title in titles.items()
        )

    values = {
        **{
            key: result[key]
            for key in ("command", "cpu_count", "cpu", "python", "torch", "own_batch")
        },
        "n_threads": N_THREADS,
        "size_px": SIZE_PX,
        "mean_mb": f"{result['mean_mb']:.1f}",
        "others": f"{result['others_share']:.0%}",
        "highest_others": f"{result['highest_others_share']:.0%}",
        "n_rounds": len(result["rounds"]),
        "rates": make_rows(
            {
                "ours": "ours",
                "ours_workers": "ours with `--workers 2`, the start of two processes counted",
                "bound": "bound: each file decoded once, in one thread; one bare pass an encoder",
                "bound_2_threads": "the same with decoding in two threads",
                "peers": "peers' shape: batch 1, a pass a metric, reference encoded for each image",
            }
        ),
        "ratios": make_rows(
            {
                "ours_to_bound": "ours / bound",
                "ours_to_bound_2_threads": "ours / bound with decoding in two threads",
                "ours_workers_to_bound": "ours with `--workers 2` / bound",
                "workers_to_bound_2_threads": "ours with `--workers 2` / bound, two threads",
                "ours_to_peers": "ours / peers' shape",
            }
        ),
        "counts": "\n".join(
            f"| {title} | " + " | ".join(f"{result['counts'][name][c]:.2f}" for c in columns) + " |"
            for name, title in (("ours", "ours"), ("peers", "peers' shape"))
        ),
        "best_dino": result["best"]["dino"],
        "best_clip": result["best"]["clip"],
        "batches": "\n".join(
            f"| {size} | {batch_ms['dino'][size]:.1f} | {batch_ms['clip'][size]:.1f} |"
            for size in batch_ms["dino"]
        ),
        "memory": "\n".join(
            f"| {part['n_images']:,} | {part['peak_gb']:.2f} GB | {part['seconds']:.0f} |"
            for part in (few, many)
        ),
        "growth": f"{many['peak_gb'] / few['peak_gb']:.1%}",
        "n_images": f"{many['n_images']:,}",
        "n_photos": result["n_photos"],
        "warm": f"{np.median(warm):.2f}",
        "warm_all": ", ".join(f"{value:.2f}" for value in warm),
        "n_warm": len(warm),
        "cache_mb": result["cache_mb"],
        "features_gb": f"{many['n_images'] * LPIPS_NUMBERS * 4 / 1e9:.1f}",
        "n_cores": N_CORES,
        "decode_ms": f"{cold['decode_ms']['median']:.1f}",
        "preparation_ms": result["preparation_ms"],
        "sharing": paper["sharing"],
        "dino_gflops": result["gflops"]["dino"],
        "clip_gflops": result["gflops"]["clip"],
        "gpu_tflops": f"{H100_FP32_FLOPS / 1e12:.0f}",
        "utilisation": f"{UTILISATION:.0%}",
        "decoded": f"{paper['decoded_per_s']:,}",
        "embedded": f"{paper['embedded_per_s']:,}",
        "bottleneck": "decoding" if decode_s > gpu_s else "the GPU",
        "n_files": f"{n_files:,}",
        "longer_s": f"{max(decode_s, gpu_s):.1f}",
        "gpu_s": f"{gpu_s:.1f}",
        "n_needed": math.ceil(n_needed),
        "n_needed_512": math.ceil(n_needed / 4),
    }
    path.write_text(PAGE.format_map(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-subjects", type=int, default=30)
    parser.add_argument("--warm", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.warm:
        score_warm(args.warm, args.cache)
        return
    with tempfile.TemporaryDirectory(prefix="dreambench-scoring-") as folder:
        root = Path(folder)
        os.environ["DREAMBENCH_WEIGHTS"] = str(root / "weights")
        os.environ["DREAMBENCH_CACHE"] = str(root / "cache")
        result = run_parts(root, args.repeats, args.n_subjects)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scoring.json").write_text(json.dumps(result, indent=1) + "\n")
    write_page(json.loads((args.out / "scoring.json").read_text()), args.out / "scoring.md")
    print((args.out / "scoring.md").read_text())


def run_parts(root: Path, repeats: int, n_subjects: int) -> dict[str, Any]:
    """All parts, and what they ran on."""
    import torch  # noqa: PLC0415

    from dreambench.encoders.registry import load_encoder  # noqa: PLC0415

    torch.set_num_threads(N_THREADS)
    others = Others()
    make_weights(root / "weights")
    world = World(root, n_subjects)
    cold = world.make_run("three", world.names[:3])
    whole = [world.make_run("whole", world.names[:3]), world.make_run("whole", world.names)]
    encoders = {
        "dino": load_encoder("dino-vits16", "dino"),
        "clip": load_encoder("clip-vit-b-32", "clip"),
    }
    batch_ms = find_batch_sizes(encoders, others)
    best = {role: min(found, key=found.__getitem__) for role, found in batch_ms.items()}
    print(json.dumps(batch_ms), flush=True)
    rounds = measure_cold(cold, encoders, best, repeats, root, others)
    files = [cold.image_path(unit) for unit in cold.plan.images]
    shares = [
        part["others_share"]
        for found in rounds
        for part in found.values()
        if isinstance(part, dict)
    ]
    counts = {
        name: dict(
            sum((Counter(found[name]["counts"]) for found in rounds), Counter[str]()).items()
        )
        for name in ("ours", "peers")
    }
    n_scored = {
        "ours": sum(found["n_images"] for found in rounds),
        "peers": sum(found["n_peers"] for found in rounds),
    }
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "cpu_count": os.cpu_count(),
        "cpu": name_cpu(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mean_mb": round(float(np.mean([path.stat().st_size for path in files])) / 1e6, 2),
        "others_share": round(float(np.median(shares)), 3),
        "highest_others_share": max(shares),
        "batch_ms": batch_ms,
        "best": best,
        "own_batch": encoders["dino"].batch_size,
        "rounds": rounds,
        "cold": summarise(rounds),
        "counts": {
            name: {key: round(n / n_scored[name], 3) for key, n in found.items()}
            for name, found in counts.items()
        },
        "preparation_ms": measure_preparation(encoders, files[0], others),
        "gflops": count_flops(encoders),
        "n_photos": sum(len(subject.photos) for subject in whole[1].subjects),
    }
    result["paper"] = estimate_gpu(result)
    result["memory"] = measure_memory(whole, root)
    result["warm"] = measure_warm(whole[1], root, 3, others)
    cache = root / f"warm-{len(whole[1].plan.images)}" / "embeddings"
    result["cache_mb"] = round(sum(p.stat().st_size for p in cache.glob("*.sqlite")) / 1e6, 1)
    return result


def name_cpu() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
