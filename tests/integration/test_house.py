"""The house's own rules: the order of imports, a fast start, a wheel that stands alone."""

import ast
import itertools
import os
import re
import subprocess
import sys
import time
import tomllib

import pytest
from conftest import REPOSITORY, TINY_PROTOCOL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# A module imports only from modules above it in this list (README, the tree).
ORDER = [
    "errors", "progress", "files", "cache", "subjects", "archives", "downloads", "fetch",
    "toml_files", "protocol", "recipe", "plan", "entry", "layouts", "base_models", "failures",
    "run", "weights", "encoders", "methods", "plugins", "estimate", "speeds", "guard", "train",
    "generate", "segment", "embed", "readers",
    "own_subjects", "classify", "export", "oracles", "golden", "doctor", "metrics", "measures",
    "conventions", "scoring", "stats", "beside", "compare", "report", "paper", "plots", "job",
    "brought", "mini", "cli",
]  # fmt: skip


def imports_of(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreambench."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("dreambench."):
                    yield alias.name.split(".")[1]


def test_modules_import_only_from_modules_above_them():
    package = REPOSITORY / "dreambench"
    seen, faults = set(), []
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").parts[0]
        if module == "__init__":
            continue
        seen.add(module)
        for used in imports_of(path):
            if ORDER.index(used) > ORDER.index(module):
                faults.append(f"{path.relative_to(REPOSITORY)} imports {used}")
    assert not faults
    assert seen == set(ORDER)


def test_readme_tree_names_every_module():
    readme = (REPOSITORY / "README.md").read_text()
    for module in ORDER:
        name = module if (REPOSITORY / "dreambench" / module).is_dir() else f"{module}.py"
        assert name in readme, f"{name} is not in the README's tree"


def test_ci_calls_the_test_command_of_the_readme():
    readme = (REPOSITORY / "README.md").read_text()
    line = next(line for line in readme.splitlines() if line.endswith("# the tests"))
    command = line.removesuffix("# the tests").strip()
    assert command == 'pip install -c constraints.txt -e ".[test]" && pytest'
    quiet = command.replace("install", "install -q")
    assert quiet in (REPOSITORY / ".ci" / "run").read_text()


def test_constraints_pin_every_package_that_pyproject_asks_for():
    pins = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
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
    assert len(asked) > 30 and not faults


def test_files_that_the_readme_points_to_are_there():
    readme = (REPOSITORY / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert len(targets) >= 4
    missing = [target for target in targets if not (REPOSITORY / target).exists()]
    assert not missing


@pytest.mark.parametrize("words", ["ruff check .", "ruff format --check .", "mypy"])
def test_code_keeps_the_settings_of_pyproject(words):
    done = subprocess.run(
        [sys.executable, "-m", *words.split()], capture_output=True, text=True, cwd=REPOSITORY,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_imports_no_torch_and_is_fast():
    code = (
        "import sys, dreambench.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    times = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        times.append(time.monotonic() - started)
        assert done.returncode == 0, done.stderr
        assert "dreambench run --method dreambooth" in done.stdout
    assert min(times) < 0.5


def test_wheel_works_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    done = subprocess.run([*build, REPOSITORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(target), "DREAMBENCH_CACHE": str(tmp_path / "c")}

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "dreambench.cli", *words],
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import dreambench; print(dreambench.__file__)"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(target))
    listed = call("list")
    assert "dreambooth" in listed
    assert "mini" in listed
    # One image for one prompt and one of the plain class: two images.
    protocol = TINY_PROTOCOL.split("[[prompts]]")
    text = protocol[0] + "[[prompts]]" + protocol[1]
    text = text.replace('["dog", "mug"]', '["mug"]').replace("per_prompt = 2", "per_prompt = 1")
    (tmp_path / "two.toml").write_text(text.replace("n_images = 2", "n_images = 1"))
    printed = call("run", "--protocol", "two.toml", "--method", "class-only", "--beside", "")
    assert "CLIP-T|v1|" in printed
    assert len(list(tmp_path.glob("runs/two/class-only/images/*/*/*.png"))) == 2
