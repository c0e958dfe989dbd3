"""Grids: one prompt a column, each image under its own prompt, fit for a page."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambench.artifacts.plan import make_plan
from dreambench.config.protocol import Protocol, load_all, load_protocol
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.report.image_grids import make_blocks, write_side_by_side
from dreambench.report.pictures import CELL_PX, GridBlock, plot_grid

PROTOCOL = load_protocol("mini")
SUBJECTS = load_subjects(find_dataset("mini"))


@dataclass
class Images:
    """Images whose colour says which subject and prompt they are of."""

    folder: Path
    subjects: list = field(default_factory=lambda: list(SUBJECTS))
    protocol: Protocol = PROTOCOL

    def __post_init__(self):
        self.plan = make_plan(self.protocol, self.subjects, batch_size=4)
        for unit in self.plan.images:
            path = self.folder / unit.relative_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(paint(unit))

    def find_image(self, unit):
        return self.folder / unit.relative_path


def paint(unit):
    ids = list(dict.fromkeys(prompt.id for prompt in PROTOCOL.prompts))
    names = [subject.name for subject in SUBJECTS]
    first = unit.subject.partition("+")[0]
    number = ids.index(unit.prompt_id) if unit.prompt_id in ids else 99
    content = io.BytesIO()
    color = (10 * names.index(first) + 5, 10 * number + 5, 200)
    Image.new("RGB", (64, 64), color).save(content, "png")
    return content.getvalue()


def test_a_column_has_one_prompt_and_each_image_is_under_its_own(tmp_path):
    images = Images(tmp_path)
    blocks = make_blocks(images)
    texts = {prompt.id: prompt.text for prompt in PROTOCOL.prompts}
    kinds = {subject.name: subject.kind for subject in SUBJECTS}
    assert [name for block in blocks for name, _, _ in block.rows] == [s.name for s in SUBJECTS]
    for block in blocks:
        assert len(set(block.titles)) == len(block.titles) == 10
        assert len({kinds[name] for name, _, _ in block.rows}) == 1
        for name, _, files in block.rows:
            assert [file.parent.parent.name for file in files] == [name] * 10
            shown = [texts[file.parent.name].replace("{subject}", "[V]") for file in files]
            assert shown == list(block.titles)


def test_subjects_of_one_kind_are_one_block(tmp_path):
    live = [subject for subject in SUBJECTS if subject.kind == "live"]
    assert len(make_blocks(Images(tmp_path, subjects=live))) == 1


def test_a_pair_has_photos_of_both_and_two_marks_in_its_prompts(tmp_path):
    protocol = load_protocol("mini-pairs")
    pairs = load_all(protocol, protocol.find_dataset())
    images = Images(tmp_path, subjects=pairs, protocol=protocol)
    blocks = make_blocks(images)
    assert [name for block in blocks for name, _, _ in block.rows] == [p.name for p in pairs]
    assert blocks[0].titles[0] == "a [V] and a [W] in the jungle"
    for name, photos, _ in blocks[0].rows:
        assert [photo.parent.name for photo in photos[:2]] == name.split("+")
        assert len(photos) == 10


def test_pictures_lie_where_the_rows_and_columns_say(tmp_path):
    colors = ["red", "lime", "blue", "yellow"]
    files = [tmp_path / f"{color}.png" for color in colors]
    for file, color, size in zip(
        files, colors, [(64, 64), (700, 700), (300, 150), (9, 9)], strict=True
    ):
        Image.new("RGB", size, color).save(file)
    rows = [("one", (), files), ("two", (), [*files[::-1][:3], Path("none.png")])]
    # Dollar signs are not mathematics here.
    blocks = [GridBlock([f"${name} and $ {name}" for name in colors], rows)]
    page = np.asarray(Image.open(plot_grid(blocks, tmp_path / "grid.png", n_references=0)))
    ys, xs = np.nonzero((page == (255, 0, 0)).all(2))
    top, left = ys.min() + CELL_PX // 2 - 3, xs.min() + CELL_PX // 2 - 3

    def color_at(row, column):
        return tuple(page[top + row * CELL_PX, left + column * CELL_PX])

    red, lime, blue, yellow, white = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255),
    )  # fmt: skip
    assert [color_at(0, n) for n in range(4)] == [red, lime, blue, yellow]
    assert [color_at(1, n) for n in range(4)] == [yellow, blue, lime, white]
    # Nothing is cut off at the page's edges: they are white.
    edges = (page[0], page[-1], page[:, 0], page[:, -1])
    assert all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize("text", ["a [V] " + "and so on " * 40, "x" * 300])
def test_long_prompts_and_names_stay_on_the_page(tmp_path, text):
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(file)
    blocks = [GridBlock([text, "short"], [("n" * 60, [file], [file, file])])]
    page = np.asarray(Image.open(plot_grid(blocks, tmp_path / "grid.png", n_references=1)))
    edges = (page[0], page[-1], page[:, 0], page[:, -1])
    assert all((edge == 255).all() for edge in edges)


def test_side_by_side_shows_a_prompt_of_every_category(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "dreambench.report.image_grids.plot_grid", lambda blocks, path, **_: drawn.extend(blocks)
    )
    write_side_by_side([("a", Images(tmp_path)), ("b", Images(tmp_path))], tmp_path / "s.png")
    (block,) = drawn
    shown = {file.parent.name for file in block.rows[1][2]}
    families = {prompt.id: prompt.family for prompt in PROTOCOL.prompts}
    assert {families[name] for name in shown} == set(families.values())
    assert [name for name, _, _ in block.rows] == ["a photo", "a", "b"]
