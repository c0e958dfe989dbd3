"""What a GPU makes of tuning and drawing at real size: one command for whoever has one.

    python benchmarks/gpu.py [--out reports/benchmarks] [--minutes 8]

Stable Diffusion 1.5 at 512 px, and SDXL at 1024 px while there is time, with random weights that
are made from their configs (nothing is downloaded; 30 GB of temporary disk). Random weights take
the time and the memory of trained ones. dreambench's own methods, training loop and drawing code
are called, each part in a process of its own:

- DreamBooth and DreamBooth-LoRA with their recipes, in bf16 and in fp32: seconds of a training step
  and of an image, their share of the bound, peak memory beside what `dreambench doctor` estimates,
  and whether the same seeds give the same bits again. The bound is a matrix product of the same
  precision, measured in the same process; the work is counted by torch's FlopCounterMode in the
  networks themselves;
- peers' shape, as in `benchmarks/training.py`: a process a subject, fp32, photos and texts encoded
  in each step, class images made again for each subject, one image at a time;
- the same images drawn by the CPU and by the device.

Without a GPU it measures mini's base model on the CPU, and the page says so. Nothing is asserted: a
figure depends on its machine. A part that fails or has no time left is named on the page.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from training import PEERS_CLASS_BATCH, draw_like_peers, tune_like_peers

from dreambench.base_models.registry import find_base_model
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import list_subjects, load_subjects
from dreambench.machine.devices import free_memory
from dreambench.machine.environment import describe_session
from dreambench.methods.base import Context
from dreambench.methods.finetuning.training import STEPS_PER_CHECK
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import estimate_memory, make_estimate
from dreambench.progress import no_progress
from dreambench.storage.files import read_json, write_bytes, write_json

GOALS = {"tune_share": 0.4, "draw_share": 0.5, "ratio": 3.0}
"""For an H100: Stable Diffusion 1.5, 512 px, bf16."""
SHARES = ("tune_share", "draw_share")
MAIN_RECIPE = "dreambooth"
PROMPT = "a {subject} in the jungle"
LEAST_SECONDS = 45.0
"""A part is not begun with less time than this."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Steps are timed from `first_step`, which the device has finished when it is told, to `n_steps`;
    `n_images` are drawn together, fewer where memory runs out. `matrix` is the side of the bound's
    matrices.
    """

    protocol: str
    first_step: int
    n_steps: int
    n_draw_steps: int
    n_images: Mapping[str, int]
    matrix: int


# The training loop waits for the device when it reads losses, every STEPS_PER_CHECK steps.
SCALES = {
    "gpu": Scale(
        "dreambench", STEPS_PER_CHECK, 3 * STEPS_PER_CHECK, 50, {"bf16": 16, "fp32": 4}, 8192
    ),
    "cpu": Scale("mini", 2, 6, 14, {"bf16": 4, "fp32": 4}, 1024),
    "smallest": Scale("mini", 1, 2, 2, {"bf16": 1, "fp32": 1}, 256),
}


@dataclass(frozen=True)
class Part:
    """What one process measures: `recipe` is a recipe, or "peers" or "agreement"."""

    base: str
    recipe: str
    precision: str

    @property
    def name(self) -> str:
        """What it is called in the page's data."""
        return f"{self.base} {self.recipe} {self.precision}"


def list_parts(scale: str) -> list[Part]:
    """All parts, the most important first, so that the last ones go without when time is over."""
    if scale != "gpu":
        small = [Part("mini", MAIN_RECIPE, "fp32"), Part("mini", "peers", "fp32")]
        more = [Part("mini", "dreambooth-lora", "fp32"), Part("mini", MAIN_RECIPE, "bf16")]
        return small if scale == "smallest" else small + more
    return [
        Part("sd15", MAIN_RECIPE, "bf16"),
        Part("sd15", "peers", "fp32"),
        Part("sd15", "agreement", "fp32"),
        Part("sd15", MAIN_RECIPE, "fp32"),
        Part("sd15", "dreambooth-lora", "bf16"),
        Part("sdxl", "dreambooth-lora", "bf16"),
        Part("sdxl", MAIN_RECIPE, "bf16"),
        Part("sd15", "dreambooth-lora", "fp32"),
    ]


