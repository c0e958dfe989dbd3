"""`dreambench export`: a record in the formats of others, valid by their own rules."""

import json
import shutil
import subprocess
from datetime import datetime
from pathlib import PurePosixPath

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY, invoke, refused_at_once, tree
from huggingface_hub import ModelCard, parse_eval_result_entries

from dreambench.artifacts.record import read_record
from dreambench.errors import UserError
from dreambench.leaderboard.exporting import export_record
from dreambench.text import make_printable

SCHEMA = json.loads(
    (REPOSITORY / "tests" / "formats" / "every-eval-ever-0.3.0.schema.json").read_text()
)
FORMATS = ("every-eval-ever", "eval-results", "model-index")
PAPER = "https://arxiv.org/abs/2208.12242"


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """The folder of a record."""
    out = tmp_path_factory.mktemp("records")
    invoke("submit", finished[0] / "quick", "--out", out, "--sample", "0", "--paper", PAPER)
    (found,) = out.glob("*/*/*")
    return found


@pytest.fixture
def record(folder):
    return read_record(folder)


def export(record, form, **names):
    ((path, content),) = export_record(record, form, **names).items()
    return path, content.decode()


def read_every_eval_ever(record, **names):
    path, text = export(record, "every-eval-ever", **names)
    content = json.loads(text)
    jsonschema.validate(content, SCHEMA)
    return path, content


def test_every_eval_ever_holds_every_mean_with_its_interval(record):
    path, content = read_every_eval_ever(record, model="someone/model")
    assert path.parent == PurePosixPath("data/tiny/someone/model")
    results = {one["evaluation_result_id"]: one for one in content["evaluation_results"]}
    known = {name: one.whole for name, one in record.metrics.items() if one.whole.mean is not None}
    assert results.keys() == known.keys() and len(known) > 10
    for name, whole in known.items():
        details = results[name]["score_details"]
        assert details["score"] == pytest.approx(whole.mean, abs=1e-6)
        interval = details["uncertainty"].get("confidence_interval", {})
        assert (interval.get("lower"), interval.get("upper")) == (whole.low, whole.high)
        config, info = results[name]["metric_config"], record.metrics[name].info
        assert config["lower_is_better"] is not info.higher_is_better
        assert config["additional_details"]["signature"] == info.signature
    assert content["source_metadata"]["evaluator_relationship"] == "first_party"
    started = datetime.fromisoformat(record.sessions[-1].started)
    assert int(content["retrieved_timestamp"]) == int(started.timestamp())
    # Photos that are not on the Hub are not said to be.
    assert results["dino"]["source_data"]["source_type"] == "other"
    assert export(record, "every-eval-ever") == export(record, "every-eval-ever")


