"""Runs beside the paper's tables: its numbers, and verdicts that follow the intervals."""

import pandas as pd
import pytest

from dreambench.analysis.comparison import Scored
from dreambench.analysis.paper_tables import (
    load_paper_table,
    make_direction_table,
    make_value_table,
    write_paper_table,
)
from dreambench.analysis.stats import estimate_table
from dreambench.config.recipe import list_recipes
from dreambench.errors import UserError
from dreambench.metrics.metrics import METRICS


def scored(name, **values):
    """A run of four subjects; `values` has by metric (with _ for -) the value of each."""
    rows = [
        [f"s{index}", "art", "red", metric.replace("_", "-"), value, 1]
        for metric, subjects in values.items()
        for index, value in enumerate(subjects)
    ]
    columns = ["subject", "family", "prompt_id", "metric", "value", "n_pairs"]
    frame = pd.DataFrame(rows, columns=columns)
    metrics = {
        row.metric: {"mean": row.mean, "low": row.low, "high": row.high, "signature": "S"}
        for row in estimate_table(frame).itertuples(index=False)
    }
    digests = dict.fromkeys(("protocol", "recipe", "data", "base_model"), "0")
    summary = {
        "metrics": metrics, "protocol": "p v1", "digests": digests, "code": {"commit": "c"},
        "partial": False,
    }  # fmt: skip
    return Scored(name, frame, summary, frame[:0])


ALL = ("dino", "clip_i", "clip_t", "div")
WITH = scored(
    "dreambooth", pres=[0.2, 0.3, 0.1, 0.2], **{name: [0.4, 0.5, 0.4, 0.5] for name in ALL}
)
WITHOUT = scored(
    "dreambooth-no-prior", pres=[0.6, 0.8, 0.5, 0.7], dino=[0.3, 0.4, 0.2, 0.4],
    clip_i=[0.4, 0.5, 0.4, 0.6], clip_t=[0.5, 0.4, 0.4, 0.5], div=[0.1, 0.2, 0.2, 0.2],
)  # fmt: skip


def test_verdicts_follow_sign_and_interval():
    table = make_direction_table([WITH, WITHOUT], load_paper_table(3)).set_index("metric")
    # The paper: PRES lower, DIV higher, DINO lower with prior preservation.
    assert table["direction"]["PRES (down)"] == "holds"
    assert table["direction"]["DIV (up)"] == "holds"
    assert table["direction"]["DINO (up)"] == "reversed"
    assert table["direction"]["CLIP-T (up)"] == "not shown"
    assert table["paper"]["PRES (down)"] == "-.171"
    assert table["paper"]["DIV (up)"] == ".020"


def test_values_stand_beside_the_papers(tmp_path):
    paper = load_paper_table(3)
    table = make_value_table([WITH, WITHOUT], paper).set_index("method")
    assert table["PRES (down)"]["dreambooth"].endswith("; paper .493")
    assert table["DINO (up)"]["dreambooth-no-prior"].endswith("; paper .712")
    text = write_paper_table([WITH, WITHOUT], 3, tmp_path).read_text()
    assert "reversed" in text
    assert "Not run" not in text


def test_what_does_not_belong_to_a_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="table 2 is not kept here"):
        load_paper_table(2)
    with pytest.raises(UserError, match="give run folders of dreambooth first"):
        write_paper_table([WITHOUT, WITH], 3, tmp_path)
    with pytest.raises(UserError, match="compares dreambooth, dreambooth-no-noun"):
        write_paper_table([WITH, WITHOUT], 4, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_name_recipes_and_metrics_that_exist():
    for number in (1, 3, 4, 5):
        table = load_paper_table(number)
        assert set(table["recipe"]) <= set(list_recipes())
        assert set(table["metric"]) <= set(METRICS)
        assert not table.duplicated(["recipe", "metric"]).any()
        assert table["value"].between(0, 1).all()
