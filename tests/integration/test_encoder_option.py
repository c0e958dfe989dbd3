"""`--encoder`: a custom encoder from the command line to the signatures."""

import json
import shutil

import pytest
from conftest import REPOSITORY, invoke, refused

from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.results import read_scores


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run scored by the example as it is, and the words of the command."""
    from conftest import TINY_PROTOCOL  # noqa: PLC0415

    root = tmp_path_factory.mktemp("encoder")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    shutil.copy(REPOSITORY / "examples" / "my_encoder.py", root)
    words = [
        "run", "--method", "copy-reference", "--protocol", root / "tiny.toml", "--alongside", "",
        "--out", root / "runs", "--cache", root / "cache",
    ]  # fmt: skip
    own = f"dino={root / 'my_encoder.py'}:MyEncoder"
    done = invoke(*words, "--encoder", own)
    return root, words, own, root / "runs" / "tiny" / "copy-reference", done


def test_an_encoder_of_ones_own_scores_a_run(made):
    root, _, _, run_dir, done = made
    identity = json.loads((run_dir / "run.json").read_text())["encoders"]["dino"]
    assert identity.startswith("outside:colour-layout:v1:my_encoder.py:MyEncoder@")
    assert str(root) not in identity
    assert f"DINO|v1|{identity}|" in done.stdout
    scores = read_scores(read_image_set(run_dir)).frame
    assert scores.loc[scores["metric"] == "dino", "value"].notna().all()
    # Parts are cut out for it, too.
    assert scores.loc[scores["metric"] == "dino-fg", "value"].notna().any()
    kept = json.loads(invoke("cache", "show", "--cache", root / "cache", "--json").stdout)
    assert identity in {row["identity"] for row in kept["rows"]}


def test_a_run_keeps_its_encoder(made):
    root, words, own, run_dir, _ = made
    before = (run_dir / "scores.parquet").read_bytes()
    assert "encoders.dino" in refused(*words)
    score = ["score", run_dir, "--cache", root / "cache"]
    assert "--encoder dino=my_encoder.py:MyEncoder" in refused(*score)
    invoke(*score, "--encoder", own)
    assert (run_dir / "scores.parquet").read_bytes() == before
    invoke("summarise", run_dir)
    assert "'dino'" in refused(*score, "--encoder", own.replace("dino=", "dinp="))


def test_a_metric_of_ones_own_reads_another_input(made):
    root, words, *_ = made
    for name, change in {
        "my_encoder.py": ('("dino",)', '("look",)'),
        "my_metric.py": ('inputs = ("dino",)', 'inputs = ("look",)'),
    }.items():
        text = (REPOSITORY / "examples" / name).read_text()
        assert change[0] in text
        (root / f"look_{name}").write_text(text.replace(*change))
    metric = ["--metric", f"{root / 'look_my_metric.py'}:NearestPhoto"]
    encoder = ["--encoder", f"look={root / 'look_my_encoder.py'}:MyEncoder"]
    words = [*words[: words.index("--out")], "--out", root / "other", "--cache", root / "cache"]
    assert "--encoder look=" in refused(*words, *metric)
    done = invoke(*words, *metric, *encoder)
    assert "|outside:colour-layout:v1:look_my_encoder.py:MyEncoder@" in done.stdout
    scores = read_scores(read_image_set(root / "other" / "tiny" / "copy-reference")).frame
    assert scores.loc[scores["metric"] == "nearest-photo", "value"].notna().all()
