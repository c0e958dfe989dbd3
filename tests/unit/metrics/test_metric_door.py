"""A metric from outside: what is refused, what it is known by, and what is made of its numbers."""

import hashlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPOSITORY, TINY_PROTOCOL

from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.plan import make_plan
from dreambench.config.protocol import load_protocol
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.metrics.base import LAST
from dreambench.metrics.registry import (
    GROUP,
    check_metrics,
    choose_metrics,
    find_metric,
    list_metric_names,
    load_own_metrics,
)
from dreambench.scoring.features import Extracted
from dreambench.scoring.scores import compute_scores
from dreambench.scoring.tools import Tools, choose_scored_metrics

EXAMPLE = REPOSITORY / "examples" / "my_metric.py"
SHARP = """
import numpy as np
from dreambench import Metric


class Sharp(Metric):
    name, title, inputs = "sharp", "Sharpness", ("dino",)
    bounds = (-1.0, 1.0)

    def compute(self, seen):
        return seen.images["dino"][:, 0]
"""
COMPUTE = 'return seen.images["dino"][:, 0]'


@pytest.fixture
def write(tmp_path):
    """Write SHARP with one piece changed and return how the command line names it."""

    def call(old="", new=""):
        assert old in SHARP
        path = tmp_path / "sharp.py"
        path.write_text(SHARP.replace(old, new, 1) if old else SHARP)
        return f"{path}:Sharp"

    return call


@pytest.fixture
def protocol(tmp_path):
    """The tiny protocol, which lists the paper's five."""
    (tmp_path / "tiny.toml").write_text(TINY_PROTOCOL)
    return load_protocol(str(tmp_path / "tiny.toml"))


def test_the_example_is_the_greatest_cosine_with_a_photo():
    chosen = find_metric(f"{EXAMPLE}:NearestPhoto")
    metric = chosen.metric
    assert (metric.name, metric.inputs, metric.bounds) == ("nearest-photo", ("dino",), (-1, 1))
    assert chosen.code == {
        "file": "my_metric.py", "class": "NearestPhoto",
        "sha256": hashlib.sha256(EXAMPLE.read_bytes()).hexdigest(),
    }  # fmt: skip
    seen = SimpleNamespace(
        images={"dino": np.array([[1, 0], [0.6, 0.8]], np.float32)},
        photos={"dino": np.array([[0, 1], [0.8, 0.6]], np.float32)},
    )
    assert metric.compute(seen) == pytest.approx([0.8, 0.96])


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("class Sharp(Metric):", "class Sharp:", ["not a Metric"]),
        ("class Sharp(Metric):", "class Other(Metric):\n    pass\nSharp = 3\nclass X(Metric):",
         ["not a Metric"]),
        ('name, title, inputs = "sharp", "Sharpness", ("dino",)',
         'title, inputs = "Sharpness", ("dino",)', ["name"]),
        ('name, title, inputs = "sharp", "Sharpness", ("dino",)',
         'name, title = "sharp", "Sharpness"', ["inputs"]),
        ("def compute", "def calculate", ["compute"]),
        ('"sharp"', '"Sharp"', ["'Sharp'"]),
        ('"sharp"', '"my metric"', ["'my metric'"]),
        ('"sharp"', '"sharp-"', ["'sharp-'"]),
        ('"sharp"', "3", ["3"]),
        ('("dino",)', '"dino"', ["inputs"]),
        ('("dino",)', "(3,)", ["inputs"]),
        ('("dino",)', "3", ["inputs"]),
        ("(-1.0, 1.0)", "1.0", ["bounds"]),
        ("(-1.0, 1.0)", "(1.0, -1.0)", ["bounds"]),
        ("(-1.0, 1.0)", "(-1.0, None)", ["bounds"]),
        ("bounds =", "unit = 'pixel'\n    bounds =", ["unit", "'pixel'"]),
        ("bounds =", "prompts = 'some'\n    bounds =", ["prompts", "'some'"]),
        ("bounds =", "version = 'new'\n    bounds =", ["version", "'new'"]),
    ],
)  # fmt: skip
def test_what_is_not_a_metric_is_refused(write, old, new, facts):
    reference = write(old, new)
    with pytest.raises(UserError) as caught:
        find_metric(reference)
    assert caught.value.code == "invalid-plugin"
    assert "sharp.py:Sharp" in caught.value.problem
    assert all(fact in caught.value.problem for fact in facts)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("nowhere.py:Sharp", "unreadable-file"), ("sharp.py", "missing-class"),
        ("sharp.py:Shrap", "missing-class"), ("dimo", "unknown-name"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(write, tmp_path, monkeypatch, reference, code):
    write()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        find_metric(reference)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import numpy", "1 / 0\nimport numpy"), ("import numpy as np", "import no_such_thing"),
        ("    bounds", "    def __init__(self):\n        1 / 0\n    bounds"),
    ],
)  # fmt: skip
def test_code_that_fails_is_one_line(write, old, new):
    with pytest.raises(UserError) as caught:
        find_metric(write(old, new))
    assert caught.value.code == "plugin-fails"
    assert "sharp.py" in caught.value.problem


