"""Methods from outside: how they are loaded, what they may not do, and what if they fail."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
from conftest import REPOSITORY, invoke, refused
from PIL import Image

from dreambench.artifacts.failures import hide_folders
from dreambench.config.recipe import Recipe, list_recipes
from dreambench.errors import UserError
from dreambench.methods.plugins import ALL, find_recipe, find_recipes
from dreambench.methods.registry import describe_track, list_shipped
from dreambench.storage.files import read_json

# Its pictures are one colour each, so that a test takes a second; FAULT picks what goes wrong.
OWN = '''
import os, subprocess
from pathlib import Path
from PIL import Image
from dreambench.errors import UserError
from dreambench.methods import Method

FAULT, _, WHERE = os.environ.get("FAULT", "").partition(" ")


def fault(stage, subject):
    fault, _, where = os.environ.get("FAULT", "").partition(" ")
    if fault != stage or subject not in ("", "dog"):
        return ""
    if where.startswith("!"):
        raise {"!stop": KeyboardInterrupt, "!exit": SystemExit, "!user": UserError}[where]("now")
    return where


class Colours(Method):
    """One colour each"""

    tunes = True

    def __init__(self, settings, context):
        super().__init__(settings, context)
        if fault("constructor", ""):
            raise RuntimeError("no engine in /home/somebody/engines/v8.bin")

    def fit(self, subject, out_dir, *, seed):
        (out_dir / "colour.txt").write_text(str(seed % 255))
        match fault("fit", subject.name):
            case "raise":
                raise ValueError("cannot see the dog")
            case "":
                pass
            case path:
                if path.startswith("native:"):
                    subprocess.run(["cp", out_dir / "colour.txt", path[7:]], check=True)
                else:
                    Path(path).write_text("stray")

    def load(self, subject, out_dir):
        if fault("load", subject.name):
            raise KeyError("weights")
        self.subject = subject.name
        self.colour = int((out_dir / "colour.txt").read_text())
        return self

    def generate(self, prompts, seeds):
        side, mode, n = self.context.sampler.size_px, "RGB", len(prompts)
        match fault("generate", self.subject):
            case "raise":
                raise ValueError("out of colour")
            case "first":
                if "beach" in prompts[0]:
                    raise ValueError("no beach")
            case "number":
                n -= 1
            case "size":
                side -= 1
            case "mode":
                mode = "L"
            case "type":
                return [None] * n
        made = [Image.new("RGB", (side, side), (self.colour, s % 255, len(p)))
                for p, s in zip(prompts, seeds)]
        return [image.convert(mode) for image in made[:n]]
'''
N_IMAGES = 6  # Of each of two subjects: two prompts and the plain class, two images each.


@pytest.fixture
def own(tiny, tmp_path, shared_cache, monkeypatch):
    """A plug-in's file and the words of a command that runs it, without FAULT."""
    monkeypatch.delenv("FAULT", raising=False)
    path = tmp_path / "code" / "own.py"
    path.parent.mkdir()
    path.write_text(OWN)
    words = (
        "--protocol", tiny[0], "--out", tmp_path / "runs", "--cache", shared_cache,
        "--batch-size", 2,
    )  # fmt: skip
    return path, words


def run_own(own, *extra, status=0):
    path, words = own
    beside = () if "--beside" in extra else ("--beside", "")
    return invoke("run", "--method", f"{path}:Colours", *words, *beside, *extra, status=status)


def images_of(run_dir):
    return {p.relative_to(run_dir).as_posix() for p in run_dir.glob("images/*/*/*.png")}


