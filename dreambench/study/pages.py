"""What people see: a page for each questionnaire, and the pictures beside it.

No page, no name of a picture and nothing in one says which method made it. Pictures are encoded
again, without what their files held besides pixels; generated ones say that they are generated.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

from dreambench.artifacts.study import (
    FILE_NAME,
    Asks,
    Questionnaire,
    Study,
    write_study,
)
from dreambench.errors import UserError
from dreambench.progress import Progress, no_progress
from dreambench.report.html.pages import read_static, render_page
from dreambench.storage.csv_files import write_csv
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.images import encode_generated, encode_generated_webp, load_image
from dreambench.study.drawing import Pictures, Source

FOLDER = Path(__file__).parent
TEMPLATES, STATIC = FOLDER / "templates", FOLDER / "static"
PAGES, IMAGES, LINKS = "questionnaires", "images", "links.csv"
LINK_COLUMNS = ("questionnaire", "n_raters", "page", "link", "prolific_link")
LOSSLESS_PX = 256
"""Up to this side a picture keeps each pixel; of larger ones nobody sees what WebP leaves out."""
QUALITY = 92
SECONDS_EACH = 10
"""For a question, as people are told."""
PROLIFIC = "{{%PROLIFIC_PID%}}"
"""What Prolific replaces with a participant's code."""
WORDS: Mapping[Asks, Mapping[str, str]] = {
    "subject": {
        "title": "the item",
        "text": "Look at the photos of an item, then at two images. Say which of the two shows "
        "that very item best, whatever is around it.",
        "question": "Which of the two images best reproduces the identity (e.g. item type and "
        "details) of the reference item?",
    },
    "prompt": {
        "title": "the text",
        "text": "Read a text, then look at two images. Say which of the two the text describes "
        "best.",
        "question": "Which of the two images is best described by the reference text?",
    },
}
"""The questions are the DreamBooth paper's (section 4.3), and so is the third answer."""


def write_study_folder(
    study: Study,
    pictures: Pictures,
    out_dir: Path,
    *,
    address: str = "",
    progress: Progress = no_progress,
) -> list[Path]:
    """Write the plan, a page for each questionnaire, the pictures, and the links to the pages.

    `address` is where the folder of the pages will lie on a server. Returns the files without the
    pictures.

    Raises:
        UserError: the folder has a study in it already, or the address is not one of the web.
    """
    address = _check_address(address)
    if (out_dir / FILE_NAME).exists():
        raise UserError(
            f"{out_dir} holds a study already",
            hint="name another folder with --out: answers belong to one plan",
            code="name-taken",
        )
    pages_dir = make_dir(out_dir / PAGES)
    files = _write_pictures(pictures, make_dir(pages_dir / IMAGES), progress)
    digest = study.digest()
    paths = []
    for sheet in study.questionnaires:
        path = pages_dir / f"{sheet.number:03}.html"
        text = render_questionnaire(study, sheet, files=files, digest=digest)
        write_bytes(path, text.encode())
        paths.append(path)
    write_csv(out_dir / LINKS, LINK_COLUMNS, [_make_link(study, path, address) for path in paths])
    write_study(out_dir, study)  # Last: a folder with a plan has all that the plan names.
    return [out_dir / FILE_NAME, out_dir / LINKS, *paths]


def _check_address(address: str) -> str:
    if address and not address.startswith(("https://", "http://")):
        raise UserError(
            f"--address: '{address}' is not a web address",
            hint="e.g. --address https://example.org/study/questionnaires",
            code="invalid-value",
        )
    return address.rstrip("/")


def _make_link(study: Study, path: Path, address: str) -> dict[str, str]:
    link = f"{address}/{path.name}" if address else ""
    return {
        "questionnaire": path.stem,
        "n_raters": str(study.raters_each),
        "page": f"{PAGES}/{path.name}",
        "link": link,
        "prolific_link": f"{link}?{urlencode({'code': PROLIFIC}, safe='{}%')}" if link else "",
    }


def _write_pictures(pictures: Pictures, folder: Path, progress: Progress) -> dict[str, str]:
    """Write all pictures, and return the path of each from a page."""
    files = {}
    for number, (name, source) in enumerate(pictures.sources.items(), start=1):
        content, suffix = _encode(source)
        write_bytes(folder / f"{name}{suffix}", content, inside=folder, is_durable=False)
        files[name] = f"{IMAGES}/{name}{suffix}"
        progress("pictures", number, len(pictures.sources))
    return files


def _encode(source: Source) -> tuple[bytes, str]:
    """Return a picture's bytes without what its file said of it, and their suffix."""
    image = load_image(source.path)
    image.thumbnail((source.side_px, source.side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    is_small = max(image.size) <= LOSSLESS_PX
    suffix = ".png" if is_small else ".webp"
    if not source.is_generated:
        buffer = io.BytesIO()
        plain.save(buffer, "PNG" if is_small else "WEBP", quality=QUALITY)
        return buffer.getvalue(), suffix
    if is_small:
        return encode_generated(plain, {}), suffix
    return encode_generated_webp(plain, {}, quality=QUALITY), suffix


def render_questionnaire(
    study: Study, sheet: Questionnaire, *, files: Mapping[str, str], digest: str
) -> str:
    """Return the page of a questionnaire; `files` are the pictures' paths from it, by name."""
    shown = study.list_shown()
    photos = {
        subject.name: [files[photo.file] for photo in subject.photos] for subject in study.subjects
    }
    questions = []
    for question in sheet.questions:
        one = shown[question.of]
        pair = [files[one.first_image.file], files[one.second_image.file]]
        about = {"photos": photos[one.subject]} if question.asks == "subject" else {}
        questions.append(
            {
                "id": question.id,
                "asks": question.asks,
                "images": pair if question.first_is_left else pair[::-1],
                **({"text": one.text} if question.asks == "prompt" else about),
            }
        )
    data = {
        "study": digest, "questionnaire": sheet.number, "words": WORDS, "questions": questions
    }  # fmt: skip
    values = {
        "number": sheet.number,
        "n_questions": len(questions),
        "n_minutes": max(1, round(len(questions) * SECONDS_EACH / 60)),
        "contact": study.contact,
    }
    return render_page(
        "questionnaire.html",
        values,
        data={"questionnaire": data},
        scripts=[read_static(STATIC / "questionnaire.js")],
        styles=[read_static(STATIC / "questionnaire.css")],
        folders=[TEMPLATES],
        sends=True,
    )
