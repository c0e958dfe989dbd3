"""The page of a run that people open: all of its report, and every image with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreambench.analysis.comparison import Scored
from dreambench.artifacts.image_set import ImageSet
from dreambench.report.html.pages import STATIC, read_static, render_page
from dreambench.report.html.tables import make_sections
from dreambench.report.image_browser import make_browser_data
from dreambench.report.model import Document
from dreambench.report.thumbnails import Thumbnails
from dreambench.storage.files import write_bytes

FILE_NAME = "index.html"


def write_run_page(
    document: Document, shown: Sequence[tuple[Scored, ImageSet]], out_dir: Path
) -> tuple[Path, list[Path]]:
    """Write index.html of a document and the images of its rows; return it, and its thumbnails."""
    thumbnails = Thumbnails(out_dir, others=[images.report_dir for _, images in shown[1:]])
    data = make_browser_data(shown, thumbnails)
    path = out_dir / FILE_NAME
    write_bytes(path, render_run_page(document, data).encode(), inside=out_dir)
    return path, thumbnails.list_paths()


def render_run_page(document: Document, data: dict[str, object]) -> str:
    """Return the page of a document with an image browser of data (`make_browser_data`)."""
    title, sections = make_sections(document)
    return render_page(
        "run.html",
        {"title": title, "sections": sections, "n_images": _count_images(data)},
        data={"images-data": data},
        scripts=[read_static(STATIC / "browser.js")],
        styles=[read_static(STATIC / "browser.css")],
    )


def _count_images(data: dict[str, object]) -> int:
    methods = data["methods"]
    assert isinstance(methods, list)
    return sum(name is not None for method in methods for name in method["thumbnails"])