# ------------------------------------------------------------ the parts, each in its own process


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def clock(device: str, work: Callable[[], Any]) -> float:
    """Seconds of a piece of work on a device."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def seconds_alive() -> float:
    """How long this process has run."""
    return time.time() - psutil.Process().create_time()


def measure_bound(device: str, precision: str, side: int) -> float:
    """FLOP/s of a matrix product: the best of ten, warmed up."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    best = min(clock(device, lambda: left @ right) for _ in range(10))
    return 2 * side**3 / best


def count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """What torch's counter leaves out of attention on the CPU."""
    return sdpa_flop_count(query, key, value)


def count_flops(work: Callable[[], Any]) -> int:
    """Floating-point operations of all matrix products, convolutions and attention in `work`."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={on_cpu: count_attention}) as counter:
        work()
    return counter.get_total_flops()


def read_peak(device: str) -> int:
    """Bytes at the peak: what torch holds of a GPU, or the whole process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Bench:
    """One method on one base model, made as a run makes it."""

    def __init__(self, part: Part, scale: Scale, device: str, base: str, root: Path) -> None:
        self.part, self.scale, self.device, self.root = part, scale, device, root
        self.told: list[float] = []
        self.base = find_base_model(base)
        self.recipe = load_recipe(part.recipe)
        self.settings = read_settings(self.recipe, self.base.name)
        sampler = self.base.choose_sampler(load_protocol(scale.protocol).sampler)
        context = Context(
            base_model=self.base, sampler=sampler.model_copy(update={"n_steps": 2}), device=device,
            precision=part.precision, batch_size=1, cache_dir=root / "cache", progress=self._tell,
        )  # fmt: skip
        self.kind = find_method(self.recipe.method)
        self.method: Any = self.kind(self._with(n_steps=1), context)
        self.model = self.method.model
        self.sampler = sampler.model_copy(update={"n_steps": scale.n_draw_steps})
        (self.subject,) = load_subjects(find_dataset("mini"), names=["dog"])

    def _with(self, *, n_steps: int) -> Any:
        # One class image at two steps is enough of a prior to train on.
        return self.settings.model_copy(update={"n_steps": n_steps, "n_class_images": 1})

    def _tell(self, what: str, done: int, total: int) -> None:
        if what.startswith("training"):
            self.told.append(time.perf_counter())

    def fit(self, n_steps: int) -> Path:
        """Train on the subject; where the result is, in place of the last one's."""
        folder = self.root / "fit"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.told.clear()
        self.method.settings = self._with(n_steps=n_steps)
        self.method.fit(self.subject, folder, seed=0)
        return folder

    def draw(self, n_images: int, n_steps: int, folder: Path) -> list[Any]:
        """Images of the subject; the method has been given its weights before."""
        self.model.sampler = self.sampler.model_copy(update={"n_steps": n_steps})
        generator = self.method.load(self.subject, folder)
        return generator.generate([PROMPT] * n_images, list(range(n_images)))

    @contextmanager
    def without_checkpoints(self) -> Iterator[None]:
        """What is computed twice to save memory is no work that has to be done."""
        unet = self.model.pipeline.unet
        if not self.settings.gradient_checkpointing:
            yield
            return
        unet.disable_gradient_checkpointing()
        try:
            yield
        finally:
            unet.enable_gradient_checkpointing()

    def measure_tuning(self, bound: float) -> tuple[dict[str, Any], Path]:
        """Speed, memory and bits of training; and the folder of what was trained."""
        scale, device = self.scale, self.device
        self.fit(1)  # Makes the class image.
        with self.without_checkpoints():
            counts = [count_flops(lambda n=n: self.fit(n)) for n in (1, 2)]
        free_memory(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        whole = clock(device, lambda: self.fit(scale.n_steps))
        peak = read_peak(device)
        folder = (self.root / "fit").rename(self.root / "trained")
        timed = self.told[scale.n_steps - 1] - self.told[scale.first_step - 1]
        seconds = timed / (scale.n_steps - scale.first_step)
        again = read_json(self.fit(scale.first_step) / "losses.json")
        flops = counts[1] - counts[0]
        work = self.kind.count_work(self.settings, self.base)
        return {
            "step_seconds": seconds,
            "step_flops": flops,
            "tune_share": flops / seconds / bound,
            "images_per_step": work.images_per_step,
            "subject_seconds": max(0.0, whole - scale.n_steps * seconds),
            "peak_bytes": peak,
            "estimated_bytes": estimate_memory(
                self.settings, work, self.base, size_px=self.sampler.size_px,
                precision=self.part.precision,
            ),
            "same_losses": again == read_json(folder / "losses.json")[: len(again)],
        }, folder  # fmt: skip

    def measure_drawing(self, bound: float, folder: Path) -> dict[str, Any]:
        """Speed and bits of drawing."""
        n_steps, n_images = self.sampler.n_steps, self.scale.n_images[self.part.precision]
        one, two = (count_flops(lambda n=n: self.draw(1, n, folder)) for n in (1, 2))
        self.draw(n_images, 1, folder)
        n_together = min(n_images, self.model.most_images or n_images)
        generator = self.method.load(self.subject, folder)
        self.model.sampler = self.sampler
        words = [PROMPT] * n_images, list(range(n_images))
        seconds = clock(self.device, lambda: generator.generate(*words)) / n_images
        flops = one + (n_steps - 1) * (two - one)
        pixels = [np.stack([np.asarray(i) for i in self.draw(2, 2, folder)]) for _ in range(2)]
        return {
            "image_seconds": seconds,
            "pass_flops": (two - one) // 2,  # Guidance takes two passes.
            "image_flops": flops,
            "draw_share": flops / seconds / bound,
            "n_together": n_together,
            "n_draw_steps": n_steps,
            "same_images": bool((pixels[0] == pixels[1]).all()),
        }


def measure_method(part: Part, scale: Scale, device: str, base: str, root: Path) -> dict[str, Any]:
    """A method's training and drawing."""
    bench = Bench(part, scale, device, base, root)
    wait_for(device)
    found = {"start_seconds": seconds_alive()}
    bound = found["bound_flops_per_second"] = measure_bound(device, part.precision, scale.matrix)
    tuning, folder = bench.measure_tuning(bound)
    return {**found, **tuning, **bench.measure_drawing(bound, folder)}


def measure_peers(part: Part, scale: Scale, device: str, base: str, root: Path) -> dict[str, Any]:
    """A public script's training and drawing."""
    model = find_base_model(base)
    settings: Any = read_settings(load_recipe(MAIN_RECIPE), model.name)
    sampler = model.choose_sampler(load_protocol(scale.protocol).sampler)
    short = sampler.model_copy(update={"n_steps": 2})
    context = Context(
        base_model=model, sampler=sampler, device=device, precision="fp32", batch_size=1,
        cache_dir=root / "cache", progress=no_progress,
    )  # fmt: skip
    pipeline = context.load_base_model().pipeline
    wait_for(device)
    found: dict[str, Any] = {"start_seconds": seconds_alive()}
    sampler = sampler.model_copy(update={"n_steps": scale.n_draw_steps})
    (subject,) = load_subjects(find_dataset("mini"), names=["dog"])
    noun = subject.class_name
    draw_like_peers(pipeline, short, ["a dog"])
    texts = [f"a {noun}"] * PEERS_CLASS_BATCH
    images: list[Any] = []
    seconds = clock(device, lambda: images.extend(draw_like_peers(pipeline, sampler, texts)))
    found["class_image_seconds"] = seconds / len(texts)
    paths = [root / f"class-{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    found["image_seconds"] = clock(device, lambda: draw_like_peers(pipeline, sampler, [noun]))
    moments = []
    for _ in tune_like_peers(
        pipeline, settings.model_copy(update={"n_steps": scale.n_steps}), sampler.size_px,
        phrase=f"sks {noun}", noun=noun, photo_paths=subject.photos, class_paths=paths,
    ):  # fmt: skip
        wait_for(device)
        moments.append(time.perf_counter())
    n_timed = scale.n_steps - scale.first_step
    found["step_seconds"] = (moments[-1] - moments[scale.first_step - 1]) / n_timed
    return found


def measure_agreement(
    _part: Part, scale: Scale, device: str, base: str, _root: Path
) -> dict[str, Any]:
    """Level differences of images by the device from the CPU's in fp32."""
    found = {}
    for title, name, size_px, n_images, n_steps in (
        ("mini, 64 px, 4 steps", "mini", 64, 8, 4),
        ("random weights, 128 px, 2 steps", base, 128, 2, 2),
    ):
        sampler = load_protocol("mini" if name == "mini" else scale.protocol).sampler
        sampler = sampler.at_size(size_px)
        sampler = sampler.model_copy(update={"size_px": size_px, "n_steps": n_steps})
        drawn = {}
        for place, precision in (("cpu", "fp32"), (device, "fp32"), (device, "bf16")):
            context = Context(
                base_model=find_base_model(name), sampler=sampler, device=place,
                precision=precision, batch_size=n_images, cache_dir=_root / "cache",
                progress=no_progress,
            )  # fmt: skip
            with torch.inference_mode():
                images = context.load_base_model().sample(["a dog"] * n_images, range(n_images))
            drawn[place, precision] = np.stack([np.asarray(image, np.int16) for image in images])
            free_memory(device)
        for precision in ("fp32", "bf16"):
            apart = np.abs(drawn[device, precision] - drawn["cpu", "fp32"])
            found[f"{title}, {precision}"] = {
                "largest_difference": int(apart.max()),
                "mean_difference": float(apart.mean()),
            }
    return {"differences": found}


def run_part(part: Part, scale: str, device: str, base: str) -> dict[str, Any]:
    """One part, in this process."""
    work = {"peers": measure_peers, "agreement": measure_agreement}.get(part.recipe, measure_method)
    with tempfile.TemporaryDirectory(prefix="dreambench-gpu-") as folder:
        return work(part, SCALES[scale], device, base, Path(folder))


# -------------------------------------------------------------------------- all parts, and the page


def run_apart(part: Part, scale: str, device: str, base: str, *, limit: float) -> dict[str, Any]:
    """One part in a new process; what it failed at where it did."""
    words = ["--part", json.dumps([part.base, part.recipe, part.precision]), "--scale", scale]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words, "--device", device, "--base", base],
            capture_output=True, text=True, check=False, timeout=limit, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"missing": f"not done after {limit:.0f} seconds"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        print(done.stderr, file=sys.stderr)
        return {"missing": f"it failed: {lines[-1][:200]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(
    scale: str, device: str, *, minutes: float, run: Callable[..., dict[str, Any]] = run_apart
) -> dict[str, Any]:
    """All parts for which there is time."""
    ends = time.monotonic() + 60 * minutes
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="dreambench-base-") as folder:
        for part in list_parts(scale):
            left = ends - time.monotonic()
            if left < LEAST_SECONDS:
                found[part.name] = {"missing": f"no time was left of {minutes:g} minutes"}
                continue
            base = part.base
            if base != "mini":
                place = Path(folder) / base
                if not place.exists():
                    words = ["--part", "snapshot", "--base", place, "--device", device]
                    subprocess.run([sys.executable, full_size.__file__, *words], check=True)
                base = f"{base}={place}"
            limit = max(1.0, ends - time.monotonic())
            found[part.name] = run(part, scale, device, base, limit=limit)
            print(part.name, json.dumps(found[part.name]), flush=True)
    return found


