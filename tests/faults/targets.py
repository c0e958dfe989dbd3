"""What is fuzzed: images, archives, TOML, CSV, JSON, tables of scores, records, and names."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import shutil
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreambench.storage.shipped import shipped_path
from faults.fuzzing import Case, Target
from faults.injection import PROTOCOL, RECIPE
from faults.mutations import (
    PNG_SIGNATURE,
    make_name,
    make_tar,
    make_zip,
    mutate_bytes,
    mutate_csv,
    mutate_json,
    mutate_png,
    mutate_toml,
)
from faults.readers import (
    find_differences,
    has_flat_end,
    is_whole_png,
    read_numbers,
    read_table,
)
from faults.server import Server
from faults.verdicts import Fault

_RUN = "runs/tiny/copy-reference"


def _put(name: str) -> Callable[[Path, bytes], None]:
    def place(folder: Path, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return place


# Images.


@functools.cache
def _pictures() -> dict[str, Image.Image]:
    """Return small pictures of several modes, with no flat rows."""
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(48), np.arange(64))[..., None]
    pixels = (slope + rng.integers(0, 90, (48, 64, 3))).astype(np.uint8)
    colour = Image.fromarray(pixels)
    return {
        "RGB": colour, "L": colour.convert("L"), "P": colour.convert("P"),
        "RGBA": Image.merge("RGBA", (*colour.split(), colour.convert("L"))),
        "1": colour.convert("1"), "I;16": Image.fromarray(pixels[..., 0].astype(np.uint16) * 200),
    }  # fmt: skip


@functools.cache
def _encode(image_format: str) -> tuple[bytes, ...]:
    pictures = _pictures()
    options: dict[str, list[tuple[str, dict]]] = {
        "PNG": [(mode, {}) for mode in pictures],
        "JPEG": [("RGB", {}), ("L", {}), ("RGB", {"progressive": True}), ("RGB", {"quality": 30})],
        "WEBP": [("RGB", {}), ("RGB", {"lossless": True}), ("RGBA", {})],
    }
    found = []
    for mode, kwargs in options[image_format]:
        stream = io.BytesIO()
        pictures[mode].save(stream, image_format, **kwargs)
        found.append(stream.getvalue())
    return tuple(found)


def _judge_image(case: Case) -> list[Fault]:
    if not case.is_read:
        return []
    made = sorted((case.folder / "out").rglob("*.png"))
    if len(made) != 1:
        return [("lost", f"{len(made)} photos were written")]
    if case.content.startswith(PNG_SIGNATURE):
        return [] if is_whole_png(case.content) else [("silently wrong", "a damaged PNG was taken")]
    with Image.open(made[0]) as image:
        return [("silently wrong", "a filled up end was taken")] if has_flat_end(image) else []


_ADD = ("data", "add", "it", "photo", "--class", "dog", "--to", "out", "--min-side-px", "16")


def _image_target(name: str, image_format: str, mutate: Callable = mutate_bytes) -> Target:
    return Target(
        name, _put("photo"), (_ADD,), mutate, lambda folder: _encode(image_format),
        judge=_judge_image,
    )  # fmt: skip


# Archives, and parquet as the hub has it.


@functools.cache
def _pinned_sizes() -> tuple[int, ...]:
    rows = csv.DictReader(io.StringIO(shipped_path("dataset", "images.csv").read_text()))
    return tuple(sorted(int(row["bytes"]) for row in rows))


@functools.cache
def _pinned_digests() -> frozenset[str]:
    rows = csv.DictReader(io.StringIO(shipped_path("dataset", "images.csv").read_text()))
    return frozenset(row["sha256"] for row in rows)


def _judge_fetched(case: Case) -> list[Fault]:
    found = [path for path in (case.folder / "out").rglob("*") if path.is_file()]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    faults: list[Fault] = [
        ("silently wrong", f"{name} is not a pinned photo")
        for name, digest in digests.items()
        if digest not in _pinned_digests()
    ]
    return faults + ([("silently wrong", "taken as the whole dataset")] if case.is_read else [])


def _make_parquet(rng: Random, _: bytes) -> bytes:
    size = rng.choice(_pinned_sizes()[:3])
    rows = [{"bytes": bytes(size), "path": rng.choice(("x.jpg", "../../canary/x"))}, None]
    table = pa.table({"image": rows, "label": [1, 2]})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return mutate_bytes(rng, stream.getvalue())


def _fetch_target(name: str, file: str, make: Callable[[Random, bytes], bytes]) -> Target:
    words = ("data", "fetch", "--from", file.partition("/")[0], "--data", "out")
    return Target(name, _put(file), (words,), make, judge=_judge_fetched)


# Protocols and recipes.


def _write_protocol(server: Server, folder: Path) -> None:
    (folder / "tiny.toml").write_text(PROTOCOL)
    (folder / "out").mkdir(exist_ok=True)


def _judge_toml(case: Case) -> list[Fault]:
    """Compare what was read with what `tomllib` reads, where the values were printed."""
    if not case.is_read or not case.words[0].startswith("read-"):
        return []
    try:
        written = tomllib.loads(case.content.decode("utf-8-sig"))
    except ValueError as error:
        return [("silently wrong", f"taken, and not valid TOML: {error}")]
    read = json.loads(case.done.stdout)
    if case.words[0] == "read-recipe":
        read |= read.pop("tables", {})
    return [
        ("silently wrong", f"{where} was read otherwise")
        for where in find_differences(written, read)
    ]


def _toml_target(name: str, text: str, words: tuple[tuple[str, ...], ...]) -> Target:
    return Target(
        name, _put("input.toml"), words, mutate_toml, lambda folder: (text.encode(),),
        judge=_judge_toml, prepare=_write_protocol,
    )  # fmt: skip


# Tables of subjects, and indexes of external images.

SUBJECTS = "subject,class_name,kind,n_images\nrex,dog,live,2\ncup,mug,object,1\n"


@functools.cache
def _photos() -> dict[str, bytes]:
    pngs = _encode("PNG")
    return {"rex-0.png": pngs[0], "rex-1.png": pngs[1], "cup-0.png": pngs[2]}


@functools.cache
def _images_csv() -> str:
    rows = ["subject,file,sha256,bytes,width,height,source,credit"]
    for name, content in _photos().items():
        sha256 = hashlib.sha256(content).hexdigest()
        rows.append(f"{name[:3]},{name},{sha256},{len(content)},64,48,tests,tests")
    return "\n".join([*rows, ""])


def _write_dataset(server: Server, folder: Path) -> None:
    files = {
        "subjects.csv": SUBJECTS.encode(), "images.csv": _images_csv().encode(),
        "single-references.csv": b"subject,file\nrex,rex-1.png\n", **_photos(),
    }  # fmt: skip
    for name, content in files.items():
        _put(f"set/{name}")(folder, content)
    _write_protocol(server, folder)


def _judge_subjects(case: Case) -> list[Fault]:
    if not case.is_read or case.words[0] != "read-subjects":
        return []
    read = json.loads(case.done.stdout)
    columns = (("subject", "class_name", "kind"), ("subject", "file"))
    tables = [case.folder / "set" / f"{name}.csv" for name in ("subjects", "images")]
    contents = [table.read_bytes() for table in tables]
    subjects, images = (read_table(*pair) for pair in zip(contents, columns, strict=True))
    if subjects is None or images is None:
        return [("silently wrong", "taken, and no table of these columns")]
    files = {row[0]: [f for s, f in images if s == row[0]] for row in subjects}
    right = [[*row, *(Path(file).name for file in files[row[0]])] for row in subjects]
    return [] if read == right else [("silently wrong", f"read as {read}, written as {right}")]


def _csv_target(name: str, text: Callable[[], str]) -> Target:
    return Target(
        f"{name}.csv", _put(f"set/{name}.csv"),
        (
            ("read-subjects", "set"), ("data", "list", "--dataset", "set"),
            ("data", "verify", "--dataset", "set"), ("read-subjects", "set"),
        ),
        mutate_csv, lambda folder: (text().encode(),),
        judge=_judge_subjects, prepare=_write_dataset,
    )  # fmt: skip


INDEX = "file,subject,prompt,index\npictures/a.png,dog,beach,0\npictures/b.png,dog,beach,1\n"


def _write_pictures(server: Server, folder: Path) -> None:
    _write_protocol(server, folder)
    rng = np.random.default_rng(1)
    for name in ("pictures/a.png", "pictures/b.png", "tree/dog/beach/0.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)


def _judge_placed(case: Case) -> list[Fault]:
    """Refuse a file at a place that no row of the index gives it."""
    if not case.is_read:
        return []
    rows = read_table(case.content, ("file", "subject"))
    if rows is None:
        return [("silently wrong", "taken, and no table of these columns")]
    named = {(Path(f.replace("\\", "/")).name, s) for f, s in rows}
    read = [(Path(row[3]).name, row[0]) for row in json.loads(case.done.stdout)]
    strange = [pair for pair in read if pair not in named]
    return [("silently wrong", f"{strange[0]} is no row of the index")] if strange else []


UNO = {
    "prompt": "a dog on the beach", "image_paths": ["./dreambooth/dataset/dog/02.jpg"],
    "eval_json_path": "list.json", "offload": False, "num_images_per_prompt": 1, "guidance": 4,
    "seed": 3407, "save_path": "output/inference", "concat_refs": False, "pe": "d",
}  # fmt: skip


def _write_uno(server: Server, folder: Path) -> None:
    _write_pictures(server, folder)
    shutil.copy(folder / "pictures" / "a.png", folder / "pictures" / "0_0.png")


def _judge_uno(case: Case) -> list[Fault]:
    """Refuse the image of a prompt or a subject that its JSON does not name, alone."""
    if not case.is_read:
        return []
    try:
        note = json.loads(case.content.decode("utf-8-sig"))
        subjects = {path.replace("\\", "/").split("/")[-2] for path in note["image_paths"] if path}
        text = " ".join(note["prompt"].casefold().replace("_", " ").split())
        is_right = subjects == {"dog"} and text.endswith("dog on the beach")
        is_alone = note.get("concat_refs", False) is False
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        return [("silently wrong", f"taken, and no JSON of UNO: {error!r}")]
    return [] if is_right and is_alone else [("silently wrong", f"taken as dog, beach: {note}")]


# Results of runs.


def _run_and_score(server: Server, folder: Path) -> None:
    _write_pictures(server, folder)
    (folder / "out").rmdir()
    common = ("--cache", "cache", "--protocol", "tiny.toml")
    run = ("run", "--alongside", "", "--batch-size", "1", "--method", "copy-reference", *common)
    score = ("score", "tree", "--partial", "--name", "other", *common)
    for words in (run, score):
        done = server.call(words, cwd=folder)
        assert done.status == 0, done


def _run_and_drop(server: Server, folder: Path) -> None:
    _run_and_score(server, folder)
    (folder / _RUN / "images" / "dog" / "beach" / "1.png").unlink()


def _numbers_path(folder: Path, words: tuple[str, ...]) -> Path:
    return folder.parent / "canary" / f"{zlib.crc32(' '.join(words).encode())}.json"


def _judge_results(case: Case) -> list[Fault]:
    """Compare the numbers of a report or a comparison with those of the untouched results."""
    if not case.is_read or case.words[0] == "status":
        return []
    path = _numbers_path(case.folder, case.words)
    if path.exists() and json.loads(path.read_text()) != read_numbers(
        case.done, case.folder / _RUN / "report"
    ):
        return [("silently wrong", f"{case.words[0]} has other numbers")]
    return []


def _prepare_results(server: Server, folder: Path) -> None:
    _run_and_score(server, folder)
    for words in _READERS:
        done = server.call(words, cwd=folder)
        assert done.status == 0, done
        _numbers_path(folder, words).write_text(
            json.dumps(read_numbers(done, folder / _RUN / "report"))
        )


_READERS = (
    ("report", _RUN), ("status", _RUN), ("report", _RUN),
    ("compare", _RUN, "scores/tiny/other"), ("compare", _RUN, _RUN, "--json"),
)  # fmt: skip
_WRITERS = (("generate", _RUN), ("train", _RUN))


def _edit_code(rng: Random, content: bytes) -> bytes:
    """Make run.json name code of a stranger, as for a method of one's own, or change it anyhow."""
    if rng.random() < 0.6:
        return mutate_json(rng, content)
    tree = json.loads(content)
    path = rng.choice(("{canary}/evil.py", "../canary/evil.py", "evil.py"))
    recipe = tree["recipe"]
    recipe["method"] = rng.choice((f"{path}:Evil", "evil:Evil", "canary.evil:Evil"))
    recipe["code"] = rng.choice(({"evil.py": "0" * 64}, {path: "0" * 64}, {"sha256": "0"}, {}))
    recipe["tunes"], recipe["n_references"] = rng.random() < 0.5, None
    return json.dumps(tree).encode()


