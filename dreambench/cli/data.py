"""Commands on photos: fetch, verify, list, show, add and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dreambench.cli.display import show_progress
from dreambench.cli.shared import data_option, print_json, say, user_errors
from dreambench.errors import UserError

_dataset = click.option(
    "--dataset",
    default="dreambooth",
    show_default=True,
    help="dreambooth, mini, or a folder with subjects.csv and images.csv.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def data() -> None:
    """Fetch, verify, list, show, add and export photos."""


@data.command()
@click.option(
    "--from",
    "source",
    help="URL of a zip archive, zip archive, folder, or 'hub'.  [default: the pinned commit on "
    "GitHub, then the hub dataset google/dreambooth]",
)
@data_option
@user_errors
def fetch(source: str | None, data_dir: Path | None) -> None:
    """Download the paper's 158 photos and check each one.

    Photos that are present and correct are kept; the rest are put in place once all are found.
    """
    from dreambench.datasets.fetch import fetch_photos  # noqa: PLC0415  (imports pyarrow)
    from dreambench.datasets.index import find_dataset, read_index  # noqa: PLC0415

    dataset = find_dataset("dreambooth", photos_dir=data_dir)
    with show_progress() as progress:
        n_fetched = fetch_photos(dataset, source=source, progress=progress)
    n_photos = len(read_index(dataset).files)
    say(f"{n_photos} of {n_photos} photos in {dataset.photos_dir} ({n_fetched} new)")


@data.command()
@_dataset
@data_option
@_json
@user_errors
def verify(dataset: str, data_dir: Path | None, as_json: bool) -> None:
    """Check every photo on this machine against the index.

    All that is missing or changed is listed; the exit code is then 2.
    """
    from dreambench.datasets.index import check_file, find_dataset, read_index  # noqa: PLC0415

    found = find_dataset(dataset, photos_dir=data_dir)
    files = read_index(found).files
    checked = [(file.file, check_file(found, file)) for file in files]
    faults = [{"file": file, "problem": problem} for file, problem in checked if problem]
    n_valid = len(files) - len(faults)
    line = f"{n_valid} of {len(files)} files in {found.photos_dir} are the pinned ones"
    if as_json:
        content = {
            "dataset": found.name,
            "photos_dir": str(found.photos_dir),
            "n_files": len(files),
            "n_valid": n_valid,
            "faults": faults,
        }
        print_json(content)
    else:
        for fault in faults:
            say(fault["problem"])
    if faults:
        is_paper = found.name == "dreambooth"
        hint = "download the others with: dreambench data fetch" if is_paper else "restore them"
        raise UserError(line, hint=hint, code="changed-data")
    if not as_json:
        say(line)


@data.command("list")
@_dataset
@data_option
@_json
@user_errors
def list_(dataset: str, data_dir: Path | None, as_json: bool) -> None:
    """List a dataset's subjects and how many photos are here.

    One line per subject: class noun, kind, photos in the index, photos on this machine.
    """
    from dreambench.datasets.index import find_dataset  # noqa: PLC0415
    from dreambench.datasets.subjects import list_subjects  # noqa: PLC0415

    found = find_dataset(dataset, photos_dir=data_dir)
    rows = [
        {
            "subject": subject.name,
            "class_name": subject.class_name,
            "kind": subject.kind,
            "n_photos": len(subject.photos),
            "n_here": sum(photo.is_file() for photo in subject.photos),
        }
        for subject in list_subjects(found)
    ]
    if as_json:
        print_json(rows)
        return
    say(f"{'subject':20} {'class':16} {'kind':8} photos  here")
    for row in rows:
        say(
            f"{row['subject']:20} {row['class_name']:16} {row['kind']:8} "
            f"{row['n_photos']:6} {row['n_here']:5}"
        )


@data.command()
@click.argument("subject")
@_dataset
@data_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="PNG to write.  [default: SUBJECT.png]"
)
@user_errors
def show(subject: str, dataset: str, data_dir: Path | None, out: Path | None) -> None:
    """Plot a contact sheet of one subject's photos."""
    from dreambench.datasets.index import find_dataset, read_index  # noqa: PLC0415
    from dreambench.datasets.subjects import load_subjects  # noqa: PLC0415
    from dreambench.report.pictures import plot_sheet  # noqa: PLC0415  (imports matplotlib)

    found = find_dataset(dataset, photos_dir=data_dir)
    (chosen,) = load_subjects(found, names=[subject])
    about = read_index(found, names=[subject]).images
    cells = []
    for row, path in zip(about, chosen.photos, strict=True):
        size = f"{row['width']} x {row['height']}" if row.get("width") else ""
        cells.append((f"{path.name}  {size}\n{row['sha256'][:12]}", path))
    title = f"{chosen.name}: a {chosen.class_name} ({chosen.kind}), {len(cells)} photos"
    path = out or Path(f"{subject}.png")
    if path.suffix != ".png":
        raise UserError(
            f"{path} is not a .png file", hint="name the sheet NAME.png", code="invalid-value"
        )
    say(plot_sheet(title, cells, path))