def add_up(result: Mapping[str, Any], precision: str) -> dict[str, float]:
    """Hours of DreamBooth on the whole protocol: ours, and peers', from what was measured."""
    parts, base = result["parts"], result["base"]
    ours = parts.get(f"{base} {MAIN_RECIPE} {precision}", {})
    peers = parts[f"{base} peers fp32"]
    if "step_seconds" not in ours or "step_seconds" not in peers:
        return {}
    protocol, recipe = load_protocol(SCALES[result["scale"]].protocol), load_recipe(MAIN_RECIPE)
    subjects = list_subjects(protocol.find_dataset(photos_dir=None))
    plan = make_estimate(protocol, recipe, find_base_model(base), subjects)
    n_drawn = plan.n_images + plan.n_prior_images
    n_class = read_settings(recipe, base).n_class_images  # type: ignore[attr-defined]
    n = len(subjects)
    own = ours["start_seconds"] + n * ours["subject_seconds"]
    own += plan.n_optimizer_steps * ours["step_seconds"]
    own += (plan.n_class_images + n_drawn) * ours["image_seconds"]
    theirs = n * (peers["start_seconds"] + n_class * peers["class_image_seconds"])
    theirs += plan.n_optimizer_steps * peers["step_seconds"] + n_drawn * peers["image_seconds"]
    return {"ours_hours": own / 3600, "peers_hours": theirs / 3600, "ratio": theirs / own}


