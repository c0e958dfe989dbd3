"""Faults at every call that reads or changes a file, in a small run and in the stages of scoring.

A case restores a folder, runs a command with one call spoiled, looks at what is there, and runs the
same command again. What counts as a failure is in `KINDS`.
"""

from __future__ import annotations

import csv
import errno
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from faults.server import Done, Fired, Server
from faults.verdicts import Verdict, find_in_output

PROTOCOL = """
title = "one subject, one prompt, two images"
source = "tests"
version = 1
dataset = "mini"
subjects = ["dog"]
base_model = "mini"
n_images_per_prompt = 2
metrics = ["dino"]

[sampler]
scheduler = "ddim"
n_steps = 2
guidance_scale = 3.0
size_px = 64

[sampler.options]
timestep_spacing = "trailing"

[prior]
n_images = 1

[encoders]
dino = "mini-vit"
clip = "mini-clip"
perceptual = "mini-vit-patches"

[[prompts]]
id = "beach"
family = "recontextualization"
text = "a {subject} on the beach"
"""
RECIPE = """
extends = "textual-inversion"
title = "two steps"
source = "tests"

[mini]
n_steps = 2
"""
ERRNOS = (
    errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE, errno.EROFS, errno.EBUSY, errno.EXDEV,
    errno.ENOLCK, errno.EDQUOT, errno.EMFILE, errno.EPERM,
)  # fmt: skip
RESULTS = ("scores.parquet", "summary.json", "reference-bounds.csv")
PAGES = ("report.md", "index.html")
CLOCKS = rb"Device time [^\n<]*|What it costs.*?(?=\n## |</table>)"
"""In a page, what says how long something took."""
IN_SUMS = [[name.encode()] for name in (*PAGES, "costs.csv")]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Mode:
    """What happens at the n-th call."""

    action: str
    for_good: bool = False

    def error(self, n: int) -> int:
        """Return the errno of the n-th call: each in its turn."""
        return ERRNOS[n % len(ERRNOS)] if self.action == "fail" else 0


MODES = (
    Mode("kill-before"), Mode("kill-half"), Mode("fail"), Mode("fail", for_good=True),
    Mode("kill-after"),
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """A command whose calls are spoiled, and what stands before it in the folder of a case.

    `results` is the folder of what it makes. `prepare` fills the folder by undisturbed commands.
    """

    name: str
    words: tuple[str, ...]
    results: str
    prepare: Callable[[Server, Path], None]


_COMMON = ("--cache", "cache", "--decoding-threads", "1")
_RUN = ("run", "--protocol", "tiny.toml", "--alongside", "", "--batch-size", "1", *_COMMON[:2])
_COPY = (*_RUN, "--method", "copy-reference")
_COPY_DIR = "runs/tiny/copy-reference"
_EXTERNAL = ("score", "images", "--protocol", "tiny.toml", "--name", "mine", *_COMMON)


def _start(server: Server, folder: Path) -> None:
    (folder / "tiny.toml").write_text(PROTOCOL)
    (folder / "two-steps.toml").write_text(RECIPE)


def _run_first(server: Server, folder: Path) -> None:
    _start(server, folder)
    _succeed(server, folder, _COPY)


def _drop_scores(server: Server, folder: Path) -> None:
    _run_first(server, folder)
    for name in RESULTS:
        (folder / _COPY_DIR / name).unlink()
    shutil.rmtree(folder / "cache")


def _draw_images(server: Server, folder: Path, *, seed: int = 1) -> None:
    _start(server, folder)
    rng = np.random.default_rng(seed)
    for prompt, k in itertools.product(("beach",), range(2)):
        path = folder / "images" / "dog" / prompt / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)


def _score_others(server: Server, folder: Path) -> None:
    """Results of other images are there, and must not mix with those of the new ones."""
    _draw_images(server, folder, seed=0)
    _succeed(server, folder, _EXTERNAL)
    _draw_images(server, folder, seed=1)


WORKLOADS = (
    Workload("run", _COPY, _COPY_DIR, _start),
    Workload("score a run", ("score", _COPY_DIR, *_COMMON), _COPY_DIR, _drop_scores),
    Workload(
        "score a run again", ("score", _COPY_DIR, "--metric", "clip-i", *_COMMON), _COPY_DIR,
        _run_first,
    ),
    Workload("score images", _EXTERNAL, "scores/tiny/mine", _draw_images),
    Workload("score other images", _EXTERNAL, "scores/tiny/mine", _score_others),
    Workload(
        "train and run", (*_RUN, "--method", "two-steps.toml"), "runs/tiny/two-steps", _start
    ),
)  # fmt: skip


