"""The tables of a whole run, made from its stored scores, are those that were made of them before.

`data/` has the scores of DreamBooth, class-only and copy-reference on mini as version 0.1.0 at
7f31323 computed them on one machine, and the report that it wrote. The words around the tables may
change; no number in them may.
"""

import re

import pandas as pd
import pytest
from conftest import REPOSITORY
from small_session import SESSION

from dreambench.analysis.comparison import Scored
from dreambench.analysis.summary import make_summary
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import (
    Digests,
    RecipeRecord,
    RunManifest,
)
from dreambench.artifacts.plan import make_plan
from dreambench.artifacts.results import ScoreTable
from dreambench.config.protocol import load_protocol
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import digest_subjects, load_subjects
from dreambench.metrics.registry import load_own_metrics
from dreambench.report.markdown import render_markdown_table
from dreambench.report.pages import make_run_document

DATA = REPOSITORY / "tests" / "regression" / "data"
METHODS = ("dreambooth", "class-only", "copy-reference")
# Headings of first columns that are called otherwise today.
RENAMED = {"measure": "metric", "oracle": "reference"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The three runs as a report takes them."""
    scores = pd.read_parquet(DATA / "mini-scores.parquet")
    bounds = pd.read_csv(DATA / "mini-reference-bounds.csv").rename(
        columns={"with_self": "copy_bound", "without_self": "faithful_bound"}
    )
    folder = tmp_path_factory.mktemp("stored")
    return [_make_scored(folder / name, name, scores, bounds) for name in METHODS]


def _make_scored(folder, name, scores, bounds):
    images = _make_image_set(folder, name)
    frame = scores[scores["method"] == name].drop(columns="method")
    texts = frame.select_dtypes("category").columns
    frame = frame.astype(dict.fromkeys(texts, str))
    inputs = {name for metric in load_own_metrics().values() for name in metric.inputs}
    identities = dict.fromkeys(sorted(inputs), "stored")
    infos = []
    known = set(scores["metric"])  # Of those days.
    for metric in [one for one in load_own_metrics().values() if one.name in known]:
        n_found = int(frame.loc[frame["metric"] == metric.name, "n_pairs"].sum())
        about = {"listed": metric.name in images.protocol.metrics, "n_expected": n_found}
        infos.append(metric.describe(identities, code={}).model_copy(update=about))
    table = ScoreTable(frame, tuple(infos), identities)
    return Scored(name, table, make_summary(images, table, bounds))


def _make_image_set(folder, name):
    protocol = load_protocol("mini")
    subjects = load_subjects(find_dataset("mini"))
    plan = make_plan(protocol, subjects, batch_size=16)
    manifest = RunManifest(
        protocol=protocol,
        recipe=RecipeRecord(
            name=name, method=name, title=name, source="stored", track="stored", settings={}
        ),
        subjects=[subject.name for subject in subjects],
        prompts=[prompt.id for prompt in protocol.prompts],
        partial=False, base_model="mini", sampler=protocol.sampler.at_size(64), device="cpu",
        precision="fp32", batch_size=16,
        encoders={}, digests=Digests(protocol="stored", data=digest_subjects(subjects)),
        sessions=[SESSION],
    )  # fmt: skip
    return ImageSet(
        folder=folder, protocol=protocol, subjects=subjects, plan=plan, manifest=manifest,
        files={unit: folder / unit.relative_path for unit in plan.images},
    )  # fmt: skip


def read_tables(text):
    """The tables of a Markdown page, each a list of rows of cells."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if not re.fullmatch(r"[|:\- ]+", line):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found.append(rows)
            rows = []
    return found


def test_tables_of_stored_scores_are_those_that_were_printed(stored):
    before = read_tables((DATA / "mini-report.md").read_text())
    document = make_run_document(stored)
    after = [read_tables(render_markdown_table(table))[0] for table in document.tables()]
    assert len(after) == len(before) == 8
    n_numbers = 0
    for old in before:
        heading = [RENAMED.get(old[0][0], old[0][0]), *old[0][1:]]
        # Sections may change places; tables of one heading keep their order.
        new = after.pop(next(n for n, table in enumerate(after) if table[0] == heading))
        for old_row, new_row in zip(old[1:], new[1:], strict=True):
            if old[0][0] != "oracle":
                assert old_row[0] == new_row[0]
            assert old_row[1:] == new_row[1:]
            n_numbers += len(re.findall(r"\.\d{3}", " ".join(new_row)))
    assert n_numbers > 900