PAGE = """# Tuning and drawing on a GPU

Made by `python benchmarks/gpu.py --out reports/benchmarks`, which also says how it is measured; all
figures are in [gpu.json](gpu.json). {device}, {threads} threads, {system}, Python {python}, torch
{torch}, diffusers {diffusers}, dreambench {version} at {commit}.

{verdict}

{methods}

A step is of the recipe's batch, photos and class images; an image is drawn in {n_draw_steps} steps
with guidance, among as many as gpu.json says, and decoded. The bound is a matrix product of the
same precision in the same process ({bounds}). The peak is {peak}.

{whole}

{agreement}

| goal, for an H100: Stable Diffusion 1.5, 512 px, bf16 | measured here |
|:--|--:|
| training at {tune_share} of the bound | {found_tune} |
| drawing at {draw_share} of the bound | {found_draw} |
| {ratio:g} times peers' shape | {found_ratio} |
{missing}"""
HEADS = (
    "part", "a step, s", "share of the bound", "an image, s", "share of the bound", "peak, GB",
    "estimate, GB", "same bits again",
)  # fmt: skip
NO_GPU = """**No GPU has run this.** There was none, and these are figures of mini's small base
model at {size_px} px on a CPU: they show that the command works, and nothing about a GPU. Not
measured: Stable Diffusion 1.5 and SDXL at their sizes, memory on a device, the device's images
beside the CPU's, and the goals. Whoever has a GPU runs the command above, which replaces this page;
what the real sizes take and hold without one is in [full-size.md](full-size.md) and
[full-size-memory.md](full-size-memory.md)."""
ON_GPU = """Run on a GPU, at real size, with random weights. In fp32, cuDNN's convolutions {tf32}
TF32, as torch has it by default; matrix products do not."""


