"""Folders of images made elsewhere: which file is which image of a protocol, and what is wrong.

Nothing in such a folder is written, nothing outside of it is read, and what does not fit is named
and counted. Four layouts are known, see LAYOUTS; that of DreamBench++ is
github.com/yuangpeng/dreambench_plus at 00afb24 (README, step 2).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np

from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.datasets.subjects import Subject
from dreambench.encoders.feature_cache import FeatureCache
from dreambench.errors import UserError, name_some, suggest
from dreambench.progress import Progress
from dreambench.storage.files import sha256_file
from dreambench.storage.images import ImageError, is_lossy, load_image

Layout = Literal["run", "subject/prompt", "dreambench-plus", "index"]
LAYOUTS: dict[Layout, str] = {
    "run": "images/<subject>/<prompt id>/<k>.png",
    "subject/prompt": "<subject>/<prompt id>/<k>.png",
    "dreambench-plus": "tgt_image/<subject>/<i>_<j>.jpg with text/<subject>/<i>_<j>.txt",
    "index": "a CSV with the columns file, subject, prompt, index",
}
Kind = Literal[
    "missing", "extra", "outside", "unreadable", "too small", "unknown", "black", "duplicated"
]
STOPPING: frozenset[Kind] = frozenset({"missing", "extra", "unreadable", "too small"})
"""What makes a set another than the protocol's. The others are listed and do not stop a score:
what leads outside and what has no place is not read, what is black or twice is scored as it is."""
# What people name as images. Those that `load_image` does not take are then said to be unreadable.
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
    ".jxl", ".jp2", ".ppm",
}  # fmt: skip
INDEX_COLUMNS = ("file", "subject", "prompt", "index")
MAX_ENTRIES = 1_000_000
MAX_INDEX_BYTES = 20_000_000
MAX_TEXT_BYTES = 10_000
N_WORKERS = 4
N_SUGGESTED = 100
LOOK = "look v1|8-bit RGB"
KEPT = ("size", "is_black", "is_lossy", "pixels_sha256")
"""What of a look is kept, in the cache, under this identity."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the protocol has it; `name` is a path inside the folder."""

    kind: Kind
    name: str
    n_images: int = 1
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


class ImageSetError(UserError):
    """The error for a folder that is not the protocol's set; `problems` has them all."""

    problems: Sequence[Problem] = ()


@dataclass(frozen=True)
class Wanted:
    """What a folder is read for: units of some subjects and prompts of a protocol.

    `known_subjects` are all that the protocol has: images of those not in `subjects`, like those of
    prompts not in `units`, are left out without a complaint.
    """

    protocol: Protocol
    subjects: Sequence[Subject]
    known_subjects: Sequence[str]
    units: Sequence[ImageUnit]

    def prompt_ids(self, subject: Subject) -> set[str]:
        """What the protocol has for a subject, wanted or not."""
        prompts = self.protocol.prompts_for(subject.kind)
        return {PRIOR_PROMPT_ID, *(prompt.id for prompt in prompts)}


@dataclass(frozen=True)
class Placed:
    """A folder's files by the image that each is, unopened; `names` are paths inside the folder.

    `units` are those that the folder should have: all, or without the images of the plain class
    where it has none of these.
    """

    layout: Layout
    units: Sequence[ImageUnit]
    files: Mapping[ImageUnit, Path]
    names: Mapping[ImageUnit, str]
    problems: Sequence[Problem]
    notes: Sequence[str]


@dataclass(frozen=True)
class Checked:
    """The files that can be scored, each opened once, with the digests of their bytes."""

    files: Mapping[ImageUnit, Path]
    sha256: Mapping[ImageUnit, str]
    problems: Sequence[Problem]
    n_lossy: int
    min_side_px: int


@dataclass(frozen=True)
class _File:
    """A file with what its layout says about it; `label` is to become its number."""

    name: str
    path: Path
    subject: str
    prompt: str
    label: str