@data.command()
@click.argument("name")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--class", "class_name", required=True, help="Class noun, or auto: by CLIP.")
@click.option(
    "--kind",
    type=click.Choice(["live", "object"]),
    help="Kind of subject.  [default: that of the class noun]",
)
@click.option(
    "--encoder", default="clip-vit-b-32", show_default=True, help="CLIP encoder of --class auto."
)
@click.option(
    "--to",
    "to_dir",
    type=click.Path(path_type=Path),
    default="my-subjects",
    show_default=True,
    help="Dataset folder to add the subject to.",
)
@click.option("--credit", default="", help="Who made the photos.")
@click.option(
    "--min-side-px",
    type=click.IntRange(16),
    default=256,
    show_default=True,
    help="Refuse photos whose short side is below this.",
)
@user_errors
def add(
    name: str, photos: tuple[Path, ...], class_name: str, kind: Any, encoder: str, to_dir: Path,
    credit: str, min_side_px: int,
) -> None:  # fmt: skip
    """Add a custom subject, made of your own photos.

    PHOTOS are checked, turned upright, converted to RGB, and written with their SHA-256 to a
    dataset folder, alongside the subjects that it already has.
    """
    from dreambench.datasets.custom_subjects import (  # noqa: PLC0415  (imports scipy)
        add_subject,
        check_subject_name,
        find_kind,
        load_class_nouns,
        load_photos,
    )

    check_subject_name(name)
    images = load_photos(photos, min_side_px=min_side_px)
    if class_name == "auto":
        from dreambench.encoders.classification import classify_photos  # noqa: PLC0415  (imports torch)
        from dreambench.encoders.registry import find_encoder, load_spec  # noqa: PLC0415

        spec = find_encoder(encoder, "clip")
        with show_progress() as progress:
            spec.ensure_weights(progress)
        ranking = classify_photos(images, list(load_class_nouns()), load_spec(spec))
        say(f"class nouns by {encoder}:")
        for noun, probability in ranking[:5]:
            say(f"  {probability:5.1%}  {noun}")
        class_name = ranking[0][0]
    added = add_subject(
        to_dir,
        name,
        photos=images,
        names=[path.name for path in photos],
        class_name=class_name,
        kind=kind or find_kind(class_name),
        credit=credit,
    )
    for note in added.notes:
        say(f"note: {note}")
    say(f"{name}, a {class_name}, with {len(added.files)} photos, is in {to_dir}")
    say(
        f"to use it, write a protocol with: dataset = {json.dumps(str(to_dir), ensure_ascii=False)}"
    )


@data.command()
@_dataset
@data_option
@click.option("--to", "to_dir", type=click.Path(path_type=Path), help="Empty folder to write.")
@click.option("--push", help="Upload to the hub as OWNER/NAME instead.")
@click.option("--token", help="Hub token.  [default: HF_TOKEN or that of hf auth login]")
@user_errors
def export(
    dataset: str, data_dir: Path | None, to_dir: Path | None, push: str | None, token: str | None
) -> None:
    """Export a dataset as image folder, parquet and Croissant.

    With --push, upload it to the hub instead.
    """
    from dreambench.datasets.export import export_dataset, push_dataset  # noqa: PLC0415
    from dreambench.datasets.index import find_dataset  # noqa: PLC0415

    found = find_dataset(dataset, photos_dir=data_dir)
    if to_dir is not None and push is None:
        for path in export_dataset(found, to_dir):
            say(path)
    elif push is not None and to_dir is None:
        say(push_dataset(found, push, token=token))
    else:
        raise UserError(
            "export needs one target",
            hint="either --to FOLDER or --push OWNER/NAME",
            code="usage",
        )
