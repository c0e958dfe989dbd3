"""The metrics of two subjects on pictures whose truth is known: the right order, fault by fault."""

import pandas as pd
import pytest

from dreambench.metrics.registry import load_own_metrics
from dreambench.mini.validation.pairs import COPIES, EVERY_SAME, FAULTS, make_true_pair
from dreambench.mini.validation.pairs_page import write_pair_trial
from dreambench.progress import no_progress


def test_pairs_are_of_two_individuals_and_have_each_fault():
    pairs = [make_true_pair(index) for index in (0, EVERY_SAME - 1)]
    other, same = pairs
    assert (other.shares_noun, same.shares_noun) == (False, True)
    sets = [list(dict.fromkeys(case.set_name for case in pair.cases)) for pair in pairs]
    assert sets[0] == ["both", *FAULTS, *COPIES]
    assert sets[1] == [name for name in sets[0] if name != "swapped"]
    truths = {case.set_name: case.truth for case in other.cases}
    assert truths["both"] == 1 > truths["first missing"] > truths["class only"] == 0
    again = make_true_pair(0)
    assert [case.image.tobytes() for case in again.cases] == [
        case.image.tobytes() for case in other.cases
    ]


@pytest.mark.long
def test_each_fault_is_seen_and_the_fields_metric_does_not_see_it(tmp_path):
    means, wins, paths = write_pair_trial(tmp_path, n_pairs=4, progress=no_progress)
    own = means.loc["pair-own-dino"]
    halves = ["first missing", "second missing", "first twice", "second twice"]
    assert own["both"] > own["swapped"] > own[halves].max()
    assert own[halves].min() > own[["merged", "class only"]].max() + 0.1
    assert own[list(COPIES)].max() < own["both"] - 0.2
    both, twice, swapped = (means.loc[f"pair-{name}"] for name in ("both", "twice", "swapped"))
    assert both["both"] > 0.95 and both[halves].max() < 0.1
    assert twice[["first twice", "second twice"]].min() > 0.9 > 0.1 > twice["both"]
    assert swapped["swapped"] > 0.6 > 0.1 > swapped["both"]
    faults = [name for name in FAULTS if name != "swapped"]
    assert (wins.loc["pair-own-dino", faults] == 0).all()
    # The field's: one photo alone is above both, and a swap changes nothing to speak of.
    field = means.loc["pair-dino"]
    assert field["first photo alone"] > field["both"]
    assert abs(field["swapped"] - field["both"]) < 0.1 < own["both"] - own["first missing"]
    assert abs(field[["first twice", "second twice"]].mean() - field["both"]) < 0.1
    assert all(path.is_file() for path in paths)
    page = (tmp_path / "pairs.md").read_text()
    metrics = {name for name, metric in load_own_metrics().items() if metric.takes != "one"}
    for name in ("pairs-responses", "pairs-wins"):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert set(table["metric"]) == metrics
        assert all(f"- `{signature}`" in page for signature in table["signature"])