@dataclass
class _Walk:
    """What reading a folder gives, and the bounds that keep it inside."""

    folder: Path
    files: list[_File] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    n_ignored: int = 0
    n_entries: int = 0

    def __post_init__(self) -> None:
        self.root = Path(os.path.realpath(self.folder))

    def name(self, path: Path) -> str:
        """The path inside the folder, as text that can be printed and written."""
        return _printable(path.relative_to(self.folder).as_posix())

    def is_outside(self, path: Path) -> bool:
        """Whether a path, with all links followed, leads out of the folder; notes it if so."""
        if Path(os.path.realpath(path)).is_relative_to(self.root):
            return False
        self.problems.append(
            Problem("outside", self.name(path), detail="leads out of the folder; put a copy there")
        )
        return True

    def entries(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """Entries of a folder by name, and whether each is a folder; hidden ones are ignored."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(Problem("unreadable", self.name(folder), detail=_reason(error)))
            return
        self.n_entries += len(entries)
        if self.n_entries > MAX_ENTRIES:
            raise UserError(
                f"{self.folder} holds over {MAX_ENTRIES:,} files",
                hint="name the images' own folder, or write an index",
            )
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and self.is_outside(path):
                continue
            try:
                is_dir, is_file = path.is_dir(), path.is_file()
            except OSError as error:
                self.problems.append(Problem("unreadable", self.name(path), detail=_reason(error)))
                continue
            if is_dir or is_file:
                yield path, is_dir
            else:
                self.n_ignored += 1

    def folders(self, root: Path) -> Iterator[Path]:
        """The folders in `root`, if that is inside; files there are ignored."""
        if root.is_symlink() and self.is_outside(root):
            return
        for path, is_dir in self.entries(root):
            if is_dir:
                yield path
            else:
                self.n_ignored += 1

    def add_images(self, folder: Path, *, subject: str, prompt: str) -> None:
        """The images of a folder that holds those of one prompt, and nothing below it."""
        for path, is_dir in self.entries(folder):
            if is_dir or path.suffix.lower() not in SUFFIXES:
                self.n_ignored += 1
            else:
                self.files.append(_File(self.name(path), path, subject, prompt, path.stem))


def _reason(error: OSError) -> str:
    """Why the system did not let a file be read, without its path."""
    return f"cannot be read ({error.strerror})"


def _printable(text: str) -> str:
    """Text without what a terminal would obey or UTF-8 cannot say."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def place_images(folder: Path | None, wanted: Wanted, *, index: Path | None = None) -> Placed:
    """Finds out the layout of a folder and which file is which image.

    With an index, whose files lie in its own folder, `folder` says where else to count images.

    Subjects match exactly; a prompt is named by its id, or by its text with {subject}, with the
    class noun, or with one word, the identifier, before the class noun. A file's number is its name
    where a prompt's files have the numbers 0 to n-1, else its place in the order of names. Raises
    UserError for a folder that is not there and for an index that cannot be read.
    """
    if index is not None:
        walk = _Walk(index.parent)
        _read_index(walk, index)
        placed = _place(walk, wanted, "index")
        n_unlisted = 0 if folder is None else _count_unlisted(walk, folder)
        if not n_unlisted:
            return placed
        note = f"{n_unlisted} images of the folder are not in the index"
        return replace(placed, notes=[*placed.notes, note])
    if folder is None or not folder.is_dir():
        raise UserError(f"{folder} is no folder", hint="name the folder of the images")
    walk, layout = _Walk(folder), find_layout(folder, wanted.known_subjects)
    if layout == "dreambench-plus":
        _read_dreambench_plus(walk)
    else:
        _read_tree(walk, folder / "images" if layout == "run" else folder)
    return _place(walk, wanted, layout)


def find_layout(folder: Path, known_subjects: Sequence[str]) -> Layout:
    """The layout of a folder without an index, by the folders in it."""
    if any((folder / name).is_dir() for name in known_subjects):
        return "subject/prompt"
    if (folder / "tgt_image").is_dir():
        return "dreambench-plus"
    return "run" if (folder / "images").is_dir() else "subject/prompt"


def _read_tree(walk: _Walk, root: Path) -> None:
    for subject in walk.folders(root):
        for prompt, is_prompt in walk.entries(subject):
            if is_prompt:
                walk.add_images(prompt, subject=subject.name, prompt=prompt.name)
            else:
                walk.n_ignored += 1


def _read_dreambench_plus(walk: _Walk) -> None:
    """Its src_image, what a method was given, is not read: the protocol's photos are the measure.

    It has no images of the plain class; here tgt_image/<subject>/prior/<k>.jpg.
    """
    for subject in walk.folders(walk.folder / "tgt_image"):
        for path, is_prompt in walk.entries(subject):
            if is_prompt:
                walk.add_images(path, subject=subject.name, prompt=path.name)
            elif path.suffix.lower() in SUFFIXES:
                text = walk.folder / "text" / subject.name / f"{path.stem}.txt"
                prompt = _read_text(walk, text)
                if prompt is None:
                    detail = f"its text, {walk.name(text)}, is not there or no text"
                    walk.problems.append(Problem("unknown", walk.name(path), detail=detail))
                else:
                    label = path.stem.rsplit("_", 1)[-1]
                    walk.files.append(_File(walk.name(path), path, subject.name, prompt, label))
            else:
                walk.n_ignored += 1


def _read_text(walk: _Walk, path: Path) -> str | None:
    try:
        if walk.is_outside(path) or not path.is_file() or path.stat().st_size > MAX_TEXT_BYTES:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _read_index(walk: _Walk, index: Path) -> None:
    hint = "its columns are file, subject, prompt, index; see the README"
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise UserError(f"{index} is over {MAX_INDEX_BYTES} bytes", hint=hint)
        with index.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            lacks = [name for name in INDEX_COLUMNS if name not in (reader.fieldnames or ())]
            if lacks:
                raise UserError(f"{index} lacks the column {', '.join(lacks)}", hint=hint)
            for row in reader:
                _add_row(walk, index, reader.line_num, [row[name] for name in INDEX_COLUMNS])
    except UnicodeDecodeError as error:
        raise UserError(f"{index} is not UTF-8 text", hint="save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{index} is no CSV ({error})", hint=hint) from error
    except OSError as error:
        raise UserError(f"cannot read {index}: {error.strerror}", hint="check the path") from error


def _add_row(walk: _Walk, index: Path, line: int, row: Sequence[str | None]) -> None:
    file, subject, prompt, label = ((value or "").strip() for value in row)
    name = f"line {line}, {_printable(file)}"
    path = PurePosixPath(file)
    if not file or not subject or not prompt:
        walk.problems.append(Problem("unknown", name, detail="a column is empty"))
    elif path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file:
        walk.problems.append(Problem("outside", name, detail="leads out of the index's folder"))
    elif not walk.is_outside(index.parent / path):
        walk.files.append(_File(_printable(file), index.parent / path, subject, prompt, label))


def _count_unlisted(walk: _Walk, folder: Path) -> int:
    """How many images of a folder and those below an index does not name."""
    listed = {os.path.realpath(file.path) for file in walk.files}
    n_unlisted = 0
    for path, _, names in os.walk(folder):
        walk.n_entries += len(names)
        if walk.n_entries > MAX_ENTRIES:
            break
        images = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
        n_unlisted += sum(os.path.realpath(Path(path, name)) not in listed for name in images)
    return n_unlisted


class _Prompts:
    """The prompts of a protocol by id and by their text for one subject."""

    def __init__(self, protocol: Protocol, subject: Subject) -> None:
        noun = subject.class_name
        self.ids = {PRIOR_PROMPT_ID}
        self.texts: dict[str, set[str]] = {}
        self.patterns: list[tuple[re.Pattern[str], str]] = []
        prior = protocol.prior.text
        self._add(PRIOR_PROMPT_ID, [prior, prior.format_map({"class": noun})])
        for prompt in protocol.prompts:
            self.ids.add(prompt.id)
            self._add(prompt.id, [prompt.text, prompt.text.format(subject=noun)])
            # The x keep the spaces at both ends of a part.
            parts = [_normal(f"x{part}x")[1:-1] for part in prompt.text.split("{subject}")]
            around = [re.escape(part) for part in parts]
            word = rf"(\S+) {re.escape(_normal(noun))}"
            self.patterns.append((re.compile(word.join(around)), prompt.id))

    def _add(self, prompt_id: str, texts: Sequence[str]) -> None:
        for text in texts:
            self.texts.setdefault(_normal(text), set()).add(prompt_id)

    def find(self, text: str) -> tuple[str, str | None] | None:
        """Id of the prompt, and the identifier in its text; None when it is none or not clear."""
        if text in self.ids:
            return text, None
        found = self.texts.get(_normal(text), set())
        if found:
            return (next(iter(found)), None) if len(found) == 1 else None
        matches = [
            (prompt_id, match[1])
            for pattern, prompt_id in self.patterns
            if (match := pattern.fullmatch(_normal(text)))
        ]
        return matches[0] if len(matches) == 1 else None


def _normal(text: str) -> str:
    """A prompt's text without what does not make it another: case, spaces or _, a full stop."""
    return " ".join(text.casefold().replace("_", " ").split()).removesuffix(".")


def _group(
    walk: _Walk, wanted: Wanted
) -> tuple[dict[tuple[str, str], list[_File]], list[str], int]:
    """Files by subject and prompt id, the identifiers in their texts, how many were left out."""
    chosen = {(unit.subject, unit.prompt_id) for unit in wanted.units}
    groups: dict[tuple[str, str], list[_File]] = {}
    strange: dict[tuple[str, str | None], int] = {}
    identifiers: set[str] = set()
    by_subject: dict[str, dict[str, list[_File]]] = {}
    for file in walk.files:
        by_subject.setdefault(file.subject, {}).setdefault(file.prompt, []).append(file)
    subjects = {subject.name: subject for subject in wanted.subjects}
    n_left_out = 0
    for name, by_prompt in by_subject.items():
        if name not in subjects:
            n_files = sum(map(len, by_prompt.values()))
            if name in wanted.known_subjects:
                n_left_out += n_files
            else:
                strange[name, None] = n_files
            continue
        prompts = _Prompts(wanted.protocol, subjects[name])
        found = {text: prompts.find(text) for text in by_prompt}
        words = {match[1] for match in found.values() if match and match[1]}
        for text, match in found.items():
            # One method has one identifier a subject: where words differ, none is one for sure.
            if match is None or (match[1] and len(words) > 1):
                strange[name, text] = len(by_prompt[text])
            elif (name, match[0]) in chosen:
                groups.setdefault((name, match[0]), []).extend(by_prompt[text])
            elif match[0] in wanted.prompt_ids(subjects[name]):
                n_left_out += len(by_prompt[text])
            else:
                strange[name, text] = len(by_prompt[text])
        if len(words) == 1:
            identifiers |= words
    for index, ((name, prompt), n_files) in enumerate(strange.items()):
        if prompt is None:
            shown, known = name, wanted.known_subjects
            detail = f"no subject of '{wanted.protocol.name}' has this name"
        else:
            shown = f"{name}/{' '.join(prompt.split())[:100]}"
            known = [p.id for p in wanted.protocol.prompts_for(subjects[name].kind)]
            detail = f"no prompt for {name} has this id or text"
        hint = suggest(prompt or name, known) if index < N_SUGGESTED else ""
        detail = f"{detail} ({n_files} images)" + (f"; {hint}" if hint else "")
        walk.problems.append(Problem("unknown", _printable(shown), n_files, detail))
    return groups, sorted(identifiers), n_left_out


def _number(labels: Sequence[str], n: int) -> list[int] | None:
    """The numbers that files have by their names; None where these are not of 0 to n-1."""
    if not all(re.fullmatch(r"[0-9]{1,9}", label) for label in labels):
        return None
    numbers = [int(label) for label in labels]
    return numbers if max(numbers) < n else None


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts 2 before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]


