"""What faults and hostile inputs do: faults at every file operation, and thousands of inputs.

    python benchmarks/faults.py --out reports/benchmarks
    python benchmarks/faults.py --only "score a run,zip" --inputs 50 --step 20

Injects one fault at each call that reads or changes a file, in a small run and in `score`, and runs
the same command again; gives hostile inputs to the commands that read them (`tests/faults`). Needs
Linux and a C compiler. The exit code is 1 where something failed; the inputs and folders of what
failed are kept in the folder that it names.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from faults.fuzzing import Fuzzer
from faults.injection import WORKLOADS, Loop, Workload
from faults.server import Server, compile_shim
from faults.targets import TARGETS
from faults.verdicts import KINDS, Row, Verdict, count_verdicts

from dreambench.machine.environment import describe_session
from dreambench.storage.files import make_dir, write_bytes

N_INPUTS = 250
MIN_FAULTS, MIN_INPUTS = 500, 5_000
COLUMNS = {
    "lost": ("lost",), "silently wrong": ("silently wrong",), "tracebacks": ("traceback",),
    "writes outside": ("outside",), "other": ("limits", "exit", "repeated", "leftover", "escape"),
}  # fmt: skip
N_SHOWN = 60


@dataclass(frozen=True)
class Options:
    """What is tried, and where: `folder` is for the cases, `keep` for those that failed."""

    n_inputs: int
    step: int
    seed: int
    folder: Path
    keep: Path


class Workers:
    """Threads, each with a server of its own, which does the work."""

    def __init__(self, folder: Path, shim: Path | None) -> None:
        self.folder, self.shim = folder, shim
        self._local = threading.local()
        self._servers: list[Server] = []

    @property
    def server(self) -> Server:
        """The server of this thread."""
        if not hasattr(self._local, "server"):
            folder = make_dir(self.folder / f"server-{threading.get_ident()}")
            self._local.server = Server(folder, shim=self.shim)
            self._servers.append(self._local.server)
        server: Server = self._local.server
        return server

    def close(self) -> None:
        """End all servers."""
        for server in self._servers:
            server.close()


def inject(workload: Workload, workers: Workers, options: Options) -> Iterator[Verdict]:
    """Yield a verdict a fault."""
    folder = options.folder / f"faults-{WORKLOADS.index(workload)}"
    loop = Loop(workers.server, workload, folder, keep=options.keep)
    yield from loop.run(step=options.step, shift=options.seed)


def fuzz(target: str, workers: Workers, options: Options) -> Iterator[Verdict]:
    """Yield a verdict an input: good ones, the kept corpus, and new ones."""
    number, found = next((i, one) for i, one in enumerate(TARGETS) if one.name == target)
    fuzzer = Fuzzer(workers.server, options.folder / f"inputs-{number}", keep=options.keep)
    yield from fuzzer.replay(found)
    yield from fuzzer.run(found, n=options.n_inputs, seed=options.seed)


def try_group(name: str, work: Callable[[], Iterator[Verdict]]) -> list[Verdict]:
    """Return all verdicts of a group; that it cannot be tried at all is a failure of its own."""
    started, found = time.monotonic(), []
    try:
        found.extend(work())
    except Exception as error:
        lines = str(error).splitlines() or [""]
        words = f"could not be tried: {type(error).__name__}: {lines[0][:300]}"
        found.append(Verdict(name, f"after {len(found)}", (("lost", words),)))
    n_failed = sum(bool(one.faults) for one in found)
    seconds = time.monotonic() - started
    print(f"{name}: {len(found)} tried, {n_failed} failed, {seconds:.0f} s", flush=True)
    return found


def make_table(heading: str, rows: Sequence[Row], *, outcomes: bool) -> list[str]:
    """Return a Markdown table, with the sum of all rows."""
    total = Row(
        "all", sum(r.n_tried for r in rows), sum(r.n_survived for r in rows),
        sum(r.n_refused for r in rows), sum((r.kinds for r in rows), Counter()),
    )  # fmt: skip
    heads = [heading, "tried", *(["refused"] if outcomes else []), "survived", *COLUMNS]
    lines = [f"| {' | '.join(heads)} |", f"|:--|{'--:|' * (len(heads) - 1)}"]
    for row in (*rows, total):
        counts = [sum(row.kinds[kind] for kind in kinds) for kinds in COLUMNS.values()]
        cells = [row.n_tried, *([row.n_refused] if outcomes else []), row.n_survived, *counts]
        lines.append(f"| {row.group} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    return lines


def describe_bar(verdicts: Sequence[Verdict], n_faults: int, n_inputs: int) -> str:
    """Return whether enough was tried and nothing failed."""
    n_failed = sum(bool(one.faults) for one in verdicts)
    enough = n_faults >= MIN_FAULTS and n_inputs >= MIN_INPUTS
    met = "met" if enough and not n_failed else "not met"
    return (
        f"The bar, nothing failed of at least {MIN_FAULTS:,} faults and {MIN_INPUTS:,} inputs, is "
        f"{met}: {n_failed:,} of {n_faults:,} faults and {n_inputs:,} inputs failed."
    )


def make_page(
    faults: Sequence[Verdict], inputs: Sequence[Verdict], *, command: str, seconds: float
) -> str:
    """Return the page."""
    session = describe_session("cpu")
    packages = ", ".join(f"{name} {version}" for name, version in session.packages.items())
    kinds = [f"- **{kind}**: {text}." for kind, text in KINDS.items()]
    failed = [one for one in (*faults, *inputs) if one.faults]
    lines = [
        "# Faults and hostile inputs", "",
        f"Made by `{command}` in {seconds:,.0f} s. How to run it, and what is tried: "
        "`CONTRIBUTING.md`.", "",
        describe_bar([*faults, *inputs], len(faults), len(inputs)), "",
        "## Faults", "",
        "One call spoiled at a time: the process is killed before it, after it or half way "
        "through it, or the call fails, once or from then on, with one of eleven errors of the "
        "operating system. Then the same command again, whose files have to be those of an "
        "undisturbed run.", "",
        *make_table("command", count_verdicts(faults), outcomes=False), "",
        "## Inputs", "",
        "Each has to be read right, or refused in one line.", "",
        *make_table("input", count_verdicts(inputs), outcomes=True), "",
        "What counts as a failure:", "", *kinds, "",
    ]  # fmt: skip
    if failed:
        lines += [f"## What failed, the first {min(len(failed), N_SHOWN)} of {len(failed)}", ""]
        for one in failed[:N_SHOWN]:
            words = "; ".join(f"{kind}: {text}" for kind, text in one.faults[:2])
            lines.append(f"- {make_plain(f'{one.group}, {one.name}: {words}')}")
        lines.append("")
    lines.append(f"{session.code}; Python {session.python}, {packages}.")
    return "\n".join([*lines, ""])


def make_plain(text: str) -> str:
    """Return a line that no terminal and no Markdown takes for more than text."""
    return "`" + text.encode("unicode_escape").decode().replace("`", "'")[:300] + "`"


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="folder of the page")
    parser.add_argument("--keep", type=Path, help="folder for what failed [a temporary one]")
    parser.add_argument("--only", default="", help="names of commands and inputs, with commas")
    parser.add_argument("--inputs", type=int, default=N_INPUTS, help="inputs of each kind")
    parser.add_argument("--step", type=int, default=1, help="a fault at each such call")
    parser.add_argument("--seed", type=int, default=0, help="other inputs, and other faults a call")
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    return parser.parse_args()


def main() -> None:
    """Try everything, print the page, and write it with --out."""
    args = parse()
    started = time.monotonic()
    keep = make_dir(args.keep or Path(tempfile.mkdtemp(prefix="dreambench-faults-")))
    only = {name.strip() for name in args.only.split(",") if name.strip()}
    with tempfile.TemporaryDirectory() as name:
        options = Options(args.inputs, args.step, args.seed, Path(name).resolve(), keep)
        shim = compile_shim(options.folder)
        if shim is None:
            sys.exit("needs Linux and a C compiler")
        workers = Workers(options.folder, shim)
        units: list[tuple[str, bool, Callable[[], Iterator[Verdict]]]] = [
            (one.name, True, lambda one=one: inject(one, workers, options)) for one in WORKLOADS
        ]
        units += [
            (one.name, False, lambda one=one: fuzz(one.name, workers, options)) for one in TARGETS
        ]
        units = [unit for unit in units if not only or unit[0] in only]
        with ThreadPoolExecutor(args.workers) as pool:
            jobs = [pool.submit(try_group, name, work) for name, _, work in units]
            found = [job.result() for job in jobs]
        workers.close()
    faults = [one for (_, is_fault, _), many in zip(units, found, strict=True)
              for one in many if is_fault]  # fmt: skip
    inputs = [one for (_, is_fault, _), many in zip(units, found, strict=True)
              for one in many if not is_fault]  # fmt: skip
    command = " ".join(["python", "benchmarks/faults.py", *sys.argv[1:]])
    page = make_page(faults, inputs, command=command, seconds=time.monotonic() - started)
    print(page)
    if args.out:
        write_bytes(make_dir(args.out) / "faults.md", page.encode())
    if any(one.faults for one in (*faults, *inputs)):
        print(f"What failed is kept in {keep}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
