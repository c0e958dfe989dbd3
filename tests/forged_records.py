"""Forgeries: what someone could do to a record that is true, and which check has to see it.

`FORGERIES` is read by the tests and by `benchmarks/forgeries.py`.
"""

import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreambench.artifacts.cells import make_scores, parse_cells, render_cells
from dreambench.artifacts.image_set import digest_recipe
from dreambench.artifacts.manifest import RecipeRecord
from dreambench.artifacts.record import Record, find_digest
from dreambench.artifacts.results import MetricInfo
from dreambench.config.protocol import Protocol
from dreambench.leaderboard.numbers import compute_metrics
from dreambench.storage.files import sha256_bytes

CELLS, RECORD, THUMBNAILS = "cells.parquet", "record.json", "thumbnails.webp"


class Forged:
    """A copy of a record that is being changed; `write` puts it back, sealed as far as asked."""

    def __init__(self, folder):
        self.folder = folder
        self.content = json.loads((folder / RECORD).read_text())
        names = list(self.content["metrics"])
        self.cells = parse_cells((folder / CELLS).read_bytes(), names, path=folder / CELLS)

    @property
    def metrics(self):
        return self.content["metrics"]

    def images(self, metric="dino"):
        """The rows of cells that have a value of a metric."""
        return self.cells.index[self.cells[metric].notna()]

    def count(self):
        """Compute all means of the record from its cells, as an honest program would."""
        infos = [MetricInfo.model_validate(one["info"]) for one in self.metrics.values()]
        made = compute_metrics(make_scores(self.cells, list(self.metrics)), infos)
        for name, entry in made.items():
            self.metrics[name] = entry.model_dump(mode="json")

    def write(self, *, digest=True):
        """Write it; SHA-256 and, unless told otherwise, digest and path are made to fit."""
        cells = render_cells(self.cells)
        (self.folder / CELLS).write_bytes(cells)
        self.content["files"][CELLS] = sha256_bytes(cells)
        if digest:
            record = Record.model_validate(self.content)
            self.content["digest"] = find_digest(record, self.cells)
            self.label()
        self.write_record()

    def label(self):
        """Make thumbnails say the digest that the record has."""
        path = self.folder / THUMBNAILS
        with Image.open(path) as strip:
            note = {
                "method": self.content["method"]["name"],
                "protocol": self.content["protocol"]["name"],
                "record": self.content["digest"],
            }
            from dreambench.storage.images import encode_generated_webp  # noqa: PLC0415

            content = encode_generated_webp(strip.convert("RGB"), note, quality=50)
        self.put(THUMBNAILS, content)

    def put(self, name, content):
        """Write another file and its SHA-256."""
        (self.folder / name).write_bytes(content)
        self.content["files"][name] = sha256_bytes(content)

    def write_record(self):
        """Write record.json, and move the folder to where it says that it lies."""
        (self.folder / RECORD).write_text(json.dumps(self.content))
        target = self.folder.parents[2] / self.content["protocol"]["name"]
        target = target / self.content["method"]["name"] / str(self.content["digest"])
        if target != self.folder and ".." not in str(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self.folder.rename(target)
            self.folder = target


@dataclass(frozen=True)
class Forgery:
    """One kind: `check` names the check that sees it, "" where none can by the record alone.

    `outcome` is what that check says; `sees` says what else sees it.
    """

    name: str
    forge: object = field(repr=False)
    check: str
    outcome: str = "failed"
    sees: str = ""


FORGERIES = []


def forgery(name, check, outcome="failed", sees=""):
    def add(function):
        FORGERIES.append(Forgery(name, function, check, outcome, sees))
        return function

    return add


@forgery("a mean is raised", "means")
def _mean(one):
    one.metrics["dino"]["whole"]["mean"] += 0.05
    one.write()


@forgery("an interval is narrowed", "intervals")
def _interval(one):
    for name in ("dino", "clip-t"):
        part = one.metrics[name]["whole"]
        part["low"] = part["high"] = part["mean"]
    one.write()


@forgery("the mean of a prompt category is raised", "categories")
def _category(one):
    next(iter(one.metrics["dino"]["by_category"].values()))["mean"] += 0.05
    one.write()


@forgery("the mean of a subject is raised", "subjects")
def _subject(one):
    name = next(iter(one.metrics["dino"]["by_subject"]))
    one.metrics["dino"]["by_subject"][name] += 0.05
    one.write()


@forgery("fewer numbers are said to be expected than are", "counts")
def _expected(one):
    entry = one.metrics["dino"]
    entry["n_expected"] = entry["info"]["n_expected"] = entry["n_scored"] + 5
    one.write()


@forgery("one cell is raised, and all means made to fit", "agreement")
def _cell(one):
    one.cells.loc[one.images("dino-lro")[0], "dino-lro"] += 0.04
    one.count()
    one.write()


@forgery("one cell is raised beyond what its photos allow", "agreement")
def _high_cell(one):
    one.cells.loc[one.images("dino-lro")[0], "dino"] += 0.4
    one.count()
    one.write()


@forgery("cells of a metric from which no other follows are raised", "", sees="--images")
def _lone_cells(one):
    one.cells.loc[one.images("clip-t"), "clip-t"] += 0.01
    one.count()
    one.write()


@forgery("cells are raised in all metrics that follow from one another", "", sees="--images")
def _cells(one):
    rows = one.images("dino-lro")
    for name in ("dino", "dino-lro"):
        one.cells.loc[rows, name] += 0.01
    for subject, group in one.cells.loc[rows].groupby("subject"):
        slope, start = np.polyfit(group["dino-lro"] - 0.01, group["dino-norm"], 1)
        del subject
        one.cells.loc[group.index, "dino-norm"] = slope * group["dino-lro"] + start
    one.count()
    one.write()


@forgery("good images count more often than bad ones", "counts")
def _weights(one):
    rows = one.images()
    one.cells.loc[rows[0], "dino:n_pairs"] += 1
    one.cells.loc[rows[1], "dino:n_pairs"] -= 1
    one.count()
    one.write()


@forgery("values lie beyond their range, which is widened", "metrics")
def _range(one):
    one.metrics["dino"]["info"]["high"] = 2.0
    one.cells.loc[one.images()[0], "dino"] = 1.5
    one.count()
    one.write()


@forgery("values lie beyond their range", "values")
def _beyond(one):
    one.cells.loc[one.images()[0], "dino"] = 1.5
    one.count()
    one.write()


@forgery("the better direction of a metric is turned round", "metrics")
def _direction(one):
    one.metrics["copy"]["info"]["higher_is_better"] = True
    one.write()


@forgery("a metric that looks bad is left out", "metrics")
def _left_out(one):
    del one.metrics["div"]
    one.cells = one.cells.drop(columns=["div", "div:n_pairs"])
    one.write()


@forgery("the signature of another encoder", "metrics")
def _signature(one):
    info = one.metrics["dino"]["info"]
    info["signature"] = info["signature"].replace("|cls|", "|mean-patches|")
    one.write()


@forgery("an encoder with other weights", "encoders")
def _weights_of_encoder(one):
    old = one.content["encoders"]["dino"]
    name, _, rest = old.partition("@")
    new = f"{name}@0123456789abcdef{rest[16:]}"
    one.content = json.loads(json.dumps(one.content).replace(old, new))
    one.write()


@forgery("an encoder that is not the protocol's", "encoders", "flagged")
def _encoder(one):
    old = one.content["encoders"]["dino"]
    new = old.replace("|cls|", "|mean-patches|")
    one.content = json.loads(json.dumps(one.content).replace(old, new))
    one.write()


@forgery("an encoder goes by the name of the protocol's", "reference-bounds")
def _renamed_encoder(one):
    for bounds in one.content["reference_bounds"].values():
        for key in ("copy", "faithful"):
            values = bounds[f"{key}_by_subject"]
            bounds[f"{key}_by_subject"] = {name: value - 0.02 for name, value in values.items()}
            bounds[f"{key}_bound"] -= 0.02
    one.write()


@forgery("the bound by photos is raised alone", "reference-bounds")
def _bound(one):
    one.content["reference_bounds"]["dino"]["copy_bound"] += 0.02
    one.write()


@forgery("the SHA-256 of two images are exchanged", "digest")
def _hashes(one):
    rows = one.images()[:2]
    one.cells.loc[rows, "sha256"] = one.cells.loc[rows[::-1], "sha256"].to_numpy()
    one.write(digest=False)


@forgery("the SHA-256 of two images are exchanged, with a new digest", "", sees="--images")
def _sealed_hashes(one):
    rows = one.images()[:2]
    one.cells.loc[rows, "sha256"] = one.cells.loc[rows[::-1], "sha256"].to_numpy()
    one.write()


@forgery("cells are exchanged for others'", "hashes")
def _file(one):
    one.cells.loc[one.images()[0], "dino"] += 0.04
    (one.folder / CELLS).write_bytes(render_cells(one.cells))


@forgery("another digest", "digest")
def _digest(one):
    one.content["digest"] = "0123456789abcdef"
    one.label()
    one.write_record()


@forgery("another's folder", "path")
def _path(one):
    target = one.folder.with_name("0123456789abcdef")
    one.folder.rename(target)
    one.folder = target


@forgery("images that are missing are not said to be", "missing")
def _hidden(one):
    row = one.images()[0]
    for name in one.metrics:
        one.cells.loc[row, name] = np.nan
        one.cells.loc[row, f"{name}:n_pairs"] = 0
    one.cells.loc[row, "sha256"] = None
    one.count()
    one.write()


@forgery("bad images are left out of the plan", "cells")
def _dropped(one):
    one.cells = one.cells.drop(index=one.images()[:2]).reset_index(drop=True)
    one.count()
    one.content["n_images"] -= 2
    one.content["n_images_expected"] -= 2
    one.write()


@forgery("numbers of an image that is not there", "cells")
def _no_image(one):
    one.cells.loc[one.images()[0], "sha256"] = None
    one.content["n_images"] -= 1
    one.content["partial"] = True
    one.write()


@forgery("fewer prompts than the protocol's, said to be all", "missing")
def _narrowed(one):
    gone = one.content["prompts"].pop()
    one.cells = one.cells[one.cells["prompt"] != gone].reset_index(drop=True)
    made = int((one.cells["sha256"].notna() & (one.cells["replicate"] == 1)).sum())
    one.content["n_images"] = one.content["n_images_expected"] = made
    for name in one.metrics:
        total = int(one.cells.loc[one.cells["replicate"] == 1, f"{name}:n_pairs"].sum())
        one.metrics[name]["info"]["n_expected"] = total
    one.count()
    one.write()


@forgery("other seeds than the plan's", "cells")
def _seeds(one):
    one.cells.loc[one.images()[:4], "seed"] += 1
    one.write()


@forgery("prompts change their category", "cells")
def _categories(one):
    place = one.cells["category"] == "property"
    one.cells.loc[place, "category"] = "art"
    one.count()
    one.write()


@forgery("another plan", "plan")
def _plan(one):
    one.content["digests"]["plan"] = "0123456789abcdef"
    one.write()


@forgery("an easier protocol under the same name", "protocol")
def _protocol(one):
    protocol = one.content["protocol"]
    protocol["prompts"][0]["text"] = "a photo of a {subject}"
    one.content["digests"]["protocol"] = Protocol.model_validate(protocol).digest()
    one.write()


@forgery("an easier protocol with the digest of the known one", "protocol")
def _protocol_digest(one):
    one.content["protocol"]["sampler"]["n_steps"] += 1
    one.write()


@forgery("a protocol that nobody knows", "protocol", "flagged")
def _unknown_protocol(one):
    protocol = one.content["protocol"]
    protocol["name"] = "easier"
    one.content["digests"]["protocol"] = Protocol.model_validate(protocol).digest()
    one.write()


@forgery("other photos", "photos")
def _photos(one):
    one.content["digests"]["data"] = "0123456789abcdef"
    one.write()


@forgery("another base model under the name of a known one", "base-model", "flagged")
def _base_model(one):
    one.content["digests"]["base_model"] = "mini:folder@0123456789abcdef"
    one.content["method"]["base_model"]["identity"] = "mini:folder@0123456789abcdef"
    one.write()


@forgery("fewer steps in the recipe than were trained", "recipe")
def _recipe(one):
    one.content["recipe"]["settings"]["n_steps"] = 1
    one.write()


@forgery("a recipe of its own under the name of a shipped one", "recipe", "flagged")
def _shipped_recipe(one):
    recipe = one.content["recipe"]
    recipe["name"] = one.content["method"]["name"] = "dreambooth"
    recipe["settings"]["n_steps"] = 1
    record = RecipeRecord.model_validate(recipe)
    one.content["digests"]["recipe"] = digest_recipe(record)
    one.write()


@forgery("a recipe of its own that it did not run", "", sees="dreambench rerun")
def _own_recipe(one):
    recipe = one.content["recipe"]
    recipe["name"] = one.content["method"]["name"] = "mine"
    recipe["settings"]["n_steps"] = 1
    record = RecipeRecord.model_validate(recipe)
    one.content["digests"]["recipe"] = digest_recipe(record)
    one.write()


@forgery("another track", "recipe")
def _track(one):
    one.content["method"]["track"] = "tuning-free, 1 photo"
    one.write()


@forgery("another track, in the recipe as well", "recipe")
def _both_tracks(one):
    one.content["method"]["track"] = one.content["recipe"]["track"] = "tuning-free, 1 photo"
    one.write()


@forgery("a replicate that is a copy of the first", "replicates")
def _replicate(one):
    _add_replicate(one)
    one.write()


@forgery("a replicate that is made up", "", sees="dreambench rerun")
def _made_up(one):
    _add_replicate(one, invent=True)
    one.write()


@forgery("means of a replicate without cells", "cells")
def _bare_replicate(one):
    means = {name: entry["whole"]["mean"] for name, entry in one.metrics.items()}
    n_images = one.content["n_images"]
    one.content["replicates"] = [{"replicate": 2, "n_images": n_images, "means": means}]
    one.write()


def _add_replicate(one, *, invent=False):
    again = one.cells.assign(replicate=2)
    if invent:
        there = again["sha256"].notna()
        sums = [sha256_bytes(f"{row} again".encode()) for row in again.loc[there].index]
        again.loc[there, "sha256"] = sums
    one.cells = type(one.cells)(
        {name: [*one.cells[name], *again[name]] for name in one.cells}
    ).astype(one.cells.dtypes.to_dict())
    n_images = int(again["sha256"].notna().sum())
    means = {name: entry["whole"]["mean"] for name, entry in one.metrics.items()}
    one.content["replicates"] = [{"replicate": 2, "n_images": n_images, "means": means}]


@forgery("a photo given back is not a copy", "agreement")
def _copy(one):
    rows = one.images("dino-lro")[:1]
    n = one.cells.loc[rows, "dino:n_pairs"]
    # An image whose nearest photo is itself.
    one.cells.loc[rows, "dino"] = (1 + (n - 1) * one.cells.loc[rows, "dino-lro"]) / n
    one.cells.loc[rows, "copy"] = 0.0
    one.count()
    one.write()


@forgery("images of one file with several scores", "agreement")
def _one_file(one):
    own = one.cells.loc[one.images("dino-lro")]
    own = own[own["subject"] == own["subject"].iloc[0]].sort_values("dino")
    one.cells.loc[own.index[-1], "sha256"] = own["sha256"].iloc[0]
    one.write()


@forgery("it says itself that it was scored again", "status", "flagged")
def _status(one):
    one.content["status"] = "re-scored"
    one.content["re_scored"] = {
        "session": one.content["sessions"][-1], "n_images": one.content["n_images"],
        "largest_difference": 0.0,
        "means": {name: entry["whole"]["mean"] for name, entry in one.metrics.items()},
    }  # fmt: skip
    one.write()


@forgery("a status that nothing speaks for", "schema")
def _bare_status(one):
    one.content["status"] = "re-run"
    one.write_record()


@forgery("thumbnails with something behind the picture", "thumbnails")
def _payload(one):
    one.put(THUMBNAILS, (one.folder / THUMBNAILS).read_bytes() + b"<script>alert(1)</script>")
    one.write_record()


@forgery("thumbnails with a part of their own", "thumbnails")
def _exif(one):
    content = (
        (one.folder / THUMBNAILS).read_bytes() + b"EXIF" + (8).to_bytes(4, "little") + b"x" * 8
    )
    size = (len(content) - 8).to_bytes(4, "little")
    one.put(THUMBNAILS, content[:4] + size + content[8:])
    one.write_record()


@forgery("thumbnails of 16 million pixels", "thumbnails")
def _bomb(one):
    buffer = io.BytesIO()
    Image.new("RGB", (4_000, 4_000)).save(buffer, "WEBP", quality=1, method=0)
    one.put(THUMBNAILS, buffer.getvalue())
    one.write_record()


@forgery("thumbnails of another record", "thumbnails")
def _strip(one):
    digest, one.content["digest"] = one.content["digest"], "0" * 16
    one.label()
    one.content["digest"] = digest
    one.write_record()


@forgery("a file that is none of a record's", "files")
def _extra(one):
    (one.folder / "run.sh").write_text("#!/bin/sh\n")


@forgery("a link in the place of a file", "files")
def _link(one):
    (one.folder / THUMBNAILS).unlink()
    (one.folder / THUMBNAILS).symlink_to("/etc/passwd")


@forgery("a record.json of 2 MB", "files")
def _large(one):
    one.content["method"]["title"] = "a" * 2_000_000
    one.write_record()


@forgery("a title of 100,000 letters", "texts")
def _long(one):
    one.content["method"]["title"] = one.content["recipe"]["title"] = "a" * 100_000
    one.write_record()


@forgery("values 900 deep in each other", "schema")
def _deep(one):
    (one.folder / RECORD).write_text(
        json.dumps(one.content | {"recipe": 1}).replace(
            '"recipe": 1', '"recipe": ' + "[" * 900 + "]" * 900
        )
    )


@forgery("values 200,000 deep in each other", "schema")
def _deeper(one):
    (one.folder / RECORD).write_text("[" * 200_000)


@forgery("cells that unpack to gigabytes", "schema")
def _parquet_bomb(one):
    table = pa.table({"replicate": pa.array(np.zeros(300_000_000, np.int8))})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    one.put(CELLS, buffer.getvalue())
    one.write_record()


@forgery("cells that are not Parquet", "schema")
def _no_parquet(one):
    one.put(CELLS, b"PAR1" + b"\0" * 100 + b"PAR1")
    one.write_record()


@forgery("cells with a column of their own", "schema")
def _column(one):
    content = pq.read_table(one.folder / CELLS)
    table = content.append_column("note", pa.array(["x"] * len(content)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    one.put(CELLS, buffer.getvalue())
    one.write_record()


@forgery("cells with a text of their own behind them", "hashes")
def _metadata(one):
    table = pq.read_table(one.folder / CELLS).replace_schema_metadata({"note": "x" * 1000})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    one.put(CELLS, buffer.getvalue())
    one.write_record()


@forgery("a digest that is a path", "schema")
def _digest_path(one):
    one.content["digest"] = "../../../etc"
    one.write_record()


@forgery("a method whose name is a path", "schema")
def _name_path(one):
    one.content["method"]["name"] = "../../x"
    (one.folder / RECORD).write_text(json.dumps(one.content))


@forgery("a metric with the name of a column", "schema")
def _metric_name(one):
    one.metrics["sha256"] = {**one.metrics["dino"]}
    one.metrics["sha256"]["info"] = {**one.metrics["dino"]["info"], "name": "sha256"}
    (one.folder / RECORD).write_text(json.dumps(one.content))


@forgery("an address that is a script", "schema")
def _address(one):
    one.content["paper_url"] = "javascript:alert(1)"
    one.write_record()


@forgery("a number that is none", "schema")
def _nan(one):
    one.metrics["dino"]["whole"]["mean"] = float("nan")
    one.write_record()


@forgery("escape sequences in a title", "texts", "flagged")
def _escapes(one):
    one.content["method"]["title"] = one.content["recipe"]["title"] = "\x1b[2Ja\u202egnp.exe"
    one.write_record()


@forgery("a path of a machine", "private")
def _private(one):
    one.content["method"]["source"] = one.content["recipe"]["source"] = "/home/ann/photos/dog"
    one.write_record()


@forgery("a protocol of a hundred million images", "plan")
def _many(one):
    protocol = one.content["protocol"]
    protocol["name"], protocol["n_images_per_prompt"] = "many", 1000
    first = protocol["prompts"][0]
    protocol["prompts"] += [
        {**first, "id": f"p{n}", "text": f"{{subject}} {n}"} for n in range(2000)
    ]
    one.content["prompts"] = [prompt["id"] for prompt in protocol["prompts"]]
    one.content["digests"]["protocol"] = Protocol.model_validate(protocol).digest()
    one.write()


def copy_record(folder, records):
    """Return a copy of a record below a folder of records, under its own path."""
    target = records.joinpath(*folder.parts[-3:])
    shutil.copytree(folder, target)
    return Forged(target)


BOARD_FORGERIES = []
"""What is done to a folder of records that was a board before; `forge` takes folder and record."""


def board_forgery(name, check, outcome="failed"):
    def add(function):
        BOARD_FORGERIES.append(Forgery(name, function, check, outcome))
        return function

    return add


@board_forgery("a number moves by .01 under the same digest", "changes")
def _moved(records, one):
    one.cells.loc[one.images("clip-t"), "clip-t"] += 0.01
    one.count()
    one.write()


@board_forgery("a metric is taken out under the same digest", "changes")
def _lost_metric(records, one):
    del one.metrics["leak"]
    one.cells = one.cells.drop(columns=["leak", "leak:n_pairs"])
    one.write()


@board_forgery("another title under the same digest", "changes")
def _other_title(records, one):
    one.content["method"]["title"] = one.content["recipe"]["title"] = "The best"
    one.write_record()


@board_forgery("a record is taken away", "gone")
def _gone(records, one):
    shutil.rmtree(one.folder)


@board_forgery("another's images under one's own name", "duplicates")
def _stolen(records, one):
    target = one.folder.parents[1] / "mine" / one.folder.name
    mine = Forged(Path(shutil.copytree(one.folder, target)))
    mine.content["method"]["name"] = mine.content["recipe"]["name"] = "mine"
    mine.write()


@board_forgery("some of another's images among one's own", "duplicates", "flagged")
def _borrowed(records, one):
    (other,) = records.glob("*/class-only/*")
    theirs = Forged(other)
    one.cells.loc[one.images()[0], "sha256"] = theirs.cells.loc[one.images()[0], "sha256"]
    one.write()


@board_forgery("a floor that is lower than its record's", "floor", "flagged")
def _floor(records, one):
    one.content["floor"]["means"]["dino"] -= 0.1
    one.write()


@board_forgery("another evaluator under the same digest", "changes")
def _evaluator(records, one):
    one.content["evaluator"] = "maintainers"
    one.write_record()


def find_worst(checked, name):
    """The outcome of a check over many records: failed, flagged or passed."""
    found = {list_outcomes(one.found).get(name, "passed") for one in checked}
    return next((one for one in ("failed", "flagged") if one in found), "passed")


def list_outcomes(found):
    """The outcome by check of what `check` found of one record."""
    return {one.what: one.outcome for one in found}


def find_line(found, name):
    """The first line of a check."""
    return next((one.lines[0] for one in found if one.what == name), "")