def _edit_parquet(rng: Random, content: bytes) -> bytes:
    """Change bytes of a table, or values, columns and metadata by the library that wrote it."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    table = pq.read_table(io.BytesIO(content))
    at = rng.randrange(table.num_columns)
    name = table.column_names[at]
    way = rng.randrange(6)
    if way <= 1:
        field = rng.choice([f for f in table.schema if pa.types.is_floating(f.type)])
        values = table.column(field.name).to_pylist()
        values[rng.randrange(len(values))] = rng.choice((7.5, 0.25, -1.0, float("nan"), None))
        place = table.column_names.index(field.name)
        table = table.set_column(place, field.name, pa.array(values, pa.float64()))
    elif way == 2:
        table = table.drop_columns([name])
    elif way == 3:
        table = table.slice(0, rng.randrange(table.num_rows))
    elif way == 4:
        values = [rng.choice(("x", "\x1b[2J", "\u202e", None))] * table.num_rows
        table = table.set_column(at, name, pa.array(values, pa.string()))
    else:
        about = dict(table.schema.metadata or {b"x": b'{"y": 1}'})
        key = rng.choice(list(about))
        about[key] = rng.choice((b"{}", mutate_json(rng, about[key]), b""))
        table = table.replace_schema_metadata(about)
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _run_target(name: str, file: str, mutate: Callable, *, writes: bool = False) -> Target:
    written = (
        "images", "failures", "train", "device-time", "run.json", "summary.json", ".lock",
        ".claims",
    )  # fmt: skip
    outputs = written if writes else ("report",)
    return Target(
        name, _put(f"{_RUN}/{file}"), _WRITERS if writes else _READERS, mutate,
        lambda folder: ((folder / _RUN / file).read_bytes(),), judge=_judge_results,
        prepare=_run_and_drop if writes else _prepare_results,
        outputs=tuple(f"{_RUN}/{name}" for name in outputs),
    )  # fmt: skip


# Records.


def _record_path(folder: Path, name: str) -> Path:
    (path,) = (folder / "records").rglob(name)
    return path


def _place_in_record(folder: Path, name: str, content: bytes) -> None:
    _record_path(folder, name).write_bytes(content)
    (folder / "one" / name).write_bytes(content)


def _read_board(folder: Path) -> dict[str, set[str]]:
    """Return the numbers of a board's rows in each metric, as its table has them."""
    rows = list(csv.DictReader(io.StringIO((folder / "out" / "index.csv").read_text())))
    metrics = {name.removesuffix(" rank") for name in rows[0] if name.endswith(" rank")}
    return {name: {row[name] for row in rows if row[name]} for name in metrics}


