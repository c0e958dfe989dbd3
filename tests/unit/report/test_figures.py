"""Figures for papers: three files of one size and equal bytes, marks for greyscale, no overlap."""

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image
from scored_runs import info_of

from dreambench.report import drawing, figures
from dreambench.report.drawing import (
    MARKERS,
    assign_marks,
    label_points,
    styled,
    wrap_name,
)
from dreambench.report.figures import plot_families, plot_fidelity, plot_intervals, plot_steps
from dreambench.report.formatting import COLUMN_IN, TEXT_IN
from dreambench.report.heatmap import plot_responses

INFOS = {name: info_of(name) for name in ("dino", "clip-i", "clip-t", "div", "pres")}
BOUNDS = {"dino": {"copy_bound": 0.88, "faithful_bound": 0.85}}


def make_table(methods, *, metrics=tuple(INFOS), seed=0, spread=0.15):
    rng = np.random.default_rng(seed)
    rows = [
        {"method": m, "metric": k, "family": f, "n_steps": s, "mean": x, "low": x - 0.1,
         "high": x + 0.1}
        for m in methods for k in metrics for f, s in (("art", 0), ("property", 10))
        for x in [rng.normal(0.5, spread)]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def plot_all(folder, methods):
    table = make_table(methods)
    one = table[table["family"] == "art"]
    names = {"references": methods[-1:]}
    numbers = table.pivot_table(index="metric", columns="method", values="mean")
    return [
        *plot_intervals(one, folder / "intervals", infos=INFOS, bounds=BOUNDS, **names),
        *plot_families(table, folder / "families", infos=INFOS, **names),
        *plot_fidelity(one, folder / "fidelity", bounds=BOUNDS["dino"], **names),
        *plot_steps(table, folder / "steps", infos=INFOS),
        *plot_responses(
            numbers, numbers * 4, numbers.mean(axis=1), list(numbers.index), folder / "responses"
        ),
    ]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return plot_all(folder, ["a.b", "class-only"])


def width_in(path):
    if path.suffix == ".png":
        image = Image.open(path)
        return image.width / image.info["dpi"][0]
    if path.suffix == ".svg":
        return float(ET.parse(path).getroot().get("width").removesuffix("pt")) / 72
    box = re.search(rb"/MediaBox \[ ?([0-9. ]+)\]", path.read_bytes())[1]
    return float(box.split()[2]) / 72


def test_each_figure_is_there_in_three_forms_in_the_width_of_a_column_or_a_text(paths):
    assert len(paths) == 15
    for path in paths:
        assert min(abs(width_in(path) - width) for width in (COLUMN_IN, TEXT_IN)) < 0.01, path


def test_equal_data_gives_equal_files_without_a_date_or_a_version(paths, tmp_path):
    for first, second in zip(paths, plot_all(tmp_path, ["a.b", "class-only"]), strict=True):
        content = second.read_bytes()
        assert first.read_bytes() == content
        assert mpl.__version__.encode() not in content and b"CreationDate" not in content


def test_a_pdf_has_its_letters_as_truetype(paths):
    for path in paths:
        if path.suffix == ".pdf":
            fonts = set(re.findall(rb"/FontFile\d?", path.read_bytes()))
            assert fonts == {b"/FontFile2"} and b"/Type3" not in path.read_bytes()


def test_marks_tell_methods_apart_without_colour():
    names = [f"m{n}" for n in range(2 * len(MARKERS))]
    marks = assign_marks([*names, "class-only", "copy-reference"], ["class-only", "copy-reference"])
    shapes = {(mark.marker, mark.is_filled) for mark in marks.values()}
    assert len(shapes) == len(marks)
    assert marks["m0"] == assign_marks(["m0", "other"])["m0"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("dreambooth", ["dreambooth"]),
        ("textual-inversion-long", ["textual-", "inversion-", "long"]),
        ("dreambooth+n_steps=10", ["dreambooth", "+n_steps=10"]),
        ("x" * 30, ["x" * 12, "x" * 12, "x" * 6]),
        ("x" * 99, ["x" * 12, "x" * 12, "x" * 12, "x" * 11 + "…"]),
    ],
)
def test_a_long_name_is_broken_where_it_is_joined(name, lines):
    assert wrap_name(name, 12).split("\n") == lines


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are made, instead of their files."""
    made = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, stem: made.append(figure) or [])
    return made


def boxes_of(figure):
    with styled():
        figure.draw_without_rendering()
        return {
            one.get_text(): mpl.text.Text.get_window_extent(one)
            for one in figure.findobj(Annotation)
        }


@pytest.mark.parametrize("n_methods", [2, 6, 7, 14])
def test_names_in_the_fidelity_plot_lie_on_no_other_and_inside(n_methods, drawn, tmp_path):
    methods = [f"method-number-{n}" for n in range(n_methods)]
    table = make_table(methods, metrics=["dino", "clip-t"]).drop_duplicates(["method", "metric"])
    plot_fidelity(table, tmp_path / "x", bounds=BOUNDS["dino"])
    boxes = boxes_of(drawn[0])
    assert set(boxes) == {*methods, "copy bound", "faithful bound"}
    width, height = drawn[0].get_size_inches() * 72
    every = list(boxes.values())
    for index, box in enumerate(every):
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        assert not any(box.overlaps(other) for other in every[index + 1 :])


def test_the_fidelity_plot_has_intervals_both_ways_and_the_bounds(drawn, tmp_path):
    table = make_table(["a", "b"], metrics=["dino", "clip-t"]).drop_duplicates(["method", "metric"])
    plot_fidelity(table, tmp_path / "x", bounds=BOUNDS["dino"])
    lines = {tuple(np.ravel(line.get_xydata())) for line in drawn[0].axes[0].lines}
    values = table.set_index(["method", "metric"])
    for method in ("a", "b"):
        x, y = values.loc[method, "clip-t"], values.loc[method, "dino"]
        assert (x["low"], y["mean"], x["high"], y["mean"]) in lines
        assert (x["mean"], y["low"], x["mean"], y["high"]) in lines
    assert {(0.0, value, 1.0, value) for value in BOUNDS["dino"].values()} <= lines


def test_steps_join_the_methods_that_none_is_better_than_in_both(drawn, tmp_path):
    means = {"low": (0.1, 0.1), "x": (0.9, 0.2), "y": (0.3, 0.8), "dull": (0.2, 0.7), "ref": (1, 1)}
    rows = [
        {"method": m, "metric": k, "mean": v, "low": np.nan, "high": np.nan}
        for m, pair in means.items() for k, v in zip(("clip-t", "dino"), pair, strict=True)
    ]  # fmt: skip
    plot_fidelity(pd.DataFrame(rows), tmp_path / "x", references=["ref"])
    front = next(line for line in drawn[0].axes[0].lines if len(line.get_xdata()) > 2)
    corners = [tuple(point) for point in front.get_xydata()]
    assert corners[1:4] == [(0.9, 0.2), (0.3, 0.2), (0.3, 0.8)]
    assert corners[0][0] == 0.9 and corners[-1][1] == 0.8


def test_many_methods_get_a_legend_below_the_plot(drawn, tmp_path):
    methods = [f"method-number-{n}" for n in range(40)]
    table = make_table(methods, metrics=["dino", "clip-t"], spread=0.02)
    plot_fidelity(table.drop_duplicates(["method", "metric"]), tmp_path / "x")
    boxes_of(drawn[0])
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == methods
    assert legend.get_window_extent().y1 <= drawn[0].axes[0].get_tightbbox().y0
    assert legend.get_window_extent().y0 >= 0


def test_more_metrics_than_fit_get_further_rows(drawn, tmp_path):
    infos = {f"m{n}": info_of("dino", title=f"M{n}") for n in range(7)}
    table = make_table(["a", "b"], metrics=tuple(infos)).drop_duplicates(["method", "metric"])
    plot_intervals(table, tmp_path / "x", infos=infos)
    tops = [round(axis.get_position().y1, 6) for axis in drawn[0].axes]
    assert len(tops) == 7 and len(set(tops)) == 2
    assert [axis.get_title() for axis in drawn[0].axes][::6] == [
        "M0\nhigher is better", "M6\nhigher is better"
    ]  # fmt: skip


def test_a_name_without_room_is_not_squeezed_in():
    figure = Figure(figsize=(1, 1), dpi=72)
    axis = figure.add_axes((0, 0, 1, 1))
    with styled():
        assert not label_points(axis, {"a" * 20: (0.5, 0.5)}, taken=[], crossed=[])
    assert not axis.texts
    assert drawing.MARK_PT > 0


def test_type_in_print_is_of_seven_points_or_more(drawn, tmp_path):
    table = make_table(["a", "b"])
    one = table[table["family"] == "art"]
    plot_intervals(one, tmp_path / "x", infos=INFOS, bounds=BOUNDS)
    plot_fidelity(one, tmp_path / "x", bounds=BOUNDS["dino"])
    plot_steps(table, tmp_path / "x", infos=INFOS)
    sizes = {
        text.get_fontsize()
        for figure in drawn
        for text in figure.findobj(mpl.text.Text)
        if text.get_text()
    }
    assert min(sizes) >= 7 and max(sizes) <= 9
