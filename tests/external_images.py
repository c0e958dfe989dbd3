"""Folders of external images for tests: the tiny protocol's set in each layout, and reading it."""

import csv
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dreambench.config.protocol import load_protocol
from dreambench.progress import no_progress
from dreambench.scoring.external import ExternalRequest, load_external

PROMPTS = {"beach": "a {subject} on the beach", "red": "a red {subject}", "prior": "a {class}"}
KEYS = [(s, p, k) for s in ("dog", "mug") for p in PROMPTS for k in (0, 1)]


def draw_images(folder):
    """The tiny protocol's images as <subject>/<prompt>/<k>.png, each another noise."""
    rng = np.random.default_rng(0)
    for subject, prompt, k in KEYS:
        path = folder / subject / prompt / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return folder


def read_folder(folder, *, protocol, out, **options):
    """The image set of a folder as `dreambench score` reads it, without scoring it."""
    request = ExternalRequest(
        folder=folder, protocol=load_protocol(str(protocol)), name="mine", **options
    )
    return load_external(request, out, device="cpu", cache_dir=out / "cache", progress=no_progress)


def kinds(problems):
    """Names by kind of problem."""
    found = {}
    for problem in problems:
        found.setdefault(problem.kind, []).append(problem.name)
    return found


def index_rows(folder):
    """The rows of an index that names all images of a folder by subject, prompt and number."""
    return [[f"{s}/{p}/{k}.png", s, p, k] for s, p, k in KEYS if (folder / s / p).is_dir()]


def write_index(path, rows):
    """An index: a CSV with the columns file, subject, prompt, index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "subject", "prompt", "index"])
        writer.writerows(rows)


def to_run(source: Path, target: Path) -> Path:
    """A folder with `images` in it, as a run's."""
    shutil.copytree(source, target / "images", ignore=lambda *_: [".staging"])
    return target


def to_subject_prompt(source: Path, target: Path) -> Path:
    """<subject>/<prompt>/<k>.png."""
    shutil.copytree(source, target, ignore=lambda *_: [".staging"])
    return target


def to_other_names(source: Path, target: Path) -> Path:
    """Numbers from 9 with zeros before them, and folders named by the prompt's text."""
    for subject, prompt, k in KEYS:
        text = "prior" if prompt == "prior" else PROMPTS[prompt].format(subject=f"sks {subject}")
        text = text.replace(" ", "_") if subject == "dog" else text
        path = target / subject / text / f"{9 + k:04d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / subject / prompt / f"{k}.png", path)
    return target


def to_dreambench_plus(source: Path, target: Path) -> Path:
    """DreamBench++'s tgt_image, text and src_image."""
    for subject, prompt, k in KEYS:
        text = PROMPTS[prompt].format_map({"subject": f"{subject}", "class": subject}).capitalize()
        name = f"{list(PROMPTS).index(prompt)}_{k}"
        for part in ("tgt_image", "text", "src_image"):
            (target / part / subject).mkdir(parents=True, exist_ok=True)
        shutil.copy(
            source / subject / prompt / f"{k}.png", target / "tgt_image" / subject / f"{name}.png"
        )
        (target / "text" / subject / f"{name}.txt").write_text(f"{text}\n")
        Image.new("RGB", (64, 64)).save(target / "src_image" / subject / f"{name}.png")
    (target / "negative_prompt.txt").write_text("")
    return target


def to_dreambench_plus_with_prior(source: Path, target: Path) -> Path:
    """The same with class images in folders of their own."""
    to_dreambench_plus(source, target)
    for path in (target / "tgt_image").glob("*/2_*.png"):
        (path.parent / "prior").mkdir(exist_ok=True)
        path.rename(path.parent / "prior" / path.name)
    return target


def to_index(source: Path, target: Path) -> Path:
    """An index that names prompts by id, by text, and with an identifier, in another order."""
    shutil.copytree(source, target / "pictures", ignore=lambda *_: [".staging"])
    rows = []
    for subject, prompt, k in KEYS:
        text = {"beach": "a [V] dog on the beach", "red": "red", "prior": f"a {subject}"}[prompt]
        text = PROMPTS["beach"] if (subject, prompt) == ("mug", "beach") else text
        rows.append([f"pictures/{subject}/{prompt}/{k}.png", subject, text, k])
    write_index(target / "index.csv", rows[::-1])
    return target / "index.csv"


EVERY_LAYOUT = [
    (to_run, "run"),
    (to_subject_prompt, "subject/prompt"),
    (to_other_names, "subject/prompt"),
    (to_dreambench_plus, "dreambench-plus"),
    (to_dreambench_plus_with_prior, "dreambench-plus"),
    (to_index, "index"),
]
