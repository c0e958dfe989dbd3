"""The house's own rules: one install, short files and functions, codes, help that is not cut."""

import ast
import itertools
import os
import re
import subprocess
import tomllib
from importlib.metadata import distributions

import click
import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from dreambench import cli

PACKAGE = REPOSITORY / "dreambench"
README = (REPOSITORY / "README.md").read_text()
TEST_COMMAND = 'pip install -c constraints.txt -e ".[test]" && pytest'
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def python_files(folder=PACKAGE):
    return sorted(folder.rglob("*.py"))


def test_readme_is_short_and_has_the_two_commands():
    assert len(README.encode()) <= 8_000
    assert "pip install -c constraints.txt -e . && dreambench run --method dreambooth" in README
    assert TEST_COMMAND in README


def test_last_call_of_ci_is_the_test_command_of_the_readme():
    lines = (REPOSITORY / ".ci" / "run").read_text().rstrip().splitlines()
    assert lines[-1] == TEST_COMMAND.replace("install", "install -q")


def test_ci_says_first_which_python_it_needs(tmp_path):
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.13 || exit 1\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["bash", REPOSITORY / ".ci" / "run"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "dreambench needs Python 3.11 or newer, and python3 is Python 3.10.13"
    ]


def read_pins():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_constraints_pin_every_package_that_pyproject_asks_for():
    pins = {}
    for line in read_pins():
        name, version = line.split("==")
        pins[canonicalize_name(name)] = version
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    faults = []
    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        if requirement.name == "dreambench":  # Its own extras.
            continue
        if version is None or version not in requirement.specifier:
            faults.append(f"{requirement}: {version}")
    assert len(asked) > 40 and not faults


def test_pins_admit_every_python_that_the_project_admits():
    pins = {canonicalize_name(line.split("==")[0]) for line in read_pins()}
    seen = [found for found in distributions() if canonicalize_name(found.name) in pins]
    # Debian 12 has 3.11.2.
    faults = [
        f"{found.name} {found.version} wants Python {wanted}"
        for found in seen
        if (wanted := found.metadata["Requires-Python"]) and "3.11.0" not in SpecifierSet(wanted)
    ]
    assert len(seen) > 60 and not faults


def test_files_that_the_readme_points_to_are_there():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) >= 4
    assert not [target for target in targets if not (REPOSITORY / target).exists()]


def test_files_and_functions_are_short():
    faults = []
    for path in python_files():
        text = path.read_text()
        if text.count("\n") > MAX_FILE_LINES:
            faults.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                explained = ast.get_docstring(node, clean=False) or ""
                n_lines = node.end_lineno - node.lineno + 1 - explained.count("\n")
                if n_lines > MAX_FUNCTION_LINES:
                    faults.append(f"{path.name}: {node.name} has {n_lines} lines")
    assert not faults


def raised_errors(path):
    """Calls that make a UserError or one of its kinds with words of its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name == "UserError" or (name == "listed" and owner.endswith("Error")):
            yield node


def test_every_user_error_has_a_code():
    faults, codes = [], set()
    for path in python_files():
        if path.name == "errors.py":
            continue
        for call in raised_errors(path):
            given = [k.value for k in call.keywords if k.arg == "code"]
            text = given[0].value if given and isinstance(given[0], ast.Constant) else None
            if given and text is None:
                continue  # Handed on, from another error.
            if text is None or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", text):
                faults.append(f"{path.relative_to(REPOSITORY)}:{call.lineno}: {text}")
            codes.add(text)
    assert not faults
    assert len(codes) > 20


def commands(group, words=()):
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*c, id=" ".join(c[0])) for c in commands(cli.main)]
)
def test_help_of_a_command_is_one_line_that_is_not_cut(words, command):
    short = command.get_short_help_str(66)
    assert short and not short.endswith("...")
    assert command.help.splitlines()[0].rstrip() == command.help.split("\n\n")[0].strip()
