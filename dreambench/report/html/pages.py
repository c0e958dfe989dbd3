"""Fills templates: each page is one file that holds its styles, its scripts and its data.

A page works from a disk (file://), from a folder on any server, and printed. All text in it comes
from `make_lines_printable` and is escaped, whoever wrote a template; a content security policy in
each page lets the scripts of this package run, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dreambench.text import make_lines_printable, make_printable

FOLDER = Path(__file__).parent
TEMPLATES, STATIC = FOLDER / "templates", FOLDER / "static"
STYLE, SCRIPT = "style.css", "tables.js"
ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><rect width='16' height='16' "
    "rx='4' fill='#0b5cad'/><path d='M3 11h10M3 5h10' stroke='#fff' stroke-opacity='.45'/>"
    "<circle cx='6' cy='11' r='2' fill='#fff'/><circle cx='10' cy='5' r='2' fill='#fff'/></svg>"
)
_CODE = re.compile("`([^`]+)`")


def render_page(
    template: str,
    values: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
    folders: Sequence[Path] = (),
    sends: bool = False,
) -> str:
    """Return a page: a template that extends base.html, filled with values.

    `data` is what scripts read as JSON from the element of each name. `scripts` and `styles` are
    texts (`read_static`) that follow those of every page. `folders` hold templates besides this
    package's. A page that `sends` may talk to the server that it comes from.
    """
    sources = [read_static(STATIC / SCRIPT), *scripts]
    style = "".join([read_static(STATIC / STYLE), *styles])
    return _make_environment(tuple(folders)).get_template(template).render(
        **values,
        style=Markup(style),
        scripts=[Markup(source) for source in sources],
        data={name: _safe(content) for name, content in (data or {}).items()},
        policy=_make_policy([style], sources, sends=sends),
        icon=f"data:image/svg+xml;base64,{base64.b64encode(ICON.encode()).decode()}",
    )  # fmt: skip


@cache
def _make_environment(folders: tuple[Path, ...]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_show,
    )
    environment.filters |= {"words": show_words, "slug": make_slug}
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": True, "allow_nan": False, "separators": (",", ":"),
    }  # fmt: skip
    return environment


def _show(value: Any) -> Any:
    """Return what an expression of a template puts into the page; markup of ours stays."""
    return value if isinstance(value, Markup) else make_lines_printable(str(value))


def _safe(content: Any) -> Any:
    """Return data for a script, every text of which is printable."""
    if isinstance(content, str):
        return make_lines_printable(content)
    if isinstance(content, Mapping):
        return {make_printable(str(key)): _safe(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_safe(value) for value in content]
    return content


@cache
def read_static(path: Path) -> str:
    """Return a style sheet or script as it stands in a page."""
    text = path.read_text(encoding="utf-8")
    if "</" in text:
        raise ValueError(f"{path.name} would end its element")
    return text


def _make_policy(styles: Sequence[str], scripts: Sequence[str], *, sends: bool) -> str:
    """Return a policy that lets these run and images beside the page load, and nothing else."""
    parts = {
        "default-src": ["'none'"],
        "style-src": [_hash(text) for text in styles],
        "script-src": [_hash(text) for text in scripts],
        # For a page that is opened from a disk, 'self' is nothing.
        "img-src": ["'self'", "file:", "data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        **({"connect-src": ["'self'"]} if sends else {}),
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in parts.items())


def _hash(text: str) -> str:
    found = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{found}'"


def show_words(text: str) -> Markup:
    """Return plain words as markup, in which `code` stands between backticks."""
    parts = _CODE.split(make_printable(text))
    shown = [
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    ]
    return Markup("").join(shown)


def make_slug(text: str) -> str:
    """Return what a heading is called in an address."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
