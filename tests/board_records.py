"""Records with known numbers, written as `submit` writes them, for tests of boards."""

from pathlib import Path

import numpy as np
import pandas as pd
from conftest import TINY_PROTOCOL
from PIL import Image
from scored_runs import info_of

from dreambench.analysis.summary import INTERVAL
from dreambench.artifacts.cells import FILE_NAME as CELLS_NAME
from dreambench.artifacts.cells import ID_COLUMNS, make_scores, render_cells
from dreambench.artifacts.manifest import CodeState, Compute, Digests, RecipeRecord, Session
from dreambench.artifacts.record import (
    FILE_NAME,
    THUMBNAILS_NAME,
    BoundsPart,
    FloorPart,
    MethodPart,
    Record,
    digest_record,
    render_record,
)
from dreambench.config.protocol import load_protocol
from dreambench.leaderboard.numbers import compute_metrics
from dreambench.storage.files import sha256_bytes
from dreambench.storage.images import encode_generated_webp

METRICS = ("dino", "clip-i", "clip-t", "joint", "pixel-match")
SUBJECTS = tuple(f"s{number}" for number in range(6))
TRACKS = ("tuned, all photos", "tuning-free, 1 photo")


def load_tiny(folder):
    """The tests' protocol."""
    path = folder / "tiny.toml"
    path.write_text(TINY_PROTOCOL)
    return load_protocol(str(path))


def make_cells_of(protocol, name, quality, *, metrics=METRICS, missing=()):
    """Cells whose numbers are `quality` and a little noise that the name seeds."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows = []
    for subject in SUBJECTS:
        for prompt in protocol.prompts:
            for index in range(protocol.n_images_per_prompt):
                is_there = (subject, prompt.id, index) not in missing
                sha256 = sha256_bytes(f"{name}{subject}{prompt.id}{index}".encode())
                noise = rng.normal(0, 0.02, len(metrics))
                values = np.clip(quality + noise, 0, 1) if is_there else [np.nan] * len(metrics)
                rows.append(
                    [1, subject, "dog", "live", prompt.family, prompt.id, index, 7,
                     sha256 if is_there else None]
                    + [part for value in values for part in (value, int(is_there))]
                )  # fmt: skip
    columns = [column for metric in metrics for column in (metric, f"{metric}:n_pairs")]
    return pd.DataFrame(rows, columns=[*ID_COLUMNS, *columns]).astype({"seed": "Int64"})


def make_record(
    records_dir: Path, name, quality, *, metrics=METRICS, missing=(), version="", **changes
):
    """Write a record of a method; return its folder. `version` goes into the signatures.

    `changes` are fields of the record; `title`, `source`, `track`, `base_model` and `licence` those
    of its method.
    """  # fmt: skip
    records_dir.mkdir(parents=True, exist_ok=True)
    protocol = load_tiny(records_dir.parent)
    cells = make_cells_of(protocol, name, quality, metrics=metrics, missing=missing)
    scores = make_scores(cells, metrics)
    infos = [info_of(metric, signature=f"{version}S|{metric}") for metric in metrics]
    known = ("title", "source", "track", "licence", "base_model")
    about = {key: changes.pop(key) for key in known if key in changes}
    about = {"title": f"The method {name}", "track": TRACKS[name.startswith("fair")]} | about
    digests = Digests(protocol=protocol.digest(), data="d0", recipe="r0", plan="l0")
    if "data" in changes:
        digests = digests.model_copy(update={"data": changes.pop("data")})
    images = {
        f"images/{row.subject}/{row.prompt}/{row.place}.png": row.sha256
        for row in cells.rename(columns={"index": "place"}).itertuples()
        if isinstance(row.sha256, str)
    }
    encoders, prompts = {"dino": "E"}, [prompt.id for prompt in protocol.prompts]
    digest = digest_record(
        digests=digests, method=name, encoders=encoders, precision="fp32",
        subjects=SUBJECTS, prompts=prompts, images=images,
    )  # fmt: skip
    strip = Image.fromarray(np.full((60, 120, 3), 90, np.uint8))
    files = {
        CELLS_NAME: render_cells(cells),
        THUMBNAILS_NAME: encode_generated_webp(strip, {}, quality=80),
    }
    session = Session(
        started="2026-01-01T00:00:00+00:00", python="3.11", platform="Linux",
        packages={"torch": "2"},
        code=CodeState(version="0"),
        compute=Compute(device="cpu", threads=1, cpu="AVX2", deterministic=True, limits={}),
    )  # fmt: skip
    recipe = RecipeRecord(
        name=name, method="dreambooth", title=about["title"], source="tests", track=about["track"],
        settings={"n_steps": 6},
    )  # fmt: skip
    by_subject = dict.fromkeys(SUBJECTS, 0.9)
    values = {
        "digest": digest, "evaluator": "authors", "origin": "run",
        "method": MethodPart(name=name, **about), "recipe": recipe, "protocol": protocol,
        "subjects": list(SUBJECTS), "prompts": prompts, "partial": bool(missing),
        "digests": digests, "encoders": encoders, "precision": "fp32", "interval": INTERVAL,
        "metrics": compute_metrics(scores, infos),
        "reference_bounds": {
            "dino": BoundsPart(
                copy_bound=0.9, faithful_bound=0.85, copy_by_subject=by_subject,
                faithful_by_subject=by_subject,
            )
        },
        "floor": FloorPart(name="class-only", recipe="r1", means={"dino": 0.1}),
        "n_images": len(images), "n_images_expected": len(images) + len(missing),
        "missing": [f"images/{'/'.join(map(str, place))}.png" for place in missing],
        "sessions": [session], "files": {key: sha256_bytes(one) for key, one in files.items()},
    }  # fmt: skip
    record = Record(**{**values, **changes})
    folder = records_dir / record.path
    folder.mkdir(parents=True)
    for key, content in {FILE_NAME: render_record(record), **files}.items():
        (folder / key).write_bytes(content)
    return folder
