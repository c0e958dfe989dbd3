"""Speed and memory of training and generating, next to the bare loop and to peers' shape.

    python benchmarks/training.py [--out reports/benchmarks] [--rounds 3]

DreamBooth on `mini` with its recipe, on two threads, each part in a process of its own:

- ours: the whole protocol with an empty cache, in one worker of `dreambench run --method
  dreambooth`: loading, class images, latents, training, weights, images, files;
- the bare loop of the same subjects: optimizer steps on latents and text states that are ready, and
  denoising passes, scheduler steps and decodes in the same batches, and nothing else. That it does
  as many passes on as many images is counted in the UNet and the autoencoder themselves;
- peers' shape (the public scripts: one run a subject): a new process for each subject that loads
  the base model, makes the class images again (four at a time, as diffusers' script does), encodes
  photos, class images and texts again in each step, and generates one image at a time. Two
  subjects a round, other ones in the next.

Ours and the bare loop are compared with imports and, for the bare loop, all preparation left out;
ours and peers' shape by the seconds of whole processes. Nothing is asserted: a figure depends on
its machine. Other processes are waited for, and their share of the processor is noted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scoring import Others, name_cpu

N_THREADS = 2
PEERS_SUBJECTS = 2  # of each round; the protocol's seconds are counted up from them.
PEERS_CLASS_BATCH = 4
MAX_WAIT_SECONDS = 120.0  # for other processes to be quiet, over all rounds
PARTS = ("ours", "bare", "peers")


# ------------------------------------------------------------ the parts, each in its own process


@contextmanager
def counted(pipeline: Any) -> Any:
    """Counts passes and images through the real UNet, and images through the autoencoder."""
    counts: Counter[str] = Counter()

    def note(_module: Any, inputs: Any, _output: Any) -> None:
        counts["passes"] += 1
        counts["images"] += len(inputs[0])

    handle = pipeline.unet.register_forward_hook(note)
    kept = pipeline.vae.decode, pipeline.vae.encode

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(images: Any, *words: Any, **options: Any) -> Any:
            counts[name] += len(images)
            return function(images, *words, **options)

        return call

    pipeline.vae.decode = watch("decoded", kept[0])
    pipeline.vae.encode = watch("encoded", kept[1])
    try:
        yield counts
    finally:
        handle.remove()
        pipeline.vae.decode, pipeline.vae.encode = kept


def make_run(root: Path, subjects: Sequence[str]) -> Any:
    """The run that `dreambench run --method dreambooth` opens."""
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.config.recipe import load_recipe  # noqa: PLC0415
    from dreambench.runs.run_folder import Request, open_run, plan_run  # noqa: PLC0415
    from dreambench.scoring.tools import prepare_encoders  # noqa: PLC0415

    protocol = load_protocol("mini")
    request = Request(
        protocol=protocol, recipe=load_recipe("dreambooth"), subjects=tuple(subjects) or None,
        base_model="mini", device="cpu", precision="fp32", batch_size=16,
        encoders=prepare_encoders(protocol),
    )  # fmt: skip
    return open_run(plan_run(root / "run", request))


def run_ours(root: Path, subjects: Sequence[str]) -> dict[str, Any]:
    """Units as a worker does them; the clock starts when imports and the plan are through."""
    from dreambench.artifacts.device_time import read_device_time  # noqa: PLC0415
    from dreambench.progress import no_progress  # noqa: PLC0415
    from dreambench.runs import worker  # noqa: PLC0415
    from dreambench.runs.executors.local import Here  # noqa: PLC0415
    from dreambench.runs.pipeline import Pipeline, work_through  # noqa: PLC0415
    from dreambench.runs.units import Terms  # noqa: PLC0415

    run = make_run(root, subjects)
    load_libraries()
    real, counts, loading = worker.make_method, Counter[str](), 0.0
    with ExitStack() as stack:

        def make_method(*words: Any) -> Any:
            nonlocal loading, counts
            began = time.perf_counter()
            method: Any = real(*words)
            loading += time.perf_counter() - began
            counts = stack.enter_context(counted(method.model.pipeline))
            return method

        stack.enter_context(mock.patch.object(worker, "make_method", make_method))
        started = time.perf_counter()
        terms = Terms(cache_dir=root / "cache")
        pipeline = Pipeline(run, terms=terms, progress=no_progress)
        pipeline.plan_images()
        work_through([pipeline], Here())
        seconds = time.perf_counter() - started
    tuning = read_device_time(run.folder).training_seconds - loading
    parts = {"load": loading, "tune": tuning, "draw": seconds - loading - tuning}
    return {"seconds": seconds, "parts": parts, "counts": dict(counts)}


def load_libraries() -> None:
    """What is imported at first use."""
    from diffusers import DDPMScheduler, StableDiffusionPipeline  # noqa: F401, PLC0415


class Workshop:
    """What the bare loop and peers' shape need of a run: recipe, plan, pipeline, text states."""

    def __init__(self, root: Path, subjects: Sequence[str]) -> None:
        from dreambench.methods.base import Context  # noqa: PLC0415
        from dreambench.methods.finetuning.identifier import choose_identifier  # noqa: PLC0415
        from dreambench.methods.registry import read_settings  # noqa: PLC0415
        from dreambench.progress import no_progress  # noqa: PLC0415

        self.run = make_run(root, subjects)
        run = self.run
        self.sampler = run.manifest.sampler
        self.settings: Any = read_settings(run.recipe, "mini")
        self.context = Context(
            base_model=self.run.base_model, sampler=self.sampler, device="cpu", precision="fp32",
            batch_size=run.manifest.batch_size, cache_dir=root / "cache", progress=no_progress,
        )  # fmt: skip
        self.model = self.context.load_base_model()
        self.pipeline = self.model.pipeline
        self.identifier = choose_identifier(self.pipeline.tokenizer, self.settings.identifier)

    def batches(self, subject: str) -> list[list[str]]:
        """The prompts of a subject's images, in the plan's batches."""
        found: dict[int, list[str]] = {}
        for unit in self.run.plan.images:
            if unit.subject == subject:
                phrase = f"{self.identifier} {self.run.subject(subject).class_name}"
                text = unit.prompt.replace("{subject}", phrase)
                found.setdefault(unit.batch, []).append(text)
        return list(found.values())


