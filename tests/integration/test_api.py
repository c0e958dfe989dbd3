"""The Python interface: what each verb gives back, and how it shows itself in a notebook."""

import html
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_PROTOCOL, tree
from external_images import draw_images

import dreambench
from dreambench.api import MEAN_COLUMNS
from dreambench.artifacts.results import COLUMNS
from dreambench.errors import UserError
from dreambench.metrics.registry import load_own_metrics
from dreambench.report.formatting import format_interval
from dreambench.storage.files import read_json

PAPER = ["dino", "clip-i", "clip-t", "div", "pres"]
OF_ONE = [name for name, metric in load_own_metrics().items() if metric.takes != "two"]


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """The path of the tiny protocol."""
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(TINY_PROTOCOL)
    return str(path)


@pytest.fixture(scope="module")
def found(protocol, tmp_path_factory, shared_cache):
    """A run of two methods that take no time, in this process."""
    return dreambench.run(
        "copy-reference", protocol=protocol, alongside=["real-images"], device="cpu",
        out=tmp_path_factory.mktemp("runs"), cache=shared_cache,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(protocol, tmp_path_factory, shared_cache):
    """External images, each another noise, with a folder of a strange name among them."""
    folder = draw_images(tmp_path_factory.mktemp("external") / "images")
    (folder / "<b>cat & dog" / "red").mkdir(parents=True)
    image = (folder / "dog" / "red" / "0.png").read_bytes()
    (folder / "<b>cat & dog" / "red" / "0.png").write_bytes(image)
    return dreambench.score(
        folder, protocol=protocol, name="noise", device="cpu", cache=shared_cache,
        out=tmp_path_factory.mktemp("scores"), conventions=["paper"],
    )  # fmt: skip


def test_a_run_is_what_lies_in_its_folder(found):
    assert isinstance(found, dreambench.Result)
    assert found.name == "copy-reference"
    assert found.folder.parts[-2:] == ("tiny", "copy-reference")
    assert [other.name for other in found.alongside] == ["real-images"]
    assert found.alongside[0].folder == found.folder.parent / "real-images"
    stored = pd.read_parquet(found.folder / "scores.parquet")
    pd.testing.assert_frame_equal(found.scores, stored, check_exact=True)
    assert list(found.scores.columns) == COLUMNS
    assert found.summary.model_dump(mode="json") == read_json(found.folder / "summary.json")
    manifest = read_json(found.folder / "run.json")
    assert found.manifest.model_dump(mode="json", exclude_none=True) == manifest
    assert found.folder / "report" / "report.md" in found.paths
    assert all(path.is_file() for path in found.paths)
    assert found.conventions is None
    assert (len(found.failures), len(found.problems)) == (0, 0)


def test_means_are_a_row_a_metric(found):
    means = found.means
    assert list(means.columns) == MEAN_COLUMNS == [
        "metric", "title", "prompts", "listed", "mean", "low", "high", "n_subjects", "n_scored",
        "n_expected", "signature",
    ]  # fmt: skip
    measured = [name for name in OF_ONE if name != "dino-held-out"]
    assert list(means["metric"]) == measured
    assert means[means["listed"]]["metric"].tolist() == PAPER
    assert means[["mean", "low", "high"]].dtypes.eq(float).all()
    stored = read_json(found.folder / "summary.json")["metrics"]
    for row in means.itertuples():
        entry = stored[row.metric]
        numbers = [entry["whole"][key] for key in ("mean", "low", "high")]
        # What the JSON has as null, where there is no interval, is NaN in a frame.
        np.testing.assert_array_equal([row.mean, row.low, row.high], np.array(numbers, float))
        assert (row.n_subjects, row.n_scored, row.n_expected) == (
            entry["whole"]["n_subjects"], entry["n_scored"], entry["n_expected"]
        )  # fmt: skip
        assert (row.title, row.signature) == (entry["info"]["title"], entry["info"]["signature"])
        assert row.prompts == ("all" if row.metric in PAPER else "not-property")


def test_property_prompts_have_means_of_their_own(found):
    apart = found.property_means
    assert list(apart.columns) == MEAN_COLUMNS
    # PRES has no property prompts.
    assert set(OF_ONE) - set(apart["metric"]) == {"pres", "dino-held-out"}
    assert set(apart["prompts"]) == {"property"}
    rows = found.scores[(found.scores["metric"] == "dino") & (found.scores["family"] == "property")]
    mean = rows.groupby("subject")["value"].mean().mean()
    assert apart.set_index("metric").loc["dino", "mean"] == pytest.approx(mean, abs=1e-12)


def test_means_by_subject_have_the_mean(found):
    by_subject = found.by_subject
    assert set(by_subject.columns) == {"metric", "subject", "value"}
    dino = by_subject[by_subject["metric"] == "dino"]
    assert set(dino["subject"]) == {"dog", "mug"}
    mean = found.means.set_index("metric").loc["dino", "mean"]
    assert dino["value"].mean() == pytest.approx(mean, abs=1e-12)


def test_a_run_is_loaded_again_as_it_was_and_nothing_is_written(found):
    before = tree(found.folder)
    again = dreambench.load_run(str(found.folder))
    assert tree(found.folder) == before
    assert (again.name, again.folder) == (found.name, found.folder)
    pd.testing.assert_frame_equal(again.scores, found.scores, check_exact=True)
    pd.testing.assert_frame_equal(again.means, found.means, check_exact=True)
    assert again.summary == found.summary
    assert again.manifest == found.manifest
    assert (again.alongside, again.paths, again.conventions) == ((), (), None)


def test_external_images_are_scored_and_loaded_again(drawn):
    assert drawn.name == "noise"
    assert drawn.folder.parts[-2:] == ("tiny", "noise")
    assert list(drawn.problems.columns) == ["kind", "name", "n_images", "detail"]
    (problem,) = drawn.problems.itertuples()
    assert (problem.kind, problem.name, problem.n_images) == ("unknown", "<b>cat & dog", 1)
    assert set(drawn.conventions["convention"]) == {"paper"}
    stored = pd.read_parquet(drawn.folder / "scores.parquet")
    pd.testing.assert_frame_equal(drawn.scores, stored, check_exact=True)
    again = dreambench.load_run(drawn.folder)
    pd.testing.assert_frame_equal(again.means, drawn.means, check_exact=True)
    pd.testing.assert_frame_equal(again.problems, drawn.problems)


def test_a_notebook_shows_the_table_with_its_numbers(found):
    shown = found._repr_html_()
    assert shown.count("<table") == 1
    for result in (found, *found.alongside):
        assert result.name in shown
        for name in PAPER:
            part = result.summary.metrics[name].whole
            assert format_interval(part.mean, part.low, part.high) in shown, (result.name, name)
    for name in PAPER:
        info = found.summary.metrics[name].info
        assert f"<th>{info.heading}</th>" in shown
        assert html.escape(info.signature) in shown
    apart = found.summary.metrics["dino"].property
    assert format_interval(apart.mean, apart.low, apart.high) in shown


def test_names_and_notes_are_escaped_in_a_notebook(drawn):
    # A folder's name is anybody's, and stands among the notes.
    shown = drawn._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;cat &amp; dog" in shown
    scored = replace(drawn.scored, name="<script>alert(1)</script>")
    shown = replace(drawn, scored=scored)._repr_html_()
    assert "<script>" not in shown
    # In the table's row and in the note.
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2


def test_results_and_folders_are_compared_alike(found, drawn):
    (other,) = found.alongside
    compared = dreambench.compare([found, other, drawn])
    assert isinstance(compared, dreambench.Comparison)
    assert list(compared.runs) == ["copy-reference", "real-images", "noise"]
    table = compared.table
    assert list(zip(table["first"], table["second"], strict=True)) == (
        [("copy-reference", "real-images")] * 5 + [("copy-reference", "noise")] * 5
    )
    assert table["metric"].tolist() == PAPER * 2
    again = dreambench.compare([str(found.folder), other.folder, drawn.folder])
    pd.testing.assert_frame_equal(again.table, table, check_exact=True)
    means = [one.by_subject.set_index(["metric", "subject"])["value"] for one in (found, other)]
    for row in table[table["second"] == "real-images"].itertuples():
        difference = (means[0] - means[1])[row.metric].mean()
        assert row.mean == pytest.approx(difference, abs=1e-9)


def test_what_is_compared_can_be_chosen(found, drawn):
    (other,) = found.alongside
    one = dreambench.compare([found, other], metrics=["joint"], families=["property"]).table
    assert one["metric"].tolist() == ["joint"]
    assert one["prompts"].tolist() == ["property"]
    pairs = dreambench.compare([found, other, drawn], metrics=["dino"], all_pairs=True).table
    assert len(pairs) == 3
    with pytest.raises(UserError) as caught:
        dreambench.compare([found, other], metrics=["dinno"])
    assert caught.value.code == "unknown-name" and "'dino'" in str(caught.value)


def test_a_comparison_shows_itself_in_a_notebook(found, drawn):
    compared = dreambench.compare([found, drawn], metrics=["dino"])
    shown = compared._repr_html_()
    (row,) = compared.table.itertuples()
    assert format_interval(row.mean, row.low, row.high) in shown
    assert "copy-reference - noise" in shown
    assert compared.notes
    assert shown.count("<li>") == len(compared.notes)
    scored = [replace(compared.scored[0], name="<i>"), compared.scored[1]]
    table = compared.table.assign(first="<i>")
    assert "<i>" not in replace(compared, scored=scored, table=table)._repr_html_()


def test_subjects_are_loaded_with_their_photos():
    found = dreambench.load_subjects("mini", names=["mug", "dog"])
    assert [(one.name, one.kind) for one in found] == [("dog", "live"), ("mug", "object")]
    assert all(path.is_file() for one in found for path in one.photos)
    with pytest.raises(UserError) as caught:
        dreambench.load_subjects("mini", names=["dgo"])
    assert caught.value.code == "unknown-name" and "'dog'" in str(caught.value)


def test_mistakes_have_codes_and_leave_nothing(protocol, found, tmp_path):
    usual = {"protocol": protocol, "out": tmp_path / "runs", "device": "cpu"}
    for code, fact, call in (
        ("unknown-name", "'dreamboot'", lambda: dreambench.run("dreamboot", **usual)),
        ("missing-option", "dreambench list methods", lambda: dreambench.run([], **usual)),
        ("name-taken", "'class-only'", lambda: dreambench.run(
            ["class-only", f"{tmp_path / 'own.py'}:ClassOnly"], **usual)),
        ("other-run", "batch_size: 16 -> 3", lambda: dreambench.run(
            "copy-reference", alongside=[], batch_size=3,
            **{**usual, "out": found.folder.parent.parent})),
        ("unknown-name", "'minni'", lambda: dreambench.score(
            tmp_path, protocol="minni", name="x")),
        ("invalid-name", "'../x'", lambda: dreambench.score(
            tmp_path, protocol=protocol, name="../x")),
        ("not-a-run", str(tmp_path), lambda: dreambench.load_run(tmp_path)),
        ("unknown-name", "'dgo'", lambda: dreambench.run(
            "copy-reference", subjects=["dgo"], **usual)),
    ):  # fmt: skip
        (tmp_path / "own.py").write_text(
            "from dreambench import Method\nclass ClassOnly(Method):\n"
            "    def load(self, subject, out_dir): pass\n"
        )
        with pytest.raises(UserError) as caught:
            call()
        assert (caught.value.code, fact in str(caught.value)) == (code, True), str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_runs_of_two_protocols_are_not_compared(protocol, found, tmp_path, shared_cache):
    (tmp_path / "other.toml").write_text(TINY_PROTOCOL.replace("version = 1", "version = 2"))
    other = dreambench.run(
        "copy-reference", protocol=str(tmp_path / "other.toml"), alongside=[], subjects=["dog"],
        out=tmp_path, cache=shared_cache, device="cpu",
    )  # fmt: skip
    assert other.summary.partial is True
    with pytest.raises(UserError) as caught:
        dreambench.compare([found, other])
    assert caught.value.code == "not-comparable"
    assert str(other.folder) in str(caught.value)


def test_what_a_method_fails_at_is_in_the_result(own, monkeypatch, protocol, tmp_path):
    monkeypatch.setenv("FAULT", "fit raise")
    usual = {
        "protocol": protocol, "alongside": [], "out": tmp_path / "runs", "device": "cpu",
        "cache": tmp_path / "cache",
    }  # fmt: skip
    found = dreambench.run(f"{own[0]}:Colours", **usual)
    (failure,) = found.failures
    assert (failure.stage, failure.subject, failure.n_images) == ("fit", "dog", 6)
    assert failure.reason == "ValueError: cannot see the dog"
    assert "Traceback" in (found.folder / failure.traceback).read_text()
    assert found.summary.partial is True
    assert set(found.scores["subject"]) == {"mug"}
    assert "cannot see the dog" in found._repr_html_()
    assert dreambench.load_run(found.folder).failures == list(found.failures)
    # A method that makes nothing has no result.
    monkeypatch.setenv("FAULT", "constructor raise")
    with pytest.raises(UserError) as caught:
        dreambench.run(f"{own[0]}:Colours", **{**usual, "out": tmp_path / "none"})
    assert caught.value.code == "no-images"
    assert "no engine in v8.bin" in str(caught.value)


def test_public_names_are_light_listed_and_described():
    code = (
        "import sys, dreambench\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        "assert set(dreambench.__all__) <= set(dir(dreambench))\n"
        "assert callable(dreambench.score)\n"
        "assert 'torch' not in sys.modules\n"
        "import dreambench.scoring\n"
        "assert callable(dreambench.score)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in dreambench.__all__:
        value = getattr(dreambench, name)
        assert name == "__version__" or value.__doc__, name
    for name in ("run", "score", "compare", "load_run", "load_subjects"):
        assert ">>> " in getattr(dreambench, name).__doc__, name
    with pytest.raises(AttributeError, match="'scor'"):
        dreambench.scor  # noqa: B018
