"""Hostile inputs: each is put into a folder, read by a command, and what came of it is judged.

Around the folder lies a canary. A `Target` says where an input lies, which commands read it, and
what tells a right reading from a wrong one, which depends on the input's bytes alone.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from faults.server import Done, Server
from faults.verdicts import Fault, Verdict, find_in_output

CORPUS = Path(__file__).with_name("corpus")
MAX_SECONDS, PATIENCE = 30.0, 4
MAX_ADDED_BYTES = 2_000_000_000
EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").write_text("code of a stranger's file was run")
class Evil: pass
"""
FREE = ("home", "tmp", "cache")
"""Folders that every command may write: the user's own."""


@dataclass(frozen=True)
class Case:
    """An input that was read: its folder, its bytes and how each command ended."""

    folder: Path
    content: bytes
    words: tuple[str, ...]
    done: Done

    @property
    def is_read(self) -> bool:
        """Whether the command took it."""
        return self.done.status == 0


Judge = Callable[[Case], list[Fault]]


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        name: what tables and the corpus call it.
        place: writes an input into a folder, from which the commands are called.
        commands: those that read it, of which the input's bytes pick one; `{input}` is its text.
        good: inputs that are right, and have to be read; they are made once, where it was prepared.
        mutate: makes a hostile input of a good one, or of none.
        judge: what is wrong with how it was read.
        prepare: what lies there besides, made once.
        outputs: files and folders that the commands may write.
    """

    name: str
    place: Callable[[Path, bytes], None]
    commands: tuple[tuple[str, ...], ...]
    mutate: Callable[[Random, bytes], bytes]
    good: Callable[[Path], Sequence[bytes]] = lambda folder: ()
    judge: Judge = lambda case: []
    prepare: Callable[[Server, Path], None] = lambda server, folder: None
    outputs: tuple[str, ...] = ("out",)

    @property
    def folder(self) -> str:
        """Its folder in the corpus."""
        return self.name.replace(" ", "-")


class Fuzzer:
    """Reads inputs of one target after the other; `keep` gets those that failed."""

    def __init__(self, server: Server, folder: Path, *, keep: Path | None = None) -> None:
        self.server, self.folder, self.keep = server, folder, keep
        self.case = folder / "case"
        self._prepared: dict[str, Path] = {}

    def replay(self, target: Target) -> Iterator[Verdict]:
        """Yield a verdict for each good input, and for each of the kept corpus."""
        for index, content in enumerate(target.good(self._restore(target))):
            verdict = self.try_input(target, content, f"good input {index}")
            faults = verdict.faults
            if verdict.outcome == "refused":
                faults = (*faults, ("silently wrong", "a good input was refused"))
            yield replace(verdict, faults=faults)
        for path in sorted((CORPUS / target.folder).glob("*")):
            yield self.try_input(target, path.read_bytes(), f"corpus: {path.name}")

    def run(self, target: Target, *, n: int, seed: int) -> Iterator[Verdict]:
        """Yield a verdict for each of n hostile inputs; the same seed makes the same ones."""
        good = [*target.good(self._restore(target))] or [b""]
        for index in range(n):
            rng = Random(f"{seed}/{target.name}/{index}")
            content = target.mutate(rng, rng.choice(good))
            yield self.try_input(target, content, f"seed {seed}, input {index}")

    def try_input(self, target: Target, content: bytes, name: str) -> Verdict:
        """Read one input; `{canary}` in it stands for the folder that nothing may write."""
        inside = self._restore(target)
        content = content.replace(b"{canary}", bytes(self.case / "canary"))
        try:
            target.place(inside, content)
        except (OSError, ValueError) as error:
            # What no file system can hold can reach nobody.
            return Verdict(target.name, f"{name}: {error}", (), "impossible")
        text = content.decode(errors="replace")
        picked = target.commands[zlib.crc32(content) % len(target.commands)]
        words = tuple(text if word == "{input}" else word for word in picked)
        before = self._snapshot(target)
        done = self._call(words, inside)
        faults = find_in_output(done)
        faults += self._find_outside(before, self._snapshot(target))
        if not faults:
            faults = target.judge(Case(inside, content, words, done))
        if faults and self.keep is not None:
            self._write_kept(target, content, name, words, done, faults)
        outcome = "read" if done.status == 0 else "refused"
        return Verdict(target.name, f"{name}: {' '.join(picked)}", tuple(faults), outcome)

    def _call(self, words: tuple[str, ...], inside: Path) -> Done:
        environment = {
            "HOME": str(inside / "home"), "TMPDIR": str(inside / "tmp"),
            "DREAMBENCH_CACHE": str(inside / "cache"), "DREAMBENCH_DATA": str(inside / "out"),
        }  # fmt: skip
        for factor in (1, PATIENCE):  # A busy machine is not a fault of the input.
            done = self.server.call(
                words, cwd=inside, environment=environment, max_bytes=MAX_ADDED_BYTES,
                max_seconds=MAX_SECONDS * factor,
            )  # fmt: skip
            if not done.timed_out:
                break
        return done

    def _restore(self, target: Target) -> Path:
        """Put the case's folder back to what it is before an input lies there."""
        inside = self.case / "inside"
        shutil.rmtree(self.case, ignore_errors=True)
        if target.name in self._prepared:
            shutil.copytree(self._prepared[target.name], self.case, symlinks=True)
            return inside
        for name in (*FREE, "../canary/x"):
            (inside / name).mkdir(parents=True, exist_ok=True)
        (self.case / "canary" / "evil.py").write_text(EVIL)
        (self.case / "canary" / "x.py").write_text(EVIL)
        (self.case / "canary" / "x" / "precious").write_text("not to be touched")
        target.prepare(self.server, inside)
        self._prepared[target.name] = self.folder / "templates" / target.name
        shutil.copytree(self.case, self._prepared[target.name], symlinks=True)
        return inside

    def _snapshot(self, target: Target) -> dict[str, bytes]:
        inside = self.case / "inside"
        free = [inside / name for name in (*FREE, *target.outputs)]
        found: dict[str, bytes] = {}
        for path in self.case.rglob("*"):
            if any(path == one or path.is_relative_to(one) for one in free):
                continue
            is_file = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(self.case))] = path.read_bytes() if is_file else b""
        return found

    @staticmethod
    def _find_outside(before: dict[str, bytes], after: dict[str, bytes]) -> list[Fault]:
        changed = [name for name in before if after.get(name) != before[name]]
        return [("outside", f"{name!r} was changed or removed") for name in changed] + [
            ("outside", f"{name!r} was written") for name in after if name not in before
        ]

    def _write_kept(
        self, target: Target, content: bytes, name: str, words: tuple[str, ...], done: Done,
        faults: list[Fault],
    ) -> None:  # fmt: skip
        assert self.keep is not None
        folder = self.keep / target.folder
        folder.mkdir(parents=True, exist_ok=True)
        label = "".join(c if c.isalnum() else "-" for c in name)
        (folder / label).write_bytes(content)
        about = {"name": name, "words": words, "faults": faults, "status": done.status,
                 "stderr": done.stderr[-5000:], "stdout": done.stdout[-1000:]}  # fmt: skip
        (folder / f"{label}.json").write_text(json.dumps(about, indent=1), errors="replace")