@pytest.mark.parametrize("taken", ["dino", "joint"])
def test_a_name_that_is_taken_is_refused(write, protocol, taken):
    with pytest.raises(UserError) as caught:
        choose_metrics(protocol, [write('"sharp"', f'"{taken}"')])
    assert caught.value.code == "name-taken"
    assert f"'{taken}'" in caught.value.problem


def test_a_metric_named_twice_is_refused(write, protocol):
    with pytest.raises(UserError) as caught:
        choose_metrics(protocol, [write(), write()])
    assert caught.value.code == "name-taken"


def test_extra_metrics_come_last_and_are_marked(write, protocol):
    chosen = choose_metrics(protocol, [write(), "joint"])
    names = [one.metric.name for one in chosen]
    own = [name for name, metric in load_own_metrics().items() if metric.takes != "two"]
    assert names == [*own, "sharp"]
    assert [one.metric.name for one in chosen if one.is_extra] == ["joint", "sharp"]
    assert chosen[-1].metric.place == LAST
    assert [one.metric.name for one in chosen if one.code] == ["sharp"]


def test_signature_holds_the_digest_of_the_code(write):
    identities = {"dino": "D@1"}
    infos = []
    for new in (COMPUTE, f"{COMPUTE} * 1.0"):
        chosen = find_metric(write(COMPUTE, new))
        infos.append(chosen.metric.describe(identities, code=chosen.code))
        digest = hashlib.sha256(SHARP.replace(COMPUTE, new).encode()).hexdigest()
        signature = f"Sharpness|v1|code:{digest[:16]}|D@1|mean:images>subject"
        assert infos[-1].signature == signature
        assert infos[-1].code["sha256"] == digest
    assert infos[0].signature != infos[1].signature


# Numbers of a metric from outside.

ROWS = {"a": 0.5, "b": -0.25, "c": 1.0, "d": 0.0}


@pytest.fixture
def score(protocol, tmp_path, write):
    """Score four images of one subject by SHARP with one piece changed."""
    subject = Subject("dog", "dog", "live", (tmp_path / "photo",), ("",))
    small = protocol.model_copy(update={"metrics": ("dino",)})
    plan = make_plan(small, [subject], batch_size=4)
    paths = dict(zip(plan.images, (tmp_path / name for name in ROWS), strict=True))
    images = ImageSet(
        folder=tmp_path, protocol=small, subjects=[subject], plan=plan, files=paths,
        manifest=SimpleNamespace(not_measured={}),
    )  # fmt: skip
    rows = {path: np.array([ROWS[path.name], 0], np.float32) for path in paths.values()}
    rows[tmp_path / "photo"] = np.array([1, 0], np.float32)
    texts = {prompt.text.format(subject="dog"): np.ones(2) for prompt in small.prompts}
    found = Extracted({"dino": rows}, {}, {"clip": texts})

    def call(old="", new=""):
        chosen = choose_scored_metrics(small, [write(old, new)])
        assert chosen[-1].is_extra
        tools = Tools(chosen[-1:], {"dino": SimpleNamespace(identity="D@1")}, None, "no mask")
        table = compute_scores(images, found, tools)
        (info,) = table.metrics
        return table.frame, info

    return call


def test_numbers_are_rows_of_the_scores(score):
    rows, info = score()
    assert rows["value"].tolist() == list(ROWS.values())
    assert rows["prompt_id"].tolist() == ["beach", "beach", "red", "red"]
    assert rows["k"].tolist() == [0, 1, 0, 1]
    assert set(rows["n_pairs"]) == {1}
    assert (info.listed, info.n_expected) == (True, 4)
    assert "code:" in info.signature


def test_what_is_not_defined_has_no_row(score):
    rows, info = score(COMPUTE, "return np.array([0.5, np.nan, 1.0, np.nan])")
    assert rows["value"].tolist() == [0.5, 1.0]
    assert rows["prompt_id"].tolist() == ["beach", "red"]
    assert info.n_expected == 4


def test_a_number_a_prompt_has_no_image_number(score):
    rows, info = score(COMPUTE, "return np.array([0.5, 1.0])\n    unit = 'prompt'")
    assert rows["value"].tolist() == [0.5, 1.0]
    assert set(rows["k"]) == {-1}
    assert info.n_expected == 2