def test_the_examples_method_runs_and_sees_the_subject(tiny, tmp_path, shared_cache):
    path = REPOSITORY / "examples" / "my_method.py"
    assert "dreambench run --method examples/my_method.py:MyMethod" in path.read_text()
    done = invoke(
        "run", "--method", f"{path}:MyMethod", "--protocol", tiny[0],
        "--out", tmp_path / "runs", "--cache", shared_cache, "--beside", "class-only",
    )  # fmt: skip
    assert "my-method" in done.stdout
    folder = tmp_path / "runs" / "tiny"
    found = {n: read_json(folder / n / "summary.json") for n in ("my-method", "class-only")}
    dino = {name: summary["metrics"]["dino"]["mean"] for name, summary in found.items()}
    assert dino["my-method"] > dino["class-only"] + 0.1
    assert found["my-method"]["partial"] is False
    assert found["my-method"]["track"] == "tuning-free, all photos"
    assert found["my-method"]["n_failed"] == 0
    recipe = read_json(folder / "my-method" / "run.json")["recipe"]
    assert recipe["method"] == "my_method.py:MyMethod"
    assert recipe["settings"] == {"strength": 0.8}
    assert recipe["title"].startswith("A photo under noise")
    assert recipe["code"]["file"] == "my_method.py"
    assert (
        "tuning-free, all photos: my-method"
        in (folder / "my-method" / "report" / "report.md").read_text()
    )


def test_manifest_has_the_codes_digest_and_no_path(own, tmp_path):
    run_own(own)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    for name in ("run.json", "summary.json"):
        text = (run_dir / name).read_text()
        assert str(tmp_path / "code") not in text
    assert len(read_json(run_dir / "run.json")["recipe"]["code"]["sha256"]) == 64
    first = find_recipe(f"{own[0]}:Colours")
    own[0].write_text(OWN + "\n# another remark\n")
    second = find_recipe(f"{own[0]}:Colours")
    assert first.digest("mini") != second.digest("mini")


def test_a_run_with_changed_code_is_not_gone_on_with(own, tmp_path):
    run_own(own)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    own[0].write_text(OWN.replace("seed % 255", "seed % 254"))
    line = refused("run", "--method", f"{own[0]}:Colours", *own[1], "--beside", "")
    assert "holds a run of something else" in line
    assert "recipe.code.sha256" in line
    (run_dir / "images" / "dog" / "beach" / "0.png").unlink()
    line = refused("generate", run_dir, "--method", f"{own[0]}:Colours")
    assert "own.py:Colours" in line


def test_numbers_are_read_without_the_code_and_images_made_with_it(own, tmp_path, shared_cache):
    run_own(own, "--beside", "copy-reference")
    folder = tmp_path / "runs" / "tiny"
    moved = own[0].rename(tmp_path / "own.py")
    cache = ("--cache", shared_cache)
    invoke("score", folder / "colours", *cache)
    invoke("aggregate", folder / "colours")
    assert "colours" in invoke("report", folder / "colours", folder / "copy-reference").stdout
    assert "colours" in invoke("compare", *sorted(folder.iterdir())).stdout
    lost = folder / "colours" / "images" / "dog" / "beach" / "0.png"
    before = lost.read_bytes()
    lost.unlink()
    line = refused("generate", folder / "colours", *cache)
    assert "the code of 'colours' (own.py:Colours) is not known here" in line
    assert "--method path/to/own.py:Colours" in line
    invoke("generate", folder / "colours", *cache, "--method", f"{moved}:Colours")
    assert lost.read_bytes() == before
    shutil.rmtree(folder / "colours" / "train")
    assert "is not known here" in refused("train", folder / "colours", *cache)
    invoke("train", folder / "colours", *cache, "--method", f"{moved}:Colours")