def show(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def show_method(name: str, part: Mapping[str, Any], *, has_shares: bool) -> str:
    """A row of a method."""
    tune_share, draw_share = (part[key] if has_shares else None for key in SHARES)
    sames = {"losses": part["same_losses"], "images": part["same_images"]}
    same = ", ".join(f"{what} {'yes' if is_same else 'no'}" for what, is_same in sames.items())
    cells = [
        show(part["step_seconds"], 3), show(tune_share), show(part["image_seconds"]),
        show(draw_share), show(part["peak_bytes"] / 1e9, 1),
        show(part["estimated_bytes"] / 1e9, 1), same,
    ]  # fmt: skip
    return f"| {' | '.join([name, *cells])} |"


def make_page(result: Mapping[str, Any]) -> str:
    """The result in words."""
    parts, session, is_gpu = result["parts"], result["session"], result["scale"] == "gpu"
    methods = {name: part for name, part in parts.items() if "step_flops" in part}
    main = methods.get(f"{result['base']} {MAIN_RECIPE} bf16", {})
    bounds: dict[str, float] = {}
    rows = []
    for name, part in methods.items():
        precision = name.split()[-1]
        # CPUs without AVX-512 have no product in bf16 that would be a bound.
        has_shares = is_gpu or precision == "fp32"
        rows.append(show_method(name, part, has_shares=has_shares))
        if has_shares:
            bounds.setdefault(precision, part["bound_flops_per_second"] / 1e12)
    lines = []
    for precision, sums in result["whole"].items():
        if sums and (is_gpu or precision == "fp32"):  # A CPU keeps fp32.
            lines.append(
                f"| {precision} | {show(sums['ours_hours'])} | {show(sums['peers_hours'])} "
                f"| {show(sums['ratio'])} |"
            )
    whole = "Peers' shape could not be measured."
    if lines:
        whole = "\n".join(
            [
                f"DreamBooth on the whole protocol `{SCALES[result['scale']].protocol}`, added up "
                "from these speeds and the counts of `dreambench plan`:",
                "",
                "| ours in | ours, h | peers' shape (a process a subject, fp32, one image at a "
                "time), h | ratio |",
                "|:--|--:|--:|--:|",
                *lines,
            ]
        )
    agreement = "The device's images were not compared with the CPU's."
    apart = [
        f"| {title} | {one['largest_difference']} | {one['mean_difference']:.3f} |"
        for part in parts.values()
        for title, one in part.get("differences", {}).items()
    ]
    if apart:
        heads = "the device's images beside the CPU's in fp32 | largest difference, levels | mean"
        agreement = "\n".join([f"| {heads} |", "|:--|--:|--:|", *apart])
    ratio = result["whole"].get("bf16", {}).get("ratio")
    missing = [f"- {name}: {part['missing']}" for name, part in parts.items() if "missing" in part]
    goals = [main.get("tune_share"), main.get("draw_share"), ratio]
    reached = [show(value) if is_gpu else "not measured" for value in goals]
    code = session["code"]
    return PAGE.format(
        device=session["compute"]["device"], threads=session["compute"]["threads"],
        system=session["platform"], python=session["python"],
        torch=session["packages"]["torch"], diffusers=session["packages"]["diffusers"],
        version=code["version"], commit=(code["commit"] or "no commit")[:12],
        verdict=ON_GPU.format(tf32="use" if result["cudnn_tf32"] else "do not use")
        if is_gpu
        else NO_GPU.format(size_px=find_base_model("mini").size_px),
        methods="\n".join([f"| {' | '.join(HEADS)} |", "|:--|--:|--:|--:|--:|--:|--:|:--|", *rows]),
        n_draw_steps=SCALES[result["scale"]].n_draw_steps,
        bounds=", ".join(f"{name}: {value:.3g} TFLOP/s" for name, value in bounds.items()),
        peak="what torch took of the device while it trained"
        if is_gpu
        else "that of the whole process, libraries and all",
        whole=whole, agreement=agreement,
        tune_share=GOALS["tune_share"], draw_share=GOALS["draw_share"], ratio=GOALS["ratio"],
        found_tune=reached[0], found_draw=reached[1], found_ratio=reached[2],
        missing="\n".join(["", "Not measured:", "", *missing, ""]) if missing else "",
    )  # fmt: skip


def write_results(
    scale: str, device: str, out: Path, *, minutes: float,
    run: Callable[..., dict[str, Any]] = run_apart,
) -> None:  # fmt: skip
    """Measure, and write gpu.json and gpu.md."""
    result: dict[str, Any] = {
        "scale": scale,
        "base": list_parts(scale)[0].base,
        "goals": GOALS,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "session": describe_session(device).model_dump(mode="json"),
        "parts": measure(scale, device, minutes=minutes, run=run),
    }
    result["whole"] = {precision: add_up(result, precision) for precision in ("bf16", "fp32")}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "gpu.json", result)
    write_bytes(out / "gpu.md", make_page(read_json(out / "gpu.json")).encode())


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part is begun")
    parser.add_argument("--part", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--scale", choices=SCALES, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    parser.add_argument("--base", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    scale = args.scale or ("gpu" if device == "cuda" else "cpu")
    if args.part:
        print(json.dumps(run_part(Part(*args.part), scale, device, args.base)))
        return
    write_results(scale, device, args.out, minutes=args.minutes)
    print((args.out / "gpu.md").read_text())


if __name__ == "__main__":
    main()
