"""What reads results and names things imports no torch, and the package itself nothing slow.

`list methods` and `list --json` are exempt: they count trained parameters, for which they import
the methods' classes.
"""

import json
import shutil
import subprocess
import sys

import pytest
from board_records import make_record
from conftest import TINY_PROTOCOL
from processes import call
from simulated_raters import World, make_plan, simulate

import dreambench
from dreambench.artifacts.study import write_study

SLOW = ("torch", "pandas", "scipy", "matplotlib", "transformers", "diffusers", "timm", "open_clip")
PUBLIC = {
    "Comparison", "Encoder", "Method", "Metric", "Result", "UserError", "compare", "load_run",
    "load_subjects", "run", "score",
}  # fmt: skip
PROBE = """
import json, sys
from dreambench.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print("\\nPROBE", json.dumps([code or 0, "torch" in sys.modules]))
"""


def python(code, *words):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return done.stdout


def imports_torch(*words):
    """Whether a command that succeeds has imported torch when it ends."""
    last = python(PROBE, *words).splitlines()[-1]
    code, has_torch = json.loads(last.removeprefix("PROBE "))
    assert code == 0
    return has_torch


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, shared_cache):
    """A small finished run of copy-reference, made by another process."""
    root = tmp_path_factory.mktemp("light")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    done = call(
        "run", "--protocol", root / "tiny.toml", "--method", "copy-reference", "--alongside", "",
        "--out", root / "runs", "--cache", shared_cache,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root / "runs" / "tiny" / "copy-reference"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"], ["run", "--help"], ["list"], ["list", "protocols"],
        ["list", "base-models"], ["list", "encoders"], ["list", "metrics"],
        ["list", "conventions"], ["metrics", "list"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_naming_things_imports_no_torch(words):
    assert not imports_torch(*words)


def test_the_command_line_itself_imports_nothing_slow():
    code = "import sys, dreambench.cli; print([m for m in sys.argv[1:] if m in sys.modules])"
    assert python(code, *SLOW, "pydantic", "filelock", "numpy").strip() == "[]"


@pytest.mark.parametrize("command", ["status", "summarise", "report", "compare"])
def test_reading_results_imports_no_torch(small_run, tmp_path, command):
    copy = shutil.copytree(small_run, tmp_path / "copy")
    others = [small_run] if command in ("compare", "report") else []
    assert not imports_torch(command, copy, *others)


def test_python_reads_and_compares_results_without_torch(small_run):
    code = (
        "import sys, dreambench\n"
        "found = dreambench.load_run(sys.argv[1])\n"
        "table = dreambench.compare([found, found]).table\n"
        "print(len(table), 'torch' in sys.modules)"
    )
    assert python(code, small_run).split() == ["5", "False"]


def test_the_package_imports_nothing_slow():
    code = f"import sys, dreambench; print([n for n in {SLOW!r} if n in sys.modules])"
    assert python(code).strip() == "[]"


def test_public_names_are_shown_before_they_are_loaded():
    code = (
        "import json, sys, dreambench\n"
        "print(json.dumps([dir(dreambench), dreambench.__all__, 'pandas' in sys.modules]))"
    )
    names, exported, has_pandas = json.loads(python(code))
    assert set(exported) == PUBLIC | {"__version__"}
    assert set(names) >= set(exported)
    assert not has_pandas


def test_public_names_are_loaded_when_asked_for():
    for name in dreambench.__all__:
        assert getattr(dreambench, name) is not None
    with pytest.raises(AttributeError):
        _ = dreambench.no_such_name


def test_help_shows_the_public_names():
    shown = python("import dreambench; help(dreambench)")
    assert not [name for name in PUBLIC if name not in shown]


def test_rendering_a_board_imports_no_torch(tmp_path):
    make_record(tmp_path / "records", "alone", 0.5)
    words = ("--records", tmp_path / "records", "--out", tmp_path / "site")
    assert not imports_torch("leaderboard", "render", *words)


def test_analysing_a_study_imports_no_torch(tmp_path):
    study = make_plan(("a", "b"), n_sheets=1, n_questions=4)
    write_study(tmp_path, study)
    for one in simulate(study, World({"a": 0.5, "b": -0.5}), seed=0):
        (tmp_path / f"{one.rater}.json").write_text(one.model_dump_json())
    answers = sorted(tmp_path.glob("sim-*.json"))
    assert len(answers) == 3
    assert not imports_torch("study", "analyse", tmp_path, *answers)
