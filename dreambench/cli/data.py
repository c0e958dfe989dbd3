"""Commands on data: fetch, verify, list and show the photos, add one's own, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dreambench.cli.shared import data_option, show_progress, user_errors
from dreambench.errors import UserError

_dataset = click.option(
    "--dataset",
    default="dreambooth",
    show_default=True,
    help="dreambooth, mini, or a folder with the two index files.",
)


@click.group()
def data() -> None:
    """The photos: fetch, verify, list, show, add your own, export."""


@data.command()
@click.option("--to", "to_dir", type=click.Path(path_type=Path), help="Same as --data.")
@click.option(
    "--from",
    "source",
    help="URL, zip or tar archive, folder, or 'hub'.  [default: the pinned commit on GitHub, "
    "then the hub dataset google/dreambooth]",
)
@data_option
@user_errors
def fetch(to_dir: Path | None, source: str | None, data_dir: Path | None) -> None:
    """Bring the paper's 158 photos here; each is checked before it is moved into place."""
    from dreambench.datasets.fetch import fetch_photos  # noqa: PLC0415  (imports pyarrow)
    from dreambench.datasets.subjects import find_dataset, read_index  # noqa: PLC0415

    dataset = find_dataset("dreambooth", photos_dir=to_dir or data_dir)
    with show_progress() as progress:
        n_brought = fetch_photos(dataset, source=source, progress=progress)
    n_photos = len(read_index(dataset).files)
    click.echo(f"{n_photos} of {n_photos} photos in {dataset.photos_dir} ({n_brought} brought)")


@data.command()
@_dataset
@data_option
@user_errors
def verify(dataset: str, data_dir: Path | None) -> None:
    """Compare every photo with the index and report all that is wrong."""
    from dreambench.datasets.subjects import check_files, find_dataset, read_index  # noqa: PLC0415

    found = find_dataset(dataset, photos_dir=data_dir)
    files = read_index(found).files
    faults = check_files(found, files)
    for fault in faults:
        click.echo(fault)
    n_right = len(files) - len(faults)
    line = f"{n_right} of {len(files)} files in {found.photos_dir} are the pinned ones"
    if faults:
        hint = "dreambench data fetch" if found.name == "dreambooth" else "restore the others"
        raise UserError(line, hint=hint)
    click.echo(line)


@data.command("list")
@_dataset
@data_option
@user_errors
def list_(dataset: str, data_dir: Path | None) -> None:
    """Subjects with class noun, kind, number of photos, and how many of these are here."""
    from dreambench.datasets.subjects import find_dataset, read_index  # noqa: PLC0415

    found = find_dataset(dataset, photos_dir=data_dir)
    index = read_index(found)
    click.echo(f"{'subject':20} {'class':16} {'kind':8} photos  here")
    for row in index.subjects:
        mine = [image["file"] for image in index.images if image["subject"] == row["subject"]]
        n_here = sum((found.photos_dir / file).is_file() for file in mine)
        click.echo(
            f"{row['subject']:20} {row['class_name']:16} {row['kind']:8} {len(mine):6} {n_here:5}"
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
    """Draw a contact sheet of SUBJECT."""
    from dreambench.datasets.subjects import find_dataset, load_subjects, read_index  # noqa: PLC0415
    from dreambench.report.figures import plot_sheet  # noqa: PLC0415  (imports matplotlib)

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
        raise UserError(f"{path} is no .png", hint="name the sheet NAME.png")
    click.echo(plot_sheet(title, cells, path))


@data.command()
@click.argument("name")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--class", "class_name", required=True, help="Class noun, or auto for a classifier.")
@click.option("--kind", type=click.Choice(["live", "object"]), help="[default: by the class noun]")
@click.option(
    "--encoder", default="clip-vit-b-32", show_default=True, help="CLIP for --class auto."
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
    """Make a subject NAME of your own PHOTOS: turned upright, RGB, checked, and pinned."""
    from dreambench.datasets.custom_subjects import (  # noqa: PLC0415  (imports scipy)
        add_subject,
        find_kind,
        load_class_nouns,
        read_photos,
    )

    images = read_photos(photos, min_side_px=min_side_px)
    if class_name == "auto":
        from dreambench.encoders.classification import classify_photos  # noqa: PLC0415  (imports torch)
        from dreambench.encoders.registry import find_encoder, load_spec  # noqa: PLC0415

        spec = find_encoder(encoder, "clip")
        with show_progress() as progress:
            spec.ensure_weights(progress)
        ranking = classify_photos(images, list(load_class_nouns()), load_spec(spec))
        click.echo(f"class nouns by {encoder}:")
        for noun, probability in ranking[:5]:
            click.echo(f"  {probability:5.1%}  {noun}")
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
        click.echo(f"note: {note}")
    click.echo(f"{name}, a {class_name}, with {len(added.files)} photos, is in {to_dir}")
    click.echo(f'use it in a protocol of yours: dataset = "{to_dir}"')


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
    """Write the dataset as image folder, parquet and Croissant, or upload it to the hub."""
    from dreambench.datasets.export import export_dataset, push_dataset  # noqa: PLC0415
    from dreambench.datasets.subjects import find_dataset  # noqa: PLC0415

    found = find_dataset(dataset, photos_dir=data_dir)
    if (to_dir is None) == (push is None):
        raise UserError("say where to export", hint="either --to FOLDER or --push OWNER/NAME")
    if push is not None:
        click.echo(push_dataset(found, push, token=token))
        return
    for path in export_dataset(found, to_dir):  # type: ignore[arg-type]
        click.echo(path)