def _place(walk: _Walk, wanted: Wanted, layout: Layout) -> Placed:
    units = {(unit.subject, unit.prompt_id, unit.k): unit for unit in wanted.units}
    sizes = Counter((unit.subject, unit.prompt_id) for unit in wanted.units)
    groups, identifiers, n_left_out = _group(walk, wanted)
    files: dict[ImageUnit, Path] = {}
    names: dict[ImageUnit, str] = {}
    ordered = []
    for (subject, prompt_id), group in groups.items():
        n, members = sizes[subject, prompt_id], group
        numbers = _number([file.label for file in members], n)
        if numbers is None:
            ordered.append(f"{subject}/{prompt_id}")
            members = sorted(members, key=lambda file: (_natural(file.label), file.name))
            numbers = list(range(len(members)))
        for k, file in zip(numbers, members, strict=True):
            unit = units.get((subject, prompt_id, k))
            if unit is not None and unit not in files:
                files[unit], names[unit] = file.path, file.name
                continue
            detail = f"{subject}/{prompt_id} has images 0 to {n - 1} and no more"
            if unit is not None:
                detail = f"{names[unit]} is image {k} of {subject}/{prompt_id} already"
            walk.problems.append(Problem("extra", file.name, detail=detail))
    has_prior = any(unit.prompt_id == PRIOR_PROMPT_ID for unit in files)
    kept = [unit for unit in wanted.units if has_prior or unit.prompt_id != PRIOR_PROMPT_ID]
    notes = []
    if identifiers:
        words = name_some([f"'{_printable(word)}'" for word in identifiers])
        notes.append(f"before the class noun, {words} was taken for the identifier")
    if ordered:
        notes.append(f"numbered in the order of their names: files of {name_some(ordered)}")
    if n_left_out:
        notes.append(f"{n_left_out} images of other subjects and prompts were left out")
    if walk.n_ignored:
        notes.append(f"{walk.n_ignored} other files and folders were not looked at")
    problems = [*_find_missing(kept, files), *walk.problems]
    in_order = {unit: files[unit] for unit in kept if unit in files}
    return Placed(layout, kept, in_order, names, problems, notes)


