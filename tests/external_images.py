"""Folders of external images for tests: the tiny protocol's set in each layout, and reading it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambench.config.protocol import load_protocol
from dreambench.progress import no_progress
from dreambench.scoring.external import ExternalRequest, load_external
from dreambench.scoring.problems import ImageSetError

PROMPTS = {"beach": "a {subject} on the beach", "red": "a red {subject}", "prior": "a {class}"}
KEYS = [(s, p, k) for s in ("dog", "mug") for p in PROMPTS for k in (0, 1)]


def draw_images(folder, keys=KEYS):
    """Images, the tiny protocol's, as <subject>/<prompt>/<k>.png, each another noise."""
    rng = np.random.default_rng(0)
    for subject, prompt, k in keys:
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


UNO_SETTINGS = {
    "eval_json_path": "./datasets/dreambench_singleip.json", "offload": False,
    "num_images_per_prompt": 2, "model_type": "flux-dev", "width": 512, "height": 512,
    "ref_size": 512, "num_steps": 25, "guidance": 4, "seed": 3407,
    "save_path": "output/inference", "only_lora": True, "concat_refs": False, "lora_rank": 512,
    "data_resolution": 512, "pe": "d",
}  # fmt: skip


def write_uno(folder, images):
    """What UNO's inference.py writes of (subject, text, k, image file), in the order of a list.

    The number of an entry is its place among the subjects and texts; every k is one more image.
    """
    folder.mkdir()
    entries = list(dict.fromkeys((subject, text) for subject, text, *_ in images))
    for subject, text, k, path in images:
        name = f"{entries.index((subject, text))}_{k}"
        shutil.copy(path, folder / f"{name}.png")
        # Of a pair a photo of each, in its order.
        photos = [f"./dreambooth/dataset/{name}/02.jpg" for name in subject.split("+")]
        note = {"prompt": text, "image_paths": photos, **UNO_SETTINGS}
        (folder / f"{name}.json").write_text(json.dumps(note, indent=4))
    return folder


def write_patchdpo(folder, images):
    """What PatchDPO's inference_dreambooth.py writes of them, of each prompt the last image."""
    for subject, text, _, path in images:
        (folder / subject).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / subject / f"{text}.png")
    scores = {"clipt_score": "0.2", "clipi_score": "0.8", "dino_score": "0.7"}
    (folder / "all_score.json").write_text(json.dumps(scores, indent=4))
    return folder


def list_images(source, keys=KEYS, prompts=PROMPTS):
    """Subject, text with its class noun, number and file of images as <subject>/<prompt>/<k>."""
    return [
        (s, prompts[p].format_map({"subject": s, "class": s}), k, source / s / p / f"{k}.png")
        for s, p, k in keys
    ]


def to_uno(source: Path, target: Path) -> Path:
    """Numbered images with a JSON file each."""
    return write_uno(target, list_images(source))


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
    (to_uno, "uno"),
    (to_index, "index"),
]


def problems_of(read, folder, **options):
    """The problems for which a folder is refused by what reads it."""
    with pytest.raises(ImageSetError) as caught:
        read(folder, **options)
    assert caught.value.code == "wrong-image-set"
    return caught.value.problems
