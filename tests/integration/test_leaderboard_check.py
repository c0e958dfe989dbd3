"""`dreambench leaderboard check`: a true record passes, and each forgery is seen by its check."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import invoke, refused
from forged_records import (
    BOARD_FORGERIES,
    FORGERIES,
    Forged,
    copy_record,
    find_line,
    find_worst,
    list_outcomes,
)

from dreambench.analysis.checking import FAILED, FLAGGED
from dreambench.artifacts.record import read_record
from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.leaderboard.checks import check_paths
from dreambench.leaderboard.known import find_track, is_known_protocol
from dreambench.methods.registry import describe_track


@pytest.fixture
def one(board, tmp_path):
    """A record to be forged, alone in a folder of records."""
    (folder,) = board.glob("tiny/quick/*")
    return copy_record(folder, tmp_path / "records")


@pytest.fixture
def records(board, tmp_path):
    """A copy of the board."""
    return shutil.copytree(board, tmp_path / "new")


def check_one(folder, protocol, **options):
    (checked,) = check_paths([folder], protocol=protocol, **options)
    return checked


def find_bad(checked):
    outcomes = list_outcomes(checked.found).items()
    return {name: outcome for name, outcome in outcomes if outcome in (FAILED, FLAGGED)}


def test_a_true_record_passes_every_check(board, protocol):
    checked = {one.folder.parts[-2]: one for one in check_paths([board], protocol=protocol)}
    assert len(checked) == 3 and all(one.passed for one in checked.values())
    assert find_bad(checked["quick"]) == {} == find_bad(checked["class-only"])
    copies = find_bad(checked["copy-reference"])
    assert set(copies) == {"copying", "repeated", "copy-bound"} or set(copies) == {
        "copying", "repeated",
    }  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_a_forgery_is_seen_by_the_check_that_is_for_it(one, protocol, forgery):
    forgery.forge(one)
    checked = check_one(one.folder, protocol)
    outcomes = list_outcomes(checked.found)
    if forgery.check:
        assert outcomes[forgery.check] == forgery.outcome
        assert checked.passed is (forgery.outcome == FLAGGED)
        assert find_line(checked.found, forgery.check)
    else:
        # What no record can show of itself: another test has to see it.
        assert find_bad(checked) == {} and forgery.sees


def test_a_protocol_that_is_not_known_is_flagged_and_never_ranked(board, protocol):
    (folder,) = board.glob("tiny/quick/*")
    record = read_record(folder)
    assert list_outcomes(check_one(folder, None).found)["protocol"] == FLAGGED
    assert not is_known_protocol(record) and is_known_protocol(record, protocol)


@pytest.mark.parametrize("forgery", BOARD_FORGERIES, ids=lambda forgery: forgery.name)
def test_a_forgery_of_a_board_is_seen(board, records, protocol, forgery):
    (folder,) = records.glob("tiny/quick/*")
    forgery.forge(records, Forged(folder))
    checked = check_paths([records], board=board, protocol=protocol)
    assert find_worst(checked, forgery.check) == forgery.outcome


def test_an_address_may_change_under_the_same_digest(board, records, protocol):
    found = check_paths([records], board=board, protocol=protocol)
    assert all(one.passed for one in found)
    (folder,) = records.glob("tiny/quick/*")
    one = Forged(folder)
    one.content["paper_url"] = "https://example.org/paper"
    one.write_record()
    assert check_one(folder, protocol, board=board).passed


@pytest.mark.parametrize(("by", "passes"), [(0.0005, True), (0.01, False)])
def test_a_number_that_moved_needs_a_new_digest(board, records, protocol, by, passes):
    (folder,) = records.glob("tiny/quick/*")
    one = Forged(folder)
    one.cells.loc[one.images("clip-t"), "clip-t"] += by
    one.count()
    one.write()
    assert one.folder == folder
    outcomes = list_outcomes(check_one(folder, protocol, board=board).found)
    assert (outcomes["changes"] == "passed") is passes


def test_a_metric_that_is_new_is_let_through(board, records, protocol):
    (folder,) = records.glob("tiny/quick/*")
    one = Forged(folder)
    del one.metrics["leak"]
    one.cells = one.cells.drop(columns=["leak", "leak:n_pairs"])
    one.write()
    added = check_paths([board], board=records, protocol=protocol)
    assert all(list_outcomes(one.found)["changes"] == "passed" for one in added)


def test_a_record_that_is_gone_is_named_where_the_whole_board_is_checked(board, records, protocol):
    (folder,) = records.glob("tiny/quick/*")
    shutil.rmtree(folder)
    found = check_paths([records], board=board, protocol=protocol)
    (gone,) = [one for one in found if "gone" in list_outcomes(one.found)]
    assert not gone.passed and gone.folder == folder
    (other,) = records.glob("tiny/class-only/*")
    assert check_one(other, protocol, board=board).passed


def test_the_command_says_what_failed_and_how(board, finished, tmp_path):
    words = ("leaderboard", "check", board, "--protocol", finished[1][2])
    assert "passed" in invoke(*words).stdout
    shown = json.loads(invoke(*words, "--json").stdout)
    assert shown["passed"] and len(shown["records"]) == 3
    (folder,) = board.glob("tiny/quick/*")
    one = copy_record(folder, tmp_path / "records")
    one.metrics["dino"]["whole"]["mean"] = np.pi
    one.write()
    done = invoke("leaderboard", "check", one.folder, "--protocol", finished[1][2], status=1)
    assert "means: dino.whole.mean is 3.14" in done.stdout
    assert "record" in refused("leaderboard", "check", tmp_path / "nothing")


def test_checking_imports_no_torch(board, finished):
    (folder,) = board.glob("tiny/quick/*")
    code = (
        "import sys; from dreambench import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    words = [sys.executable, "-c", code, "leaderboard", "check", folder]
    words += ["--protocol", finished[1][2]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tracks_that_are_known_are_those_of_the_classes():
    n_tables = 0
    for name in list_recipes():
        recipe = load_recipe(name)
        for base, settings in recipe.tables.items():
            assert find_track(recipe.method, settings) == describe_track(recipe, base)
            n_tables += 1
    assert n_tables > 20
    assert find_track("somebody.py:Else", {}) is None