def _succeed(server: Server, folder: Path, words: Sequence[str]) -> Done:
    done = server.call(words, cwd=folder)
    if done.status != 0:
        raise AssertionError(f"undisturbed, {' '.join(words)} ends with {done.status}: {done}")
    return done


def read_files(folder: Path) -> Files:
    """Return the bytes of all files by their path in a folder, without locks and sessions."""
    return {
        str(path.relative_to(folder)): _read(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name and path.parent.name != "sessions"
    }


def _read(path: Path) -> bytes:
    """Return the bytes of a file without the time: a manifest's sessions, a report's seconds."""
    content = path.read_bytes()
    if path.name == "run.json":
        with suppress(ValueError):
            return json.dumps(json.loads(content) | {"sessions": []}).encode()
    elif path.name in PAGES:
        return re.sub(CLOCKS, b"", content, flags=re.DOTALL)
    elif path.name == "costs.csv":
        # What a method trains and keeps is not a time: it has to be the same.
        rows = csv.reader(content.decode().splitlines())
        return repr([row[:3] for row in rows]).encode()
    elif path.name == "SHA256SUMS" and path.parent.name == "report":
        lines = content.splitlines(keepends=True)
        return b"".join(line for line in lines if line.split()[-1:] not in IN_SUMS)
    return content


def _has_clock(name: str) -> bool:
    """Return whether a file has the seconds of training in it, or the sum of one that has."""
    path = Path(name)
    return path.name == "done.json" or (path.name == "SHA256SUMS" and "train" in path.parts)


def _finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells of each finished product whether it was made again."""
    paths = [*folder.glob("runs/*/*/images/*/*/*.png"), *folder.glob("runs/*/*/train/*/*")]
    stats = [(path, path.stat()) for path in paths if ".part" not in str(path)]
    return {str(path.relative_to(folder)): (s.st_ino, s.st_mtime_ns) for path, s in stats}


@dataclass
class Loop:
    """All cases of a workload in a folder of its own; `keep` gets the folders of those that failed.

    `same` are the files that come out alike in two undisturbed runs, with their bytes; `names` all
    that are there at the end; `before` what is there before the command.
    """

    server: Server
    workload: Workload
    folder: Path
    keep: Path | None = None
    same: Files = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    before: Files = field(default_factory=dict)
    tables: list[bytes] = field(default_factory=list)
    n_calls: int = 0

    def __post_init__(self) -> None:
        self.template, self.case = self.folder / "template", self.folder / "case"
        self.template.mkdir(parents=True)
        # Absolute paths are in protocols and caches: the template is made where the cases are.
        self.case.mkdir()
        self.workload.prepare(self.server, self.case)
        shutil.copytree(self.case, self.template, dirs_exist_ok=True)
        self.before = read_files(self.case)
        self.tables = [self._report()] if self._has_summary() else []
        ends = []
        for _ in range(2):
            self._restore()
            self.server.faults.arm(self.case, at=0, action="count")
            _succeed(self.server, self.case, self.workload.words)
            self.n_calls = self.server.faults.disarm().n_calls
            ends.append(read_files(self.case))
        self.names = set(ends[0])
        self.same = {
            name: content
            for name, content in ends[0].items()
            if content == ends[1].get(name) and not _has_clock(name)
        }
        needed = {f"{self.workload.results}/{name}" for name in RESULTS}
        if self.workload.words[0] == "score" and self.workload.words[1] == _COPY_DIR:
            needed.discard(f"{self.workload.results}/summary.json")
        assert needed <= set(self.same), needed - set(self.same)
        assert ends[0].keys() == ends[1].keys()

    def run(self, *, first: int = 1, step: int = 1, shift: int = 0) -> Iterator[Verdict]:
        """Yield a verdict a case, for every `step`-th call until none fires any more.

        The modes take turns from call to call; `shift` gives each call another one.
        """
        for turn, n in enumerate(itertools.count(first, step), start=shift):
            verdict = self.try_case(n, MODES[turn % len(MODES)])
            if verdict is None:
                return
            yield verdict

    def try_case(self, n: int, mode: Mode) -> Verdict | None:
        """Spoil the n-th call and run again; None when there are not so many calls."""
        self._restore()
        self.server.faults.arm(
            self.case, at=n, action=mode.action, error=mode.error(n), for_good=mode.for_good
        )
        done = self.server.call(self.workload.words, cwd=self.case)
        fired = self.server.faults.disarm()
        if not fired.n_spoiled:
            return None
        faults = self._judge_end(mode, done)
        finished = _finished(self.case)
        kept = self._keep_state()
        again = self.server.call(self.workload.words, cwd=self.case)
        faults += self._judge_second(again, finished)
        name = self._describe(n, mode, fired)
        if faults and self.keep is not None:
            self._write_kept(kept, name, (done, again), faults)
        return Verdict(self.workload.name, name, tuple(faults))

    def _describe(self, n: int, mode: Mode, fired: Fired) -> str:
        error = f" {errno.errorcode[mode.error(n)]}" if mode.error(n) else ""
        path = fired.path.removeprefix(f"{self.case}/")
        return f"{n}: {mode.action}{error}{' for good' * mode.for_good} at {fired.operation} {path}"

    def _restore(self) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.template, self.case)

    def _judge_end(self, mode: Mode, done: Done) -> list[tuple[str, str]]:
        """Return what is wrong right after the fault."""
        if mode.action.startswith("kill"):
            faults = [] if done.status == -9 else [("exit", f"{done.status} and not killed")]
        else:
            faults = find_in_output(done, may_fail=True)
        now = read_files(self.case)
        for name, content in now.items():
            # How whole its own files are is SQLite's to tell: the second run reads them. The list
            # of sums grows with what is done.
            if name.startswith("cache/embeddings/") or name.endswith("/SHA256SUMS"):
                continue
            if name in self.same and content not in (self.same[name], self.before.get(name)):
                faults.append(("silently wrong", f"{name} is neither whole nor as before"))
        if done.status == 0:
            faults += [("silently wrong", f"exit 0 without {n}") for n in self.same if n not in now]
        faults += self._judge_mixture(now)
        return faults

    def _judge_mixture(self, now: Files) -> list[tuple[str, str]]:
        """Return whether new scores beside an old summary are taken for one result."""
        scores, summary = (f"{self.workload.results}/{name}" for name in RESULTS[:2])
        is_mixed = (
            self.before.get(scores, now.get(scores)) != now.get(scores)
            and summary in now
            and now[summary] == self.before.get(summary)
        )
        if not is_mixed:
            return []
        # The state has to stay as it is for the second run.
        copy = self.folder / "mixed"
        shutil.copytree(self.case, copy, dirs_exist_ok=True)
        try:
            table = self._report()
        except AssertionError:
            return []
        finally:
            shutil.rmtree(self.case)
            copy.rename(self.case)
        return (
            []
            if table in self.tables
            else [("silently wrong", "report mixes new scores and old means")]
        )

    def _has_summary(self) -> bool:
        return (self.case / self.workload.results / "summary.json").is_file()

    def _report(self) -> bytes:
        _succeed(self.server, self.case, ("report", self.workload.results))
        return (self.case / self.workload.results / "report" / "table.csv").read_bytes()

    def _judge_second(
        self, done: Done, finished: dict[str, tuple[int, int]]
    ) -> list[tuple[str, str]]:
        """Return what is wrong after the same command again."""
        faults = find_in_output(done, may_fail=False)
        now, after = read_files(self.case), _finished(self.case)
        for name, content in self.same.items():
            if name not in now:
                faults.append(("lost", f"{name} is not there"))
            elif now[name] != content:
                faults.append(("silently wrong", f"{name} is another one"))
        missing = self.names - set(now) - set(self.same)
        faults += [("lost", f"{name} is not there") for name in sorted(missing)]
        # What failed once stays on record.
        more = {name for name in set(now) - self.names if "/failures/" not in name}
        faults += [("leftover", name) for name in sorted(more)]
        faults += [("repeated", name) for name, mark in finished.items() if after.get(name) != mark]
        return faults

    def _keep_state(self) -> Path | None:
        if self.keep is None:
            return None
        kept = self.folder / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.case, kept)
        return kept

    def _write_kept(
        self, kept: Path | None, name: str, done: Sequence[Done], faults: list[tuple[str, str]]
    ) -> None:
        assert self.keep is not None and kept is not None
        label = "".join(c if c.isalnum() else "-" for c in f"{self.workload.name}-{name}")[:120]
        target = self.keep / label
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(kept, target)
        words = "\n\n".join(f"status {one.status}\n{one.stdout}\n{one.stderr}" for one in done)
        found = "\n".join(": ".join(fault) for fault in faults)
        (target / "verdict.txt").write_text(f"{name}\n{found}\n\n{words}", errors="replace")