def _prepare_record(server: Server, folder: Path) -> None:
    _run_and_score(server, folder)
    for words in (("submit", _RUN, "--out", "records"), _RENDER):
        done = server.call(words, cwd=folder)
        assert done.status == 0, done
    shutil.copytree(_record_path(folder, "record.json").parent, folder / "one")
    numbers = {name: sorted(values) for name, values in _read_board(folder).items()}
    _numbers_path(folder, _RENDER).write_text(json.dumps(numbers))
    shutil.rmtree(folder / "out")


def _judge_record(case: Case) -> list[Fault]:
    """Look whether a board shows a number that the untouched record does not have."""
    if not case.is_read or case.words != _RENDER:
        return []
    known = json.loads(_numbers_path(case.folder, _RENDER).read_text())
    return [
        ("silently wrong", f"a board shows {name} {strange}")
        for name, values in _read_board(case.folder).items()
        if (strange := values - set(known.get(name, ())))
    ]


_RENDER = ("leaderboard", "render", "--records", "records", "--out", "out")
_EXPORTS = tuple(
    ("export", "one", "--format", name, "--out", "out")
    for name in ("every-eval-ever", "model-index")
)


def _record_target(name: str, mutate: Callable) -> Target:
    return Target(
        name, lambda folder, content: _place_in_record(folder, name, content),
        (_RENDER, *_EXPORTS, _RENDER), mutate,
        lambda folder: (_record_path(folder, name).read_bytes(),), judge=_judge_record,
        prepare=_prepare_record,
    )  # fmt: skip