def _find_missing(units: Sequence[ImageUnit], files: Mapping[ImageUnit, Path]) -> list[Problem]:
    """One problem a subject that has no image at all, else one a prompt."""
    groups: dict[str, dict[str, list[ImageUnit]]] = {}
    for unit in units:
        groups.setdefault(unit.subject, {}).setdefault(unit.prompt_id, []).append(unit)
    found = []
    for subject, prompts in groups.items():
        every = [unit for members in prompts.values() for unit in members]
        if not any(unit in files for unit in every):
            found.append(Problem("missing", subject, len(every), f"all {len(every)} images"))
            continue
        for prompt_id, members in prompts.items():
            lacks = [str(unit.k) for unit in members if unit not in files]
            if lacks:
                detail = f"no {', '.join(lacks)}" if len(lacks) < len(members) else "none"
                found.append(Problem("missing", f"{subject}/{prompt_id}", len(lacks), detail))
    return found


@dataclass(frozen=True)
class _Look:
    """What opening a file shows; `fault` is empty for an image that can be scored."""

    fault: str = ""
    size: tuple[int, int] = (0, 0)
    is_black: bool = False
    is_lossy: bool = False
    sha256: str = ""
    pixels_sha256: str = ""


def _look_at_all(
    paths: Sequence[Path], cache: FeatureCache, pool: ThreadPoolExecutor
) -> list[_Look]:
    """What each file shows; content that was whole when it was seen before is not decoded again."""
    hashes = list(pool.map(_hash, paths))
    rows = cache.read(LOOK, "look", [name for name in hashes if name])
    known = {}
    for sha256, row in rows.items():
        shown = json.loads(row.tobytes())
        known[sha256] = _Look(**shown | {"size": tuple(shown["size"])}, sha256=sha256)
    looks = list(pool.map(lambda path, name: known.get(name) or _look(path), paths, hashes))
    fresh = {}
    for look in looks:
        if not look.fault and look.sha256 not in known:
            shown = {key: value for key, value in asdict(look).items() if key in KEPT}
            fresh[look.sha256] = np.frombuffer(json.dumps(shown).encode(), np.uint8)
    if fresh:
        cache.write(LOOK, "look", fresh)
    return looks


