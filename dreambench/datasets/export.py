"""Export a dataset to the formats of other tools: parquet, image folder, Croissant, the hub."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambench import __version__
from dreambench.datasets.index import Dataset, read_index
from dreambench.datasets.subjects import Subject, load_subjects
from dreambench.errors import UserError, disk_errors, raise_if_disk
from dreambench.storage.csv_files import write_csv
from dreambench.storage.files import make_dir, sha256_file, write_bytes
from dreambench.storage.paths import check_inside, remove_tree

if TYPE_CHECKING:
    import datasets

PARQUET_NAME = "photos.parquet"
FILES = ("images", PARQUET_NAME, "croissant.json")
COLUMNS = {
    "subject": "Name of the individual",
    "class_name": "Its class noun",
    "kind": "live or object",
    "sha256": "SHA-256 of the photo's bytes",
    "source": "Where the photo comes from",
    "credit": "Who made it",
}
"""What an exported table says about each photo, with the descriptions for Croissant."""
DRAWN = {
    "license": "https://www.apache.org/licenses/LICENSE-2.0",
    "url": "https://github.com/dreambench/dreambench",
    "cite_as": "dreambench, https://github.com/dreambench/dreambench",
}
ABOUT = {
    "dreambooth": {
        "description": "30 subjects, 158 photos, of the DreamBooth paper, as pinned by dreambench.",
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "url": "https://github.com/google/dreambooth",
        "cite_as": "Ruiz et al., DreamBooth: Fine Tuning Text-to-Image Diffusion Models for "
        "Subject-Driven Generation, CVPR 2023, arXiv 2208.12242",
    },
    "mini": {
        **DRAWN,
        "description": "Eight subjects rendered by a program: dreambench's embedded benchmark.",
    },
    "mini-full": {
        **DRAWN,
        "description": "30 subjects of 14 classes rendered by a program, mini's eight first.",
    },
}


def export_dataset(dataset: Dataset, out_dir: Path) -> list[Path]:
    """Write images/ with metadata.csv, photos.parquet and croissant.json; return their paths.

    The photos keep their bytes in both forms.

    Raises:
        UserError: `folder-not-empty`, `changed-data` when a photo is not the pinned one, and
            `missing-package` without the optional packages.
    """
    for package in ("datasets", "mlcroissant"):
        if importlib.util.find_spec(package) is None:
            raise _not_installed(package)
    subjects = load_subjects(dataset)
    rows = make_rows(dataset, subjects)
    make_dir(out_dir)
    with disk_errors(out_dir):
        if any(not entry.name.startswith(".") for entry in out_dir.iterdir()):
            raise UserError(
                f"{out_dir} is not empty",
                hint="name another folder with --to",
                code="folder-not-empty",
            )
        # In a hidden folder first, so that a call that fails leaves nothing in the way of the next.
        part = out_dir / ".export.part"
        remove_tree(part, inside=out_dir)
        try:
            _write_image_folder(rows, part / "images")
            make_table(rows).to_parquet(str(part / PARQUET_NAME))
            _write_croissant(dataset, rows, part)
            for name in FILES:
                (part / name).replace(out_dir / name)
        finally:
            remove_tree(part, inside=out_dir)
    return [out_dir / name for name in FILES]


def push_dataset(dataset: Dataset, repository: str, *, token: str | None) -> str:
    """Upload a dataset to the hub as `OWNER/NAME` and return its address.

    The token is `token`, else HF_TOKEN, else that of `hf auth login`. UserError (`upload-failed`)
    when the hub cannot be reached or refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415  (slow import)

    table = make_table(make_rows(dataset, load_subjects(dataset)))
    try:
        table.push_to_hub(repository, token=token or os.environ.get("HF_TOKEN"))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise_if_disk(error)
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"cannot upload to {repository}: {reason}",
            hint="check the network, the name OWNER/NAME and the token (hf auth login)",
            code="upload-failed",
        ) from error
    return f"https://huggingface.co/datasets/{repository}"