# Names.


def _make_name(rng: Random, _: bytes) -> bytes:
    return make_name(rng).encode(errors="replace")


def _good_names(folder: Path) -> tuple[bytes, ...]:
    return (b"rex", b"my-dog-2")


def _place_subject(folder: Path, content: bytes) -> None:
    """Call a subject of a dataset so, and its file in images.csv too."""
    name = content.decode()
    tables = {
        "subjects.csv": [["subject", "class_name", "kind", "n_images"], [name, "dog", "live", "1"]],
        "images.csv": [
            ["subject", "file", "sha256"],
            [name, "rex-0.png", hashlib.sha256(_photos()["rex-0.png"]).hexdigest()],
        ],
    }
    for file, rows in tables.items():
        stream = io.StringIO()
        csv.writer(stream).writerows(rows)
        _put(f"set/{file}")(folder, stream.getvalue().encode())
    (folder / "set" / "single-references.csv").unlink()
    protocol = PROTOCOL.replace('"mini"\nsubjects = ["dog"]', '"set"', 1)
    (folder / "tiny.toml").write_text(protocol)


def _place_prompt(folder: Path, content: bytes) -> None:
    """Use the text as a prompt's id, and in its text."""
    word = json.dumps(content.decode())
    text = json.dumps(f"a {{subject}} and {content.decode()}")
    protocol = PROTOCOL.replace('id = "beach"', f"id = {word}")
    protocol = protocol.replace('"a {subject} on the beach"', text)
    (folder / "tiny.toml").write_text(protocol)


