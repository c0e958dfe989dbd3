"""How a row of a board is cited, as BibTeX."""

from __future__ import annotations

import re

from dreambench import __version__
from dreambench.artifacts.record import Record
from dreambench.text import make_printable

SOFTWARE = {
    "title": "dreambench: the benchmark for subject-driven image generation",
    "author": "{The dreambench authors}",
    "url": "https://github.com/dreambench/dreambench",
}
PAPER = {
    "title": "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation",
    "author": "Ruiz, Nataniel and Li, Yuanzhen and Jampani, Varun and Pritch, Yael and Rubinstein, "
    "Michael and Aberman, Kfir",
    "booktitle": "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    "year": "2023",
    "note": "arXiv:2208.12242",
}
"""Both are as CITATION.cff has them."""
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_",
}  # fmt: skip
"""BibTeX counts braces with a backslash before them as well, so none of a text's own stays."""


def make_bibtex(record: Record) -> str:
    """Return entries for the row with its method's source, for the software and for the paper."""
    method = record.method
    about = {
        "title": _escape(f"{method.title} on {record.protocol.name} v{record.protocol.version}"),
        "note": _escape(f"dreambench record {record.digest}"),
    }
    if method.source:
        about["howpublished"] = _escape(method.source)
    if record.paper_url:
        about["url"] = re.sub(r"[{}\\\\]", lambda mark: f"%{ord(mark[0]):X}", record.paper_url)
    key = re.sub(r"[^a-z0-9]+", "-", method.name.lower()).strip("-") or "method"
    entries = [
        _format("misc", f"{key}-{record.digest}", about),
        _format("software", "dreambench", SOFTWARE | {"version": __version__}),
        _format("inproceedings", "ruiz2023dreambooth", PAPER),
    ]
    return "\n\n".join(entries)


def _format(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _escape(text: str) -> str:
    """Return a text that a BibTeX field can hold, whatever it says."""
    return "".join(_SPECIAL.get(letter, letter) for letter in make_printable(text[:500]))