def test_package_of_every_eval_ever_finds_nothing_wrong(folder, tmp_path):
    program = shutil.which("every_eval_ever")
    if program is None:
        pytest.skip("every-eval-ever is not installed; it needs Python 3.12")
    invoke("export", folder, "--format", "every-eval-ever", "--out", tmp_path)
    (path,) = tmp_path.glob("data/*/*/*/*.json")
    words = [program, "validate", path.relative_to(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "0 errors, 0 warnings" in done.stdout, done.stdout


def test_eval_results_are_read_back_by_the_hub_s_library(record):
    path, text = export(record, "eval-results", dataset="someone/benchmark")
    assert path == PurePosixPath(".eval_results/dreambench-tiny.yaml")
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert {one.task_id for one in entries} == {
        f"tiny-{name}" for name, one in record.metrics.items() if one.info.listed
    }
    for one in entries:
        entry = record.metrics[one.task_id.removeprefix("tiny-")]
        assert one.dataset_id == "someone/benchmark" and one.value == entry.whole.mean
        assert one.source_url == PAPER and datetime.fromisoformat(one.date)
        assert entry.info.signature in one.notes and record.digest in one.notes


def test_model_index_is_read_back_as_a_model_card(record):
    path, text = export(record, "model-index", model="someone/model")
    assert path == PurePosixPath("README.md")
    card = ModelCard(text)
    assert card.data.model_name == "model"
    found = {one.metric_type: one for one in card.data.eval_results}
    listed = {name: one for name, one in record.metrics.items() if one.info.listed}
    assert found.keys() == listed.keys()
    for name, one in found.items():
        assert one.metric_value == listed[name].whole.mean
        assert one.metric_args["signature"] == listed[name].info.signature
        assert one.source_url == PAPER


def test_paper_s_photos_are_named_as_the_hub_has_them(record):
    papers = record.model_copy(
        update={"protocol": record.protocol.model_copy(update={"dataset": "dreambooth"})}
    )
    _, content = read_every_eval_ever(papers)
    assert content["evaluation_results"][0]["source_data"]["hf_repo"] == "google/dreambooth"


@pytest.mark.parametrize("form", FORMATS)
def test_partial_or_withdrawn_record_is_not_ranked_elsewhere(record, form):
    partial = record.model_copy(update={"partial": True, "n_images": 1})
    if form == "every-eval-ever":
        _, content = read_every_eval_ever(partial)
        assert content["source_metadata"]["additional_details"]["partial"] == "true"
    else:
        with pytest.raises(UserError) as caught:
            export_record(partial, form)
        assert caught.value.code == "not-comparable"
    withdrawn = record.model_copy(update={"status": "withdrawn", "withdrawn": "a fault"})
    with pytest.raises(UserError) as caught:
        export_record(withdrawn, form)
    assert caught.value.code == "not-comparable" and "a fault" in str(caught.value)


def odd_metric(record, text):
    entry = record.metrics["dino"]
    info = entry.info.model_copy(update={"title": text, "formula": text, "signature": text})
    return entry.model_copy(update={"info": info})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "text", ["a: [b\n---\n# c", "\x1b[2J\u202e</script>", "{{ 1 }}", "'\"", "x" * 50_000]
)
def test_strangers_text_stays_a_text(record, form, text):
    odd = record.model_copy(
        update={
            "method": record.method.model_copy(update={"title": text, "name": "m+k=1"}),
            "protocol": record.protocol.model_copy(update={"title": text}),
            "metrics": record.metrics | {"dino": odd_metric(record, text)},
        }
    )
    path, found = export(odd, form)
    assert all(line.isprintable() and make_printable(line) == line for line in found.splitlines())
    assert ".." not in path.parts and "+" not in str(path)
    if form == "every-eval-ever":
        assert json.loads(found)["model_info"]["name"] == make_printable(text)
        jsonschema.validate(json.loads(found), SCHEMA)
    elif form == "eval-results":
        assert len(parse_eval_result_entries(yaml.safe_load(found))) == 5
    else:
        card = ModelCard(found)
        assert len(card.data.eval_results) == 5 and card.text.strip() == "# m-k-1"


def test_command_never_overwrites(folder, tmp_path):
    words = ("export", folder, "--format", "model-index", "--out", tmp_path)
    assert "README.md" in invoke(*words).stdout
    invoke(*words)
    (tmp_path / "README.md").write_text("mine")
    before = tree(tmp_path)
    assert "README.md" in refused_at_once(*words)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "a/..", "a b/c", "", "/x", "a/é"])
def test_what_is_no_name_on_the_hub_is_refused(folder, tmp_path, name):
    for option, form in (("--model", "model-index"), ("--dataset", "eval-results")):
        words = ("export", folder, "--format", form, option, name, "--out", tmp_path / "out")
        assert option in refused_at_once(*words)
        assert not (tmp_path / "out").exists()


def test_folder_without_a_record_is_refused(tmp_path):
    words = ("export", tmp_path, "--format", "model-index", "--out", tmp_path / "out")
    assert "record.json" in refused_at_once(*words)