def run_bare(root: Path, subjects: Sequence[str]) -> dict[str, Any]:
    """Optimizer steps, and denoising steps with decodes; all that they need is ready before."""
    import torch  # noqa: PLC0415
    import torch.nn.functional as F  # noqa: PLC0415
    from diffusers import DDPMScheduler  # noqa: PLC0415

    shop = Workshop(root, subjects)
    pipeline, settings, sampler = shop.pipeline, shop.settings, shop.sampler
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    for part in (vae, pipeline.text_encoder):
        part.requires_grad_(False)
    schedule = DDPMScheduler.from_config(scheduler.config)
    size = settings.batch_size
    side = sampler.size_px // pipeline.vae_scale_factor
    shape = (unet.config.in_channels, side, side)

    def encode(texts: list[str]) -> Any:
        with torch.no_grad():
            return shop.model.encode_prompts(texts).tensors["states"]

    def draw(texts: Any) -> Any:
        """Images of text states (n, length, d), the empty text's states after them."""
        latents = torch.randn(len(texts) // 2, *shape)
        scheduler.set_timesteps(sampler.n_steps)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                found = unet(torch.cat([latents] * 2), t, encoder_hidden_states=texts).sample
                with_text, without = found.chunk(2)
                guided = without + sampler.guidance_scale * (with_text - without)
                latents = scheduler.step(guided, t, latents).prev_sample
            return vae.decode(latents / vae.config.scaling_factor).sample

    work, nouns = [], set()
    for unit in shop.run.plan.train:
        noun = shop.run.subject(unit.subject).class_name
        groups = [encode(texts + [""] * len(texts)) for texts in shop.batches(unit.subject)]
        class_texts = []
        if noun not in nouns:
            texts = [f"a {noun}"] * shop.context.batch_size
            n_batches = -(-settings.n_class_images // len(texts))
            class_texts = [encode(texts + [""] * len(texts))] * n_batches
        nouns.add(noun)
        words = encode([f"a {shop.identifier} {noun}"] * size + [f"a {noun}"] * size)
        clean = torch.randn(settings.n_steps, 2 * size, *shape)
        work.append((class_texts, words, clean, groups))

    tune_seconds = 0.0
    with counted(pipeline) as counts:
        started = time.perf_counter()
        for class_texts, words, clean, groups in work:
            tuning = time.perf_counter()
            for texts in class_texts:
                draw(texts)
            unet.train()
            optimizer = torch.optim.AdamW(unet.parameters(), settings.learning_rate, fused=True)
            for step in range(settings.n_steps):
                eps = torch.randn_like(clean[step])
                times = torch.randint(schedule.config.num_train_timesteps, (2 * size,))
                noisy = schedule.add_noise(clean[step], eps, times)
                found = unet(noisy, times, encoder_hidden_states=words).sample
                target = schedule.get_velocity(clean[step], eps, times)
                loss = F.mse_loss(found[:size], target[:size])
                loss = loss + settings.prior_weight * F.mse_loss(found[size:], target[size:])
                loss.backward()
                torch.nn.utils.clip_grad_norm_(unet.parameters(), settings.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            unet.eval()
            tune_seconds += time.perf_counter() - tuning
            for texts in groups:
                draw(texts)
        seconds = time.perf_counter() - started
    parts = {"tune": tune_seconds, "draw": seconds - tune_seconds}
    return {"seconds": seconds, "parts": parts, "counts": dict(counts)}


def draw_like_peers(pipeline: Any, sampler: Any, texts: list[str]) -> list[Any]:
    """Images of prompts as a public script generates them."""
    import torch  # noqa: PLC0415

    with torch.no_grad():
        return pipeline(
            texts, num_inference_steps=sampler.n_steps, guidance_scale=sampler.guidance_scale,
            height=sampler.size_px, width=sampler.size_px,
        ).images  # fmt: skip


def tune_like_peers(
    pipeline: Any, settings: Any, size_px: int, *, phrase: str, noun: str,
    photo_paths: Sequence[Path], class_paths: Sequence[Path],
) -> Iterator[None]:  # fmt: skip
    """Full fine-tuning as a public script does it: all is read and encoded in each step.

    Yields after each step.
    """
    import torch  # noqa: PLC0415
    import torch.nn.functional as F  # noqa: PLC0415
    from diffusers import DDPMScheduler  # noqa: PLC0415

    from dreambench.storage.images import load_image  # noqa: PLC0415

    unet, vae, encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    device = pipeline.device

    def read(paths: Sequence[Path]) -> Any:
        images = [load_image(path).resize((size_px,) * 2) for path in paths]
        pixels = np.stack([np.asarray(image, np.float32) / 127.5 - 1 for image in images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)

    for part in (vae, encoder):
        part.requires_grad_(False)
    unet.train()
    optimizer = torch.optim.AdamW(
        unet.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    size = settings.batch_size
    rng = np.random.default_rng(0)
    texts = [f"a {phrase}"] * size + [f"a {noun}"] * size
    for _ in range(settings.n_steps):
        photos = [photo_paths[i % len(photo_paths)] for i in rng.permutation(size)]
        priors = [class_paths[i] for i in rng.permutation(len(class_paths))[:size]]
        with torch.no_grad():
            latents = vae.encode(read([*photos, *priors])).latent_dist.sample()
            ids = pipeline.tokenizer(
                texts, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            words = encoder(ids.to(device))[0]
        latents = latents * vae.config.scaling_factor
        eps = torch.randn_like(latents)
        times = torch.randint(schedule.config.num_train_timesteps, (2 * size,), device=device)
        noisy = schedule.add_noise(latents, eps, times)
        found = unet(noisy, times, encoder_hidden_states=words).sample
        target = eps
        if schedule.config.prediction_type == "v_prediction":
            target = schedule.get_velocity(latents, eps, times)
        loss = F.mse_loss(found[:size], target[:size])
        loss = loss + settings.prior_weight * F.mse_loss(found[size:], target[size:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield
    unet.eval()


def run_peers(root: Path, subjects: Sequence[str]) -> dict[str, Any]:
    """One subject as a public script does it."""
    shop = Workshop(root, subjects)
    pipeline, settings, sampler = shop.pipeline, shop.settings, shop.sampler
    (unit,) = shop.run.plan.train
    subject = shop.run.subject(unit.subject)
    noun = subject.class_name
    started = time.perf_counter()
    with counted(pipeline) as counts:
        class_paths: list[Path] = []
        while len(class_paths) < settings.n_class_images:
            for image in draw_like_peers(pipeline, sampler, [f"a {noun}"] * PEERS_CLASS_BATCH):
                class_paths.append(root / f"class-{len(class_paths)}.png")
                image.save(class_paths[-1])
        for _ in tune_like_peers(
            pipeline, settings, sampler.size_px, phrase=f"{shop.identifier} {noun}", noun=noun,
            photo_paths=subject.photos, class_paths=class_paths,
        ):  # fmt: skip
            pass
        tuned = time.perf_counter()
        pipeline.save_pretrained(root / "tuned")
        prompts = [text for batch in shop.batches(subject.name) for text in batch]
        for index, prompt in enumerate(prompts):
            (image,) = draw_like_peers(pipeline, sampler, [prompt])
            image.save(root / f"image-{index}.png")
    ended = time.perf_counter()
    parts = {"tune": tuned - started, "draw": ended - tuned}
    return {"seconds": ended - started, "parts": parts, "counts": dict(counts)}


# ------------------------------------------------------------------------- rounds and the page


def measure(part: str, subjects: Sequence[str], others: Others) -> dict[str, Any]:
    """One part in a new process: its own result, whole seconds, peak memory, the others' share."""
    with tempfile.TemporaryDirectory(prefix="dreambench-training-") as folder:
        words = [sys.executable, __file__, "--part", part, "--root", folder, "--subjects"]
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(N_THREADS), "DREAMBENCH_CACHE": f"{folder}/cache",
        }  # fmt: skip
        others.wait()
        wall, busy, _ = others.read()
        process = subprocess.Popen(
            [*words, ",".join(subjects)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"the part '{part}' failed")
        ended, busy_after, _ = others.read()
    own = used.ru_utime + used.ru_stime
    share = (busy_after - busy - own) / ((ended - wall) * (os.cpu_count() or 1))
    return {
        **json.loads(printed.splitlines()[-1]),
        "n_subjects": len(subjects),
        "process_seconds": ended - wall,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
        "others_share": max(0.0, share),
    }


def add_up(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several processes of one part as one."""
    return {
        "seconds": sum(one["seconds"] for one in found),
        "process_seconds": sum(one["process_seconds"] for one in found),
        "parts": {key: sum(one["parts"][key] for one in found) for key in found[0]["parts"]},
        "counts": dict(sum((Counter(one["counts"]) for one in found), Counter[str]())),
        "n_subjects": sum(one["n_subjects"] for one in found),
        "peak_gb": max(one["peak_gb"] for one in found),
        "others_share": max(one["others_share"] for one in found),
    }


def measure_rounds(n_rounds: int) -> list[dict[str, Any]]:
    """All parts in each round, in changing order."""
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.runs.run_folder import load_chosen  # noqa: PLC0415

    chosen = load_chosen(load_protocol("mini"), data_dir=None, names=None)
    names = [subject.name for subject in chosen]
    others, rounds = Others(), []
    others.patience_seconds = MAX_WAIT_SECONDS
    for number in range(n_rounds):
        turn = number % len(PARTS)
        found: dict[str, Any] = {}
        for part in PARTS[turn:] + PARTS[:turn]:
            if part == "peers":
                first = number * PEERS_SUBJECTS
                some = [names[(first + i) % len(names)] for i in range(PEERS_SUBJECTS)]
                found[part] = add_up([measure(part, [name], others) for name in some])
            else:
                found[part] = measure(part, names, others)
            print(part, json.dumps(found[part]), flush=True)
        rounds.append(found)
    return rounds


def summarise(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians over the rounds, by subject; ratios are taken within a round."""
    values: dict[str, list[float]] = {}
    for found in rounds:
        row: dict[str, float] = {}
        for part in PARTS:
            row[part] = found[part]["seconds"] / found[part]["n_subjects"]
            row[f"{part}_process"] = found[part]["process_seconds"] / found[part]["n_subjects"]
            row[f"{part}_peak_gb"] = found[part]["peak_gb"]
            for key, seconds in found[part]["parts"].items():
                row[f"{part}_{key}"] = seconds / found[part]["n_subjects"]
        row["ours_to_bare"] = row["ours"] / row["bare"]
        row["peers_to_ours"] = row["peers_process"] / row["ours_process"]
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {
        name: {
            "median": round(float(np.median(each)), 3),
            "low": round(min(each), 3),
            "high": round(max(each), 3),
        }
        for name, each in values.items()
    }


PAGE = """# Training and generating: speed and memory

Made by `python benchmarks/training.py --out reports/benchmarks`, which also says how it is
measured; raw figures of every round in [training.json](training.json). {cpu_count} cores ({cpu}),
{n_threads} threads, Python {python}, torch {torch}. DreamBooth on `mini` with its recipe:
{n_subjects} subjects, {n_steps} steps of {n_images} noisy images, {n_drawn} images generated
and decoded in all (class images with them). {n_rounds} rounds in changing order; medians, and the
lowest and highest round. Other processes took {others} of the machine (median over all parts;
highest {highest_others}).

| seconds a subject | loading | training, class images | generating | all | rounds | peak memory |
|:--|--:|--:|--:|--:|--:|--:|
{parts}

Peers' shape was measured on {n_peers} subjects a round. Counted up to the {n_subjects} of the
protocol it takes {peers_all} s, ours {ours_all} s: whole processes, with their start and imports.

| ratio | | rounds |
|:--|--:|--:|
{ratios}

Counted in the real networks, a subject:

| | UNet passes | images through the UNet | images decoded | images encoded |
|:--|--:|--:|--:|--:|
{counts}

## What there is for small and for large GPUs

| option | where | what it does |
|:--|:--|:--|
| SDPA | always | torch's fused attention: FlashAttention or its like on a GPU |
| `channels_last` | always | convolutions in the order that CPUs and recent GPUs want |
| fused AdamW | `optimizer = "adamw"` | one kernel for all weights |
| latents and texts once | always | encoded before the first step (texts unless they are trained) |
| class images once | always | for each noun, base model and sampler, in the cache, for all runs |
| one load | always | for all subjects; weights are put back between them |
| `--precision bf16` | command, protocol | frozen networks and generating; what trains stays fp32 |
| `--batch-size` | command | images generated together; halved by itself when memory runs out |
| `gradient_checkpointing = true` | recipe | SD 1.5's activations: {activations} GB an image |
| `optimizer = "adamw-8bit"` | recipe | a quarter of the optimizer's memory; needs bitsandbytes |
| `gradient_accumulation_steps = 4` | recipe | a batch four times as large in the memory of one |
| `--method dreambooth-lora` | command | trains {lora_m} million of SD 1.5's {unet_m} million |

Of these, `mini` on a CPU measures the ones marked "always"; none was run on a GPU here.
`torch.compile` is not among them: tried by hand on `mini`'s UNet, it took minutes to compile and
made a step no faster on this CPU.
"""


def write_page(result: dict[str, Any], path: Path) -> None:
    """The result in words."""
    from dreambench.base_models.catalogue import BASE_MODELS  # noqa: PLC0415

    found, rounds = result["summary"], result["rounds"]
    titles = {"ours": "ours", "bare": "bare loop", "peers": "peers' shape"}
    base = BASE_MODELS["sd15"]

    def show(name: str, digits: int = 2) -> str:
        return f"{found[name]['median']:.{digits}f}" if name in found else "-"

    def span(name: str) -> str:
        return f"{found[name]['low']:.2f} to {found[name]['high']:.2f}"

    ours = rounds[0]["ours"]
    values = {
        **{key: result[key] for key in ("cpu_count", "cpu", "python", "torch", "n_steps")},
        "n_threads": N_THREADS,
        "n_rounds": len(rounds),
        "n_subjects": ours["n_subjects"],
        "n_images": result["n_images"],
        "n_drawn": ours["counts"]["decoded"],
        "n_peers": PEERS_SUBJECTS,
        "others": f"{result['others_share']:.0%}",
        "highest_others": f"{result['highest_others_share']:.0%}",
        "parts": "\n".join(
            f"| {title} | {show(f'{part}_load')} | {show(f'{part}_tune')} | {show(f'{part}_draw')} "
            f"| {show(part)} | {span(part)} | {show(f'{part}_peak_gb')} GB |"
            for part, title in titles.items()
        ),
        "ratios": "\n".join(
            f"| {title} | {show(name)} | {span(name)} |"
            for name, title in (
                ("ours_to_bare", "ours / bare loop"),
                ("peers_to_ours", "peers' shape / ours, whole processes"),
            )
        ),
        "peers_all": f"{found['peers_process']['median'] * ours['n_subjects']:.0f}",
        "ours_all": f"{found['ours_process']['median'] * ours['n_subjects']:.0f}",
        "counts": "\n".join(
            f"| {title} | "
            + " | ".join(
                f"{rounds[0][part]['counts'].get(key, 0) / rounds[0][part]['n_subjects']:.1f}"
                for key in ("passes", "images", "decoded", "encoded")
            )
            + " |"
            for part, title in titles.items()
        ),
        "activations": f"{base.checkpointed_bytes / 1e9:.1f} in place of "
        f"{base.activation_bytes / 1e9:.1f}",
        "lora_m": f"{sum(4 * (i + o) * n for i, o, n in base.adapted_shapes) / 1e6:.1f}",
        "unet_m": f"{base.n_denoiser_parameters / 1e6:.0f}",
    }
    path.write_text(PAGE.format_map(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--subjects", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        import torch  # noqa: PLC0415

        torch.set_num_threads(N_THREADS)
        run = {"ours": run_ours, "bare": run_bare, "peers": run_peers}[args.part]
        names = [name for name in args.subjects.split(",") if name]
        print(json.dumps(run(args.root, names)))
        return
    import torch  # noqa: PLC0415

    from dreambench.config.recipe import load_recipe  # noqa: PLC0415
    from dreambench.methods.registry import read_settings  # noqa: PLC0415

    rounds = measure_rounds(args.rounds)
    shares = [found[part]["others_share"] for found in rounds for part in PARTS]
    settings: Any = read_settings(load_recipe("dreambooth"), "mini")
    result = {
        "cpu_count": os.cpu_count(),
        "cpu": name_cpu(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "n_steps": settings.n_steps,
        "n_images": settings.batch_size * 2,
        "others_share": round(float(np.median(shares)), 3),
        "highest_others_share": round(max(shares), 3),
        "summary": summarise(rounds),
        "rounds": rounds,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n")
    write_page(json.loads((args.out / "training.json").read_text()), args.out / "training.md")
    print((args.out / "training.md").read_text())


if __name__ == "__main__":
    main()