def test_rounding_does_not_leave_the_bounds(score):
    rows, _ = score(COMPUTE, "return np.full(4, 1 + 1e-7)")
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("new", "code", "facts"),
    [
        ("return np.zeros(3)", "invalid-plugin-output", ["(3,)", "4"]),
        ("return np.zeros((4, 1))", "invalid-plugin-output", ["(4, 1)"]),
        ("return 0.5", "invalid-plugin-output", ["()"]),
        ("return np.full(4, 1.5)", "invalid-plugin-output", ["1.5", "-1 to 1"]),
        ("return np.array([0, -2, 0, 0])", "invalid-plugin-output", ["-2"]),
        ("return np.full(4, np.inf)", "invalid-plugin-output", ["inf"]),
        ("return ['high'] * 4", "plugin-fails", ["ValueError"]),
        ("return seen.images['clip'][:, 0]", "plugin-fails", ["KeyError", "line 11 of sharp.py"]),
        ("raise RuntimeError('no engine')", "plugin-fails", ["RuntimeError", "no engine"]),
    ],
)  # fmt: skip
def test_other_numbers_are_refused(score, new, code, facts):
    with pytest.raises(UserError) as caught:
        score(COMPUTE, new)
    assert caught.value.code == code
    assert "'sharp'" in caught.value.problem
    assert all(fact in caught.value.problem for fact in facts)


@pytest.mark.parametrize("name", ["count_pairs", "n_expected"])
@pytest.mark.parametrize("result", ["1 / 0", "[1, 2]", "'many'", "-1", "None"])
def test_counts_that_are_wrong_are_refused(score, name, result):
    with pytest.raises(UserError) as caught:
        score(COMPUTE, f"{COMPUTE}\n    def {name}(self, one):\n        return {result}")
    fails = result == "1 / 0"
    assert caught.value.code == ("plugin-fails" if fails else "invalid-plugin-output")
    assert f"{name}()" in caught.value.problem and "'sharp'" in caught.value.problem


# Entry points.


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with SHARP under entry points of these names."""

    def call(*lines, package="sharpened"):
        site = tmp_path / package
        about = site / f"{package}-1.2.dist-info"
        about.mkdir(parents=True)
        (site / f"{package}.py").write_text(SHARP)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (about / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
        monkeypatch.syspath_prepend(site)

    yield call
    for name in ("sharpened", "blunted"):
        sys.modules.pop(name, None)


def test_a_protocol_may_name_an_installed_metric(install, protocol):
    listing = protocol.model_copy(update={"metrics": ("dino", "sharp")})
    with pytest.raises(UserError) as caught:
        check_metrics(listing)
    assert caught.value.code == "unknown-name" and "'sharp'" in caught.value.problem
    install("sharp = sharpened:Sharp")
    assert "sharp" in list_metric_names()
    check_metrics(listing)
    assert "sharpened" not in sys.modules  # A name alone runs no code.
    chosen = {one.metric.name: one for one in choose_scored_metrics(listing)}
    code = chosen["sharp"].code
    assert (code["distribution"], code["version"]) == ("sharpened", "1.2")
    assert code["class"] == "sharpened:Sharp"
    assert code["sha256"] == hashlib.sha256(SHARP.encode()).hexdigest()
    assert not chosen["sharp"].is_extra


def test_an_installed_metric_is_an_extra_by_its_name(install, protocol):
    install("sharp = sharpened:Sharp")
    last = choose_metrics(protocol, ["sharp"])[-1]
    assert (last.metric.name, last.is_extra) == ("sharp", True)


@pytest.mark.parametrize(
    ("lines", "name", "code"),
    [
        (["sharp = sharpened:Nothing"], "sharp", "plugin-fails"),
        (["sharp = no_such_module:Sharp"], "sharp", "plugin-fails"),
        (["sharp = sharpened:np"], "sharp", "invalid-plugin"),
        # Its numbers would stand under another name than the protocol's.
        (["other = sharpened:Sharp"], "other", "invalid-plugin"),
        (["sharp = sharpened:Sharp"], "shrap", "unknown-name"),
    ],
)  # fmt: skip
def test_an_installed_metric_that_is_none_is_refused(install, lines, name, code):
    install(*lines)
    with pytest.raises(UserError) as caught:
        find_metric(name)
    assert caught.value.code == code
    assert f"'{name}'" in caught.value.problem


def test_two_packages_of_one_name_are_refused(install):
    install("sharp = sharpened:Sharp")
    install("sharp = blunted:Sharp", package="blunted")
    with pytest.raises(UserError) as caught:
        find_metric("sharp")
    assert caught.value.code == "name-taken"
    assert "'sharp'" in caught.value.problem


def test_an_installed_metric_does_not_replace_one_of_the_package(install):
    install("dino = sharpened:Sharp")
    assert find_metric("dino").metric is load_own_metrics()["dino"]
    assert list_metric_names().count("dino") == 1


def test_no_file_is_executed_because_a_protocol_names_it(write, tmp_path):
    reference = write("import numpy", "1 / 0\nimport numpy")
    (tmp_path / "own.toml").write_text(TINY_PROTOCOL.replace('"dino", ', f'"{reference}", '))
    with pytest.raises(UserError) as caught:
        check_metrics(load_protocol(str(tmp_path / "own.toml")))
    assert caught.value.code != "plugin-fails"
    assert "own.toml" in str(caught.value)