def test_a_recipe_names_the_file_from_where_it_lies(own, tmp_path, monkeypatch):
    own[0].write_text(
        OWN.replace("    tunes = True", "    class Settings(__import__('dreambench').methods."
                    "Settings):\n        depth: int\n    tunes = True")
        .replace("import os, subprocess", "import os, subprocess, dreambench.methods")
    )  # fmt: skip
    line = refused("run", "--method", f"{own[0]}:Colours", *own[1])
    assert "have no default for depth" in line
    assert "write a recipe" in line
    text = 'method = "code/own.py:Colours"\ntitle = "t"\nsource = "s"\n[mini]\ndepth = 3\n'
    (tmp_path / "deep.toml").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    invoke("run", "--method", tmp_path / "deep.toml", *own[1], "--beside", "")
    recipe = read_json(tmp_path / "runs" / "tiny" / "deep" / "run.json")["recipe"]
    assert (recipe["method"], recipe["settings"]) == ("own.py:Colours", {"depth": 3})
    (tmp_path / "deep.toml").write_text(text.replace("depth", "dept"))
    before = (tmp_path / "runs" / "tiny" / "deep" / "run.json").read_bytes()
    said = invoke("run", "--method", tmp_path / "deep.toml", *own[1], status=2).stderr
    assert f"{tmp_path / 'deep.toml'}:5: unknown key 'dept'; did you mean 'depth'?" in said
    assert "the method 'own.py:Colours' takes depth" in said
    assert (tmp_path / "runs" / "tiny" / "deep" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("code", "name", "complaint"),
    [
        (None, "Colours", "cannot read"),
        (OWN, "", "names no class; e.g. --method"),
        (OWN, "Colors", "has no class 'Colors'; did you mean 'Colours'?"),
        ("x = (", "X", "line 1: SyntaxError"),
        ("\n1 / 0", "X", "line 2 of own.py: ZeroDivisionError"),
        ("import beside_it", "X", "imports 'beside_it', which lies beside it"),
        ("X = 3", "X", "is no class; inherit from dreambench.methods.Method"),
        ("class X: pass", "X", "has no load(); inherit"),
        ("from dreambench.methods import Method\nclass X(Method): pass", "X", "has no load()"),
        (OWN.replace("tunes = True", "Settings = dict"), "Colours", "Settings"),
        (OWN.replace("tunes = True", "tunes = 'yes'"), "Colours", "does not say whether it tunes"),
        (OWN.replace("tunes = True", "n_references = -1"), "Colours", "n_references"),
        (OWN.replace("tunes = True", "name = 'a/b'"), "Colours", "cannot be called 'a/b'"),
        (OWN.replace("def fit", "def fitt"), "Colours", "says that it tunes and has no fit()"),
        (OWN.replace("tunes = True", "count_work = lambda *_: 1 / 0"), "Colours", "count_work()"),
    ],
)  # fmt: skip
def test_what_is_no_method_is_one_line(own, tmp_path, code, name, complaint):
    path, words = own
    (path.parent / "beside_it.py").write_text("")
    path.unlink()
    if code is not None:
        path.write_text(code)
    line = refused("run", "--method", f"{path}:{name}", *words)
    assert complaint in line
    assert not (tmp_path / "runs").exists()


FAULTS = [
    ("constructor raise", "RuntimeError: no engine in v8.bin", 2 * N_IMAGES),
    ("fit raise", "ValueError: cannot see the dog", N_IMAGES),
    ("load raise", "KeyError: 'weights'", N_IMAGES),
    ("generate raise", "ValueError: out of colour", N_IMAGES),
    ("generate first", "ValueError: no beach", 2),
    ("generate number", "ImagesError: generate() made 1 images for 2 prompts", N_IMAGES),
    ("generate size", "an image of 63 x 63 pixels, not 64 x 64", N_IMAGES),
    ("generate mode", "an image of mode L, not RGB", N_IMAGES),
    ("generate type", "a NoneType and no PIL image", N_IMAGES),
]