def _place_in_tree(folder: Path, content: bytes) -> None:
    """Call a file, a prompt and a subject of external images so."""
    name = content.replace(b"\0", b"").replace(b"/", b"_").decode()[:80] or "x"
    picture = (folder / "tree" / "dog" / "beach" / "0.png").read_bytes()
    for path in (f"dog/beach/{name}.png", f"dog/{name}/0.png", f"{name}/beach/0.png"):
        _put(f"tree/{path}")(folder, picture)


def _place_text(folder: Path, content: bytes) -> None:
    if b"\0" in content:
        raise ValueError("no argument of a program has a zero byte")


_MAKE = ("make-images", "--protocol", "tiny.toml")

TARGETS = (
    _image_target("png", "PNG"),
    _image_target("png checksums made again", "PNG", mutate_png),
    _image_target("jpeg", "JPEG"),
    _image_target("webp", "WEBP"),
    _fetch_target("zip", "photos.zip", lambda rng, _: make_zip(rng, _pinned_sizes())),
    _fetch_target("tar", "photos.tar", lambda rng, _: make_tar(rng, _pinned_sizes())),
    _fetch_target("parquet of photos", "hub/data.parquet", _make_parquet),
    _toml_target(
        "protocol", PROTOCOL,
        (
            ("read-protocol", "input.toml"),
            ("plan", "--method", "class-only", "--protocol", "input.toml"),
        ),
    ),
    _toml_target(
        "recipe", RECIPE,
        (
            ("read-recipe", "input.toml"),
            ("plan", "--method", "input.toml", "--protocol", "tiny.toml"),
        ),
    ),
    _csv_target("subjects", lambda: SUBJECTS),
    _csv_target("images", _images_csv),
    _csv_target("single-references", lambda: "subject,file\nrex,rex-1.png\n"),
    Target(
        "index", _put("index.csv"),
        (("place", "index.csv"), ("place", "pictures", "--index", "index.csv")),
        mutate_csv, lambda folder: (INDEX.encode(),),
        judge=_judge_placed, prepare=_write_pictures,
    ),
    Target(
        "uno", _put("pictures/0_0.json"),
        (("place", "pictures"),), mutate_json, lambda folder: (json.dumps(UNO).encode(),),
        judge=_judge_uno, prepare=_write_uno,
    ),
    _run_target("run.json", "run.json", mutate_json),
    _run_target("run.json and its method", "run.json", _edit_code, writes=True),
    _run_target("scores.parquet", "scores.parquet", _edit_parquet),
    _run_target("summary.json", "summary.json", mutate_json),
    _run_target("reference-bounds.csv", "reference-bounds.csv", mutate_csv),
    _record_target("record.json", mutate_json),
    _record_target("cells.parquet", _edit_parquet),
    Target(
        "names of subjects", _place_subject, (_MAKE,), _make_name, _good_names,
        prepare=_write_dataset,
    ),
    Target(
        "names of prompts", _place_prompt, (_MAKE,), _make_name, _good_names,
        prepare=_write_dataset,
    ),
    Target(
        "names of files", _place_in_tree, (("place", "tree"),), _make_name, _good_names,
        prepare=_write_pictures,
    ),
    Target(
        "names of arguments", _place_text,
        (
            ("data", "add", "{input}", "set/rex-0.png", "--class", "dog", "--to", "out",
             "--min-side-px", "16"),
            ("data", "add", "it", "set/rex-0.png", "--class", "{input}", "--kind", "live",
             "--to", "out", "--min-side-px", "16"),
            ("data", "add", "it", "{input}", "--class", "dog", "--to", "out"),
            ("data", "list", "--dataset", "{input}"),
            ("place", "set", "--name", "{input}"),
            ("plan", "--method", "{input}", "--protocol", "tiny.toml"),
            ("plan", "--method", "class-only", "--protocol", "{input}"),
            ("data", "fetch", "--data", "out", "--from", "{input}"),
        ),
        _make_name, prepare=_write_dataset,
    ),
)  # fmt: skip