def _hash(path: Path) -> str:
    """Empty for what cannot be read, whose fault `_look` names."""
    try:
        return sha256_file(path) if path.is_file() else ""
    except OSError:
        return ""


def _look(path: Path) -> _Look:
    try:
        image = load_image(path)
        return _Look(
            size=image.size,
            is_black=image.getbbox() is None,
            is_lossy=is_lossy(path),
            sha256=sha256_file(path),
            pixels_sha256=hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest(),
        )
    except ImageError as error:
        return _Look(fault=error.reason)
    except OSError as error:
        return _Look(fault=_reason(error))


def check_images(
    placed: Placed, *, min_side_px: int, cache_dir: Path, progress: Progress
) -> Checked:
    """Opens every file once and sorts out what cannot be scored.

    That is what cannot be read and what has a side below `min_side_px`. Images that are black all
    over and those that are there twice are what a method gave: they are listed and stay.
    """
    files: dict[ImageUnit, Path] = {}
    sha256: dict[ImageUnit, str] = {}
    problems: list[Problem] = []
    seen: dict[str, ImageUnit] = {}
    n_lossy = 0
    units = list(placed.files)
    step = 16 * N_WORKERS
    with FeatureCache(cache_dir) as cache, ThreadPoolExecutor(N_WORKERS) as pool:
        for start in range(0, len(units), step):
            progress("images checked", start, len(units))
            group = units[start : start + step]
            looks = _look_at_all([placed.files[unit] for unit in group], cache, pool)
            for unit, look in zip(group, looks, strict=True):
                name = placed.names[unit]
                if look.fault:
                    problems.append(Problem("unreadable", name, detail=look.fault))
                    continue
                if min(look.size) < min_side_px:
                    size = f"{look.size[0]} x {look.size[1]} px"
                    detail = f"{size}, below {min_side_px}"
                    problems.append(Problem("too small", name, detail=detail))
                    continue
                if look.is_black:
                    problems.append(Problem("black", name))
                first = seen.setdefault(look.pixels_sha256, unit)
                if first != unit:
                    same = "bytes" if sha256[first] == look.sha256 else "pixels"
                    detail = f"the {same} of {placed.names[first]}"
                    problems.append(Problem("duplicated", name, detail=detail))
                files[unit], sha256[unit] = placed.files[unit], look.sha256
                n_lossy += look.is_lossy
    progress("images checked", len(units), len(units))
    return Checked(files, sha256, problems, n_lossy, min_side_px)


def count_problems(problems: Sequence[Problem]) -> dict[str, int]:
    """How many images each kind of problem has, in the order of `Kind`."""
    counts = {kind: sum(p.n_images for p in problems if p.kind == kind) for kind in get_args(Kind)}
    return {kind: n_images for kind, n_images in counts.items() if n_images}


def list_problems(problems: Sequence[Problem], *, n_names: int = 20) -> list[str]:
    """A line for each kind with its count, and under it the first names."""
    lines = []
    for kind, n_images in count_problems(problems).items():
        members = [str(problem) for problem in problems if problem.kind == kind]
        lines.append(f"{n_images} {kind}:")
        lines += [f"- {member}" for member in members[:n_names]]
        if len(members) > n_names:
            lines.append(f"- and {len(members) - n_names} more")
    return lines