@pytest.mark.parametrize(("fault", "reason", "n_failed"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_failure_is_counted_and_the_rest_goes_on(
    own, tmp_path, monkeypatch, fault, reason, n_failed
):
    stage = fault.split()[0]
    monkeypatch.setenv("FAULT", fault)
    beside = ("--beside", "copy-reference") if fault.endswith("raise") else ()
    done = run_own(own, *beside, status=1)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    subject = "colours" if stage == "constructor" else "colours, dog"
    said = [line for line in done.stderr.splitlines() if line.startswith(f"dreambench: {subject}")]
    assert f"{stage} failed: " in said[0]
    assert reason in said[0]
    assert str(run_dir / "failures") in done.stderr.splitlines()[-1]
    n_methods = 2 if beside else 1
    assert f"{n_failed} images of 1 of {n_methods} methods" in done.stderr.splitlines()[-1]
    name = stage if stage == "constructor" else f"{stage}-dog"
    assert "Traceback" in (run_dir / "failures" / f"{name}.txt").read_text()
    if beside:
        other = read_json(tmp_path / "runs" / "tiny" / "copy-reference" / "summary.json")
        assert (other["partial"], other["n_failed"]) == (False, 0)
    assert len(images_of(run_dir)) == 2 * N_IMAGES - n_failed
    status = json.loads(invoke("status", run_dir, "--json").stdout)
    assert status["images"] == f"{2 * N_IMAGES - n_failed} of {2 * N_IMAGES}"
    assert any(reason in line for line in status["failed"])
    if stage == "constructor":
        assert not (run_dir / "summary.json").exists()
    else:
        summary = read_json(run_dir / "summary.json")
        assert summary["partial"] is True
        assert summary["n_failed"] == n_failed
        (row,) = summary["failures"][stage]
        assert row["subjects"] == ["dog"]
        assert reason in f"{row['error']}: {row['message']}"
        assert str(tmp_path) not in (run_dir / "summary.json").read_text()
        assert reason in (run_dir / "report" / "report.md").read_text()
        assert reason in done.stdout
    # The same command tries what failed, and only that.
    made = {p: (run_dir / p).stat().st_mtime_ns for p in images_of(run_dir)}
    monkeypatch.delenv("FAULT")
    run_own(own)
    assert len(images_of(run_dir)) == 2 * N_IMAGES
    assert {p: (run_dir / p).stat().st_mtime_ns for p in made} == made
    summary = read_json(run_dir / "summary.json")
    assert (summary["partial"], summary["n_failed"], summary["failures"]) == (False, 0, {})
    assert "failed" not in json.loads(invoke("status", run_dir, "--json").stdout)


def test_batches_that_fail_alike_leave_the_subject(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "generate raise")
    done = run_own(own, "--batch-size", 1, status=1)
    assert done.stderr.count("generate failed: ValueError: out of colour") == 3
    assert "generate not tried for the rest of dog" in done.stderr
    summary = read_json(tmp_path / "runs" / "tiny" / "colours" / "summary.json")
    counts = {row["error"]: row["n_images"] for row in summary["failures"]["generate"]}
    assert counts == {"ValueError": 3, "not tried": N_IMAGES - 3}
    assert summary["n_failed"] == N_IMAGES


def test_a_users_error_in_the_same_words_ends_the_method(own, tmp_path, monkeypatch):
    protocol = own[1][1]
    protocol.write_text(protocol.read_text().replace('["dog", "mug"]', '["dog", "mug", "teapot"]'))
    own[0].write_text(OWN.replace('("", "dog")', '("", "dog", "mug", "teapot")'))
    monkeypatch.setenv("FAULT", "fit !user")
    done = run_own(own, status=1)
    assert done.stderr.count("fit failed: now") == 2
    assert "fit not tried for the rest of teapot: now" in done.stderr
    assert f"{3 * N_IMAGES} images of 1 of 1 methods" in done.stderr


@pytest.mark.parametrize(("fault", "status"), [("!stop", 130), ("!exit", 1)])
@pytest.mark.parametrize("stage", ["constructor", "fit", "load", "generate"])
def test_a_stop_is_not_swallowed(own, tmp_path, monkeypatch, stage, fault, status):
    monkeypatch.setenv("FAULT", f"{stage} {fault}")
    done = run_own(own, status=status)
    assert "failed" not in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "colours" / "summary.json").exists()


def test_what_a_user_has_to_mend_is_one_line_for_a_method_alone(own, monkeypatch):
    monkeypatch.setenv("FAULT", "constructor !user")
    path, words = own
    done = invoke("run", "--method", f"{path}:Colours", *words, "--beside", "", status=2)
    assert done.stderr.splitlines()[-1] == "dreambench: now"
    done = run_own(own, "--beside", "copy-reference", status=1)
    assert "copy-reference" in done.stdout


def test_what_it_writes_into_the_run_folder_is_refused(own, tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    monkeypatch.setenv("FAULT", f"fit {run_dir / 'scores.parquet'}")
    done = run_own(own, status=1)
    assert "fit failed: WriteOutsideError: wrote outside of its folder: scores.parquet" in (
        done.stderr
    )
    assert len(images_of(run_dir)) == N_IMAGES


def test_writes_of_other_programs_into_the_run_folder_are_found(own, tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    stray = run_dir / "images" / "dog" / "beach" / "0.png"
    stray.parent.mkdir(parents=True)
    monkeypatch.setenv("FAULT", f"fit native:{stray}")
    path, words = own
    assert "holds no run" in refused("run", "--method", f"{path}:Colours", *words, "--beside", "")
    shutil.rmtree(run_dir)
    monkeypatch.setenv("FAULT", "constructor raise")
    run_own(own, status=1)
    stray.parent.mkdir(parents=True)
    monkeypatch.setenv("FAULT", f"fit native:{stray}")
    done = run_own(own, status=1)
    assert "wrote outside of its folder: images/dog/beach/0.png" in done.stderr
    assert not stray.exists()
    monkeypatch.delenv("FAULT")
    run_own(own)
    with Image.open(stray) as image:
        assert image.size == (64, 64)


def test_an_entry_point_is_a_method_by_name(own, tmp_path, monkeypatch):
    site = tmp_path / "site"
    about = site / "colourful-1.2.dist-info"
    about.mkdir(parents=True)
    (site / "colourful").mkdir()
    (site / "colourful" / "__init__.py").write_text("")
    (site / "colourful" / "inner.py").write_text(OWN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: colourful\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[dreambench.methods]\nown-colours = colourful.inner:Colours\nbroken = colourful.no:X\n"
    )
    monkeypatch.syspath_prepend(site)
    rows = {row["name"]: row for row in json.loads(invoke("list", "methods", "--json").stdout)}
    assert rows["own-colours"]["track"] == "tuned, all photos"
    assert "colourful 1.2" in rows["own-colours"]["source"]
    assert "cannot be loaded" in rows["broken"]["title"]
    assert "ModuleNotFoundError" in refused("run", "--method", "broken", *own[1])
    line = refused("run", "--method", "own-colors", *own[1])
    assert "did you mean 'own-colours'" in line
    words = ("run", "--method", "own-colours", *own[1], "--beside", "")
    invoke(*words)
    run_dir = tmp_path / "runs" / "tiny" / "own-colours"
    code = read_json(run_dir / "run.json")["recipe"]["code"]
    assert (code["distribution"], code["version"]) == ("colourful", "1.2")
    (run_dir / "images" / "dog" / "beach" / "0.png").unlink()
    invoke("generate", run_dir)  # It is found again by its name.
    (site / "colourful" / "__init__.py").write_text("# other code\n")
    assert "holds a run of something else: recipe.code.sha256" in refused(*words)
    sys.modules.pop("colourful.inner", None)
    sys.modules.pop("colourful", None)


def test_all_stands_for_one_of_each_method_with_dreambooth_first():
    recipes, skipped = find_recipes([ALL, "class-only"], "mini")
    names = [recipe.name for recipe in recipes]
    assert names == [name for name in list_shipped() if name in list_recipes()]
    assert (names[0], names[-1]) == ("dreambooth", "real-images")
    assert skipped == []
    recipes, skipped = find_recipes(["dreambooth-no-prior", ALL], "sd99")
    assert [recipe.name for recipe in recipes] == ["dreambooth-no-prior"]
    assert skipped == names


def test_several_methods_are_rows_of_one_table(own, tmp_path):
    path, words = own
    done = invoke("run", "--method", f"copy-reference,{path}:Colours", *words, "--beside", "")
    for name in ("copy-reference", "colours"):
        assert name in done.stdout
    assert "method 1 of 2: copy-reference" in done.stderr
    assert "method 2 of 2: colours" in done.stderr
    assert (tmp_path / "runs" / "tiny" / "copy-reference" / "report" / "report.md").is_file()
    done = invoke("plan", "--method", f"all,{path}:Colours", *words[:2], "--json")
    names = [row["method"] for row in json.loads(done.stdout)]
    assert names[0] == "dreambooth"
    assert names[-1] == "colours"


def test_a_mistake_in_the_last_method_shows_before_the_first_is_begun(own, tiny, tmp_path):
    text = tiny[1].read_text()
    tiny[1].write_text(text.replace("n_steps = 6", "n_steps = 0"))
    line = refused("run", "--method", f"copy-reference,{tiny[1]}", *own[1], "--beside", "")
    assert "n_steps" in line
    own[0].write_text(OWN.replace("Colours", "CopyReference"))
    words = ("--method", f"{own[0]}:CopyReference", *own[1])
    assert "two methods are called 'copy-reference'" in refused("run", *words)
    assert not (tmp_path / "runs").exists()


def test_list_methods_says_track_and_trained_parameters():
    rows = {row["name"]: row for row in json.loads(invoke("list", "methods", "--json").stdout)}
    assert set(list_recipes()) <= set(rows)
    assert rows["dreambooth"]["trained_parameters"] == 9_310_568
    assert rows["dreambooth"]["track"] == "tuned, all photos"
    assert rows["dreambooth-1-photo"]["track"] == "tuned, 1 photo"
    assert rows["class-only"]["track"] == "no photos"
    assert rows["real-images"]["track"] == "oracle"
    assert rows["copy-reference"]["track"] == "tuning-free, all photos"
    assert "sdxl" in rows["dreambooth"]["base_models"]
    large = json.loads(invoke("list", "methods", "--base-model", "sd15", "--json").stdout)
    assert {row["name"]: row for row in large}["dreambooth"]["trained_parameters"] == 859_520_964
    text = invoke("list", "methods").stdout
    for word in ("dreambooth", "tuned, all photos", "9,310,568", "sdxl"):
        assert word in text


def test_track_counts_the_photos_that_a_recipe_lets_through():
    recipe = Recipe(
        name="x", method="copy-reference", title="t", source="s", tables={"mini": {"n_photos": 2}}
    )
    assert describe_track(recipe, "mini") == "tuning-free, 2 photos"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file /home/me/work/x.png here", "no file x.png here"),
        ("'/a/b/c'", "'c'"),
        ("3/4 of n/a, and/or https://hub.org/a/b", "3/4 of n/a, and/or https://hub.org/a/b"),
        ("two\nlines", "two lines"),
    ],
)
def test_messages_keep_names_of_files_and_no_folders(text, shown):
    assert hide_folders(text) == shown


def test_a_file_is_executed_as_its_digest_says_and_leaves_no_compiled_code(own):
    recipe = find_recipe(f"{own[0]}:Colours")
    own[0].write_text(OWN.replace("One colour each", "Two colours each"))
    assert find_recipe(f"{own[0]}:Colours").title == "Two colours each"
    assert recipe.title == "One colour each"
    assert [path.name for path in own[0].parent.iterdir()] == ["own.py"]
    with pytest.raises(UserError, match="no class 'Nothing'"):
        find_recipe(f"{own[0]}:Nothing")


def test_the_command_line_ends_with_one_when_something_failed(own, tmp_path):
    words = ["run", "--method", f"{own[0]}:Colours", *own[1], "--beside", ""]
    code = textwrap.dedent("""
        import os, sys
        os.environ["FAULT"] = "fit raise"
        from dreambench.cli import main
        main(sys.argv[1:])
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dreambench: 6 images of 1 of 1 methods")