def make_rows(dataset: Dataset, subjects: list[Subject]) -> list[dict[str, Any]]:
    """Return one row per photo: its file with path, and all that the index says about it."""
    about = {row["file"]: row for row in read_index(dataset).images}
    rows = []
    for subject in subjects:
        for path, sha256 in zip(subject.photos, subject.sha256, strict=True):
            file = path.relative_to(dataset.photos_dir).as_posix()
            rows.append(
                {
                    "file": file,
                    "path": path,
                    "subject": subject.name,
                    "class_name": subject.class_name,
                    "kind": subject.kind,
                    "sha256": sha256,
                    "source": about[file].get("source", ""),
                    "credit": about[file].get("credit", ""),
                }
            )
    return rows


def make_table(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """Return the photos as a table of the `datasets` library, image bytes inside."""
    try:
        import datasets  # noqa: PLC0415  (slow import)
    except ImportError as error:
        raise _not_installed("datasets") from error
    features = datasets.Features(
        {"image": datasets.Image(), **{name: datasets.Value("string") for name in COLUMNS}}
    )
    datasets.disable_progress_bars()
    content: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in COLUMNS}
    content["image"] = [{"bytes": row["path"].read_bytes(), "path": row["file"]} for row in rows]
    return datasets.Dataset.from_dict(content, features=features)


def _not_installed(package: str) -> UserError:
    return UserError(
        f"the package '{package}' is not installed",
        hint='pip install "dreambench[export]"',
        code="missing-package",
    )


def _write_image_folder(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the layout that `datasets` loads as "imagefolder"."""
    for row in rows:
        target = check_inside(folder / row["file"], folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row["path"], target)
    table = [{"file_name": row["file"], **{name: row[name] for name in COLUMNS}} for row in rows]
    write_csv(folder / "metadata.csv", ["file_name", *COLUMNS], table)


def _write_croissant(dataset: Dataset, rows: list[dict[str, Any]], out_dir: Path) -> None:
    """Write a Croissant 1.0 description of the parquet file, validated by mlcroissant."""
    try:
        import mlcroissant as mlc  # noqa: PLC0415  (slow import)
    except ImportError as error:
        raise _not_installed("mlcroissant") from error

    logging.getLogger("absl").setLevel(logging.ERROR)
    about = ABOUT.get(dataset.name, {"description": f"Subjects of the dataset {dataset.name}."})
    n_subjects = len({row["subject"] for row in rows})
    metadata = mlc.Metadata(
        name=dataset.name,
        description=about["description"],
        license=[about["license"]] if "license" in about else None,
        url=about.get("url", "https://github.com/dreambench/dreambench"),
        cite_as=about.get("cite_as"),
        version=__version__,
        distribution=[
            mlc.FileObject(
                id=PARQUET_NAME,
                name=PARQUET_NAME,
                content_url=PARQUET_NAME,
                encoding_formats=["application/x-parquet"],
                sha256=sha256_file(out_dir / PARQUET_NAME),
            )
        ],
        record_sets=[
            mlc.RecordSet(
                id="photos",
                name="photos",
                description=f"{len(rows)} photos of {n_subjects} subjects.",
                fields=_make_croissant_fields(mlc),
            )
        ],
    )
    text = json.dumps(metadata.to_json(), indent=2, ensure_ascii=False, default=str)
    write_bytes(out_dir / "croissant.json", text.encode() + b"\n")
    issues = mlc.Dataset(str(out_dir / "croissant.json")).metadata.issues
    if issues.errors:
        raise RuntimeError(f"the Croissant description is not valid: {issues.errors}")


def _make_croissant_fields(mlc: Any) -> list[Any]:
    """Return the columns of the parquet file as fields of `mlc`, the module mlcroissant."""
    fields = [
        mlc.Field(
            id=f"photos/{name}",
            name=name,
            description=text,
            data_types=mlc.DataType.TEXT,
            source=mlc.Source(file_object=PARQUET_NAME, extract=mlc.Extract(column=name)),
        )
        for name, text in COLUMNS.items()
    ]
    image = mlc.Field(
        id="photos/image",
        name="image",
        description="The photo",
        data_types=mlc.DataType.IMAGE_OBJECT,
        source=mlc.Source(
            file_object=PARQUET_NAME,
            extract=mlc.Extract(column="image"),
            transforms=[mlc.Transform(json_path="bytes")],
        ),
    )
    return [*fields, image]
