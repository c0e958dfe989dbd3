"""The plane of both fidelities: names never lie on each other, on marks or outside."""

import itertools

import numpy as np
import pytest

from dreambench.leaderboard.plane import FONT_PX, LETTER_PX, Point, find_front, make_plane

SIZES = [(960.0, 560.0), (380.0, 460.0)]
LINES = [("copy bound", 0.88), ("faithful bound", 0.86), ("floor: class-only", 0.1)]


def box_of(label):
    top = label.y - 4 - FONT_PX / 2
    return label.x, top, label.x + len(label.text) * LETTER_PX, top + FONT_PX


def overlap(first, second):
    across = min(first[2], second[2]) - max(first[0], second[0])
    return across > 0.2 and min(first[3], second[3]) - max(first[1], second[1]) > 0.2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.3, 0.02, 0.0])
@pytest.mark.parametrize("n_points", [2, 25, 80])
def test_names_have_room_or_are_left_out(size, spread, n_points):
    rng = np.random.default_rng(n_points)
    points = [
        Point(f"method-number-{n}", *(0.5 + spread * rng.uniform(-1, 1, 2)), (0.4, 0.6), None)
        for n in range(n_points)
    ]
    plane = make_plane(points, LINES, width=size[0], height=size[1])
    boxes = [box_of(mark.label) for mark in plane.marks if mark.label]
    assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]
    assert min(min(box) for box in boxes) >= 0
    assert all(box[2] <= size[0] and box[3] <= size[1] for box in boxes)
    marks = [(m.x - 4, m.y - 4, m.x + 4, m.y + 4) for m in plane.marks]
    assert not [1 for box in boxes for mark in marks if overlap(box, mark)]
    assert plane.n_without_label == n_points - len(boxes) and boxes
    heights = [line.text_y for line in plane.lines]
    assert min(abs(a - b) for a, b in itertools.combinations(heights, 2)) >= FONT_PX


def test_all_of_an_ordinary_board_are_named_on_a_desk():
    rng = np.random.default_rng(1)
    points = [Point(f"method-{n}", *rng.uniform(0.2, 0.8, 2)) for n in range(20)]
    assert make_plane(points, LINES, width=960, height=560).n_without_label == 0


def test_the_front_are_those_that_no_other_beats_in_both():
    points = [
        Point("best in y", 0.1, 0.9), Point("between", 0.5, 0.5), Point("beaten", 0.4, 0.4),
        Point("best in x", 0.9, 0.1), Point("equal in x, lower", 0.9, 0.05),
    ]  # fmt: skip
    assert [p.name for p in find_front(points)] == ["best in y", "between", "best in x"]
    oracle = Point("oracle", 0.95, 0.95, is_reference=True)
    plane = make_plane([Point("a", 0.9, 0.1), oracle], [], width=400, height=400)
    assert [mark.name for mark in plane.marks if mark.is_front] == ["a"]
    twins = [Point("a", 0.5, 0.5), Point("b", 0.5, 0.5)]
    assert find_front(twins) == twins


def test_a_point_is_where_its_value_is():
    points = [Point("a", 0.25, 0.25), Point("b", 0.75, 0.75), Point("c", 0.5, 0.5)]
    plane = make_plane(points, [], width=400, height=400)
    a, b, c = plane.marks
    assert a.x < c.x < b.x and a.y > c.y > b.y
    assert c.x == pytest.approx((a.x + b.x) / 2, abs=0.1)
    ticks = {text: x for x, text in plane.x_ticks}
    assert ticks[".5"] == pytest.approx(c.x, abs=0.1)
