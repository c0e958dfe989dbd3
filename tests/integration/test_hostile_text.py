"""Strangers' text and consoles of every encoding, by the command line."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY_PROTOCOL, invoke
from markdown_it import MarkdownIt
from PIL import Image

from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.results import read_reference_bounds, read_scores, write_scores
from dreambench.report.pages import DOCS
from dreambench.storage.csv_files import read_csv
from dreambench.storage.files import read_json, write_json

HOSTILE = "\x1b[2J\x9b1m<script>\u202e|`a`[b](http://e.vil)\n=1+1 [red]"


def assert_harmless(text):
    assert not [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n"]


def add_everywhere(value):
    """The same JSON with hostile text behind every title, name, note and message."""
    if isinstance(value, dict):
        return {key: add_everywhere(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [add_everywhere(inner) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


@pytest.mark.long
def test_a_strangers_run_folder(copied, tmp_path):
    """Its maker has the tools as well, so that all digests and checksums in it are right."""
    shutil.rmtree(copied / "report")
    manifest = read_json(copied / "run.json")
    for key in ("title", "source", "track"):
        manifest["recipe"][key] += HOSTILE
    manifest["sessions"] = add_everywhere(manifest["sessions"])
    write_json(copied / "run.json", manifest)
    images = read_image_set(copied)
    table = read_scores(images)
    infos = [
        info.model_copy(update={k: f"{getattr(info, k)}{HOSTILE}" for k in ("title", "signature")})
        for info in table.metrics
    ]
    write_scores(images, replace(table, metrics=tuple(infos)), read_reference_bounds(images))
    record = {"stage": "fit", "subject": HOSTILE, "error": HOSTILE, "message": HOSTILE}
    (copied / "failures").mkdir(exist_ok=True)
    write_json(
        copied / "failures" / "fit-dog.json", [{**record, "n_images": 1, "traceback": HOSTILE}]
    )
    for words in (
        ("summarise", copied), ("status", copied), ("report", copied),
        ("compare", copied, copied, "--out", tmp_path / "compared.md"),
        ("compare", copied, copied, "--out", tmp_path / "compared.csv"),
    ):  # fmt: skip
        assert_harmless(invoke(*words).output)
    pages = [*tmp_path.rglob("*.md"), *tmp_path.rglob("*.csv")]
    assert len(pages) > 6
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert_harmless(text)
        if page.suffix == ".csv":
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
        else:
            rendered = MarkdownIt("commonmark").enable("table").render(text)
            assert "&lt;script&gt;" in rendered
            assert "<script" not in rendered
            # Links of ours lead to files beside the page and to the documentation.
            targets = set(re.findall(r'<a href="([^"]*)"', rendered))
            assert len(re.findall("<a ", rendered)) == rendered.count('<a href="')
            known = {path.name for path in page.parent.iterdir()}
            assert not {t for t in targets if t not in known and not t.startswith(DOCS)}


def test_a_strangers_protocol(tmp_path):
    path = tmp_path / "tiny.toml"
    title = '"two subjects, two prompts, three steps"'
    hostile = {'"\\u001b[2J\\u009b1m\\u202e\\n[red]"': 0, '"\x9b\u202e': 2}
    for text, status in hostile.items():
        path.write_text(TINY_PROTOCOL.replace(title, text))
        done = invoke("plan", "--method", "class-only", "--protocol", path, status=status)
        assert_harmless(done.output)
    path.write_text(f'"{HOSTILE[:6]}\\u202e" = 3\n{TINY_PROTOCOL}'.replace("\x1b", "\\u001b"))
    done = invoke("plan", "--method", "class-only", "--protocol", path, status=2)
    assert r"\u202e" in done.stderr
    assert_harmless(done.output)


def dreambench(*words, **environment):
    """The program as a process of its own, whose console has the encoding of `environment`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIO"))}
    return subprocess.run(
        [os.fsencode(word) for word in (sys.executable, "-m", "dreambench", *words)],
        env={**kept, **environment}, capture_output=True, check=False,
    )  # fmt: skip


CONSOLES = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("console", CONSOLES)
def test_names_that_a_consoles_encoding_lacks(console, tmp_path):
    photo, folder = tmp_path / "小狗.png", tmp_path / "данные"
    Image.effect_noise((300, 300), 60).convert("RGB").save(photo)
    words = ("data", "add", "dog", photo, "--class", "dog", "--credit", "小狗", "--to", folder)
    done = dreambench(*words, **CONSOLES[console])
    assert (done.returncode, done.stderr) == (0, b"")
    assert "小狗.png".encode() in done.stdout or rb"\u5c0f\u72d7.png" in done.stdout
    (row,) = read_csv(folder / "images.csv", ["source", "credit"])
    assert (row["source"], row["credit"]) == ("小狗.png", "小狗")
    again = dreambench(*words, **CONSOLES[console])
    assert again.returncode == 2
    assert again.stderr.count(b"\n") == 1
    assert "данные".encode() in again.stderr or rb"\u0434" in again.stderr


def test_tables_on_a_console_of_another_encoding(tmp_path):
    done = dreambench("list", "methods", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"dreambooth" in done.stdout


def test_a_file_name_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path):
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.effect_noise((300, 300), 60).convert("RGB").save(photo)
    done = invoke("data", "add", "a_dog", photo, "--class", "dog", "--to", tmp_path / "o", status=2)
    assert r"caf\xe9.png is not UTF-8" in done.stderr
    assert not (tmp_path / "o").exists()


def test_credits_like_formulas_are_kept_and_are_no_formulas(tmp_path):
    photo, folder = tmp_path / "-a.png", tmp_path / "own"
    Image.effect_noise((300, 300), 60).convert("RGB").save(photo)
    for name in ("one", "two"):  # The second call reads and writes what the first wrote.
        invoke("data", "add", name, photo, "--class", "dog", "--credit", "=me", "--to", folder)
    rows = read_csv(folder / "images.csv", ["source", "credit"])
    assert {(row["source"], row["credit"]) for row in rows} == {("-a.png", "=me")}
    assert (folder / "images.csv").read_text().count("'-a.png,'=me") == 2
    invoke("data", "verify", "--dataset", folder)


@pytest.mark.parametrize("name", ["\x1b[2Jno.toml", os.fsdecode(b"caf\xe9.toml"), "\u202eno.toml"])
def test_names_in_arguments(name, tmp_path):
    path = Path(tmp_path, name)
    done = invoke("plan", "--method", "class-only", "--protocol", path, status=2)
    assert_harmless(done.output)
    done = invoke("data", "list", "--json", name, status=2)
    assert_harmless(done.output)
