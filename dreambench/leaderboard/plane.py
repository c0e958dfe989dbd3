"""The plane of prompt and subject fidelity: where each mark, line and name of the plot goes.

Nothing is drawn here: a template puts these places into an SVG, whose colours are the page's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dreambench.report.formatting import format_number

FONT_PX = 12
LETTER_PX = 6.7
"""A little more than the mean width of a letter, so that no name is wider than thought."""
MARK_PX, GAP_PX = 5.0, 4.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 44.0
N_TICKS = 6
MAX_LETTERS = 26


@dataclass(frozen=True)
class Point:
    """A method in the plane: means, and intervals where there are any."""

    name: str
    x: float
    y: float
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    is_reference: bool = False


@dataclass(frozen=True)
class Label:
    """A name: where its text starts, and where a line to its mark ends, if it needs one."""

    text: str
    x: float
    y: float
    leader: tuple[float, float] | None


@dataclass(frozen=True)
class Mark:
    """A method as it is drawn. `label` is None where there is no room for the name."""

    name: str
    x: float
    y: float
    x_ends: tuple[float, float] | None
    y_ends: tuple[float, float] | None
    is_front: bool
    label: Label | None
    words: str


@dataclass(frozen=True)
class Line:
    """A value of the vertical axis that is not a method's: a bound or the floor."""

    text: str
    y: float
    text_y: float


@dataclass(frozen=True)
class Plane:
    """All that a plot of this size shows, in pixels."""

    width: float
    height: float
    marks: Sequence[Mark]
    lines: Sequence[Line]
    front: Sequence[tuple[float, float]]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    n_without_label: int


Box = tuple[float, float, float, float]


def find_front(points: Sequence[Point]) -> list[Point]:
    """Return those that no other is at least as high as in both and higher in one, by x."""

    def is_beaten(point: Point) -> bool:
        return any(
            one.x >= point.x and one.y >= point.y and (one.x, one.y) != (point.x, point.y)
            for one in points
        )

    best = [point for point in points if not is_beaten(point)]
    return sorted(best, key=lambda point: (point.x, point.name))


def make_plane(
    points: Sequence[Point], lines: Sequence[tuple[str, float]], *, width: float, height: float
) -> Plane:
    """Place points, and lines of the vertical axis with their names, in a plot of this size."""
    x_axis = _Axis([v for p in points for v in (p.x, *(p.x_ends or ()))], LEFT, width - RIGHT)
    y_values = [v for p in points for v in (p.y, *(p.y_ends or ()))]
    y_axis = _Axis([*y_values, *(value for _, value in lines)], height - BOTTOM, TOP)
    placed = {id(p): (x_axis.place(p.x), y_axis.place(p.y)) for p in points}
    shown_lines = _place_lines([(text, y_axis.place(value)) for text, value in lines])
    front = find_front([point for point in points if not point.is_reference])
    taken = [_around(*where, MARK_PX + 1) for where in placed.values()]
    taken += [
        _box(LEFT + 6, line.text_y, _measure(line.text), is_above=True) for line in shown_lines
    ]
    labels: dict[int, Label | None] = {}
    frame = (LEFT, TOP, width - 2.0, height - BOTTOM)
    # The front is named first, so that it has room.
    for point in sorted(points, key=lambda one: (one not in front, -one.y, one.name)):
        found = _place_label(point.name, placed[id(point)], taken, frame)
        labels[id(point)] = found
    marks = [
        Mark(
            point.name, *_round(placed[id(point)]),
            point.x_ends and _round(map(x_axis.place, point.x_ends)),
            point.y_ends and _round(map(y_axis.place, point.y_ends)),
            point in front, labels[id(point)],
            f"{point.name}: CLIP-T {format_number(point.x)}, DINO {format_number(point.y)}",
        )
        for point in points
    ]  # fmt: skip
    return Plane(
        width, height, marks, shown_lines, [_round(placed[id(point)]) for point in front],
        x_axis.ticks(), y_axis.ticks(), sum(mark.label is None for mark in marks),
    )  # fmt: skip


class _Axis:
    """Turns values into pixels between two ends, with a margin, and chooses round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = 0.06 * (high - low) or 0.1
        self._low, self._high, self._start, self._end = low - margin, high + margin, start, end

    def place(self, value: float) -> float:
        """Return where a value is."""
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places of round values with their text."""
        rough = (self._high - self._low) / N_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            (round(self.place(n * step), 1), _shorten_zero(f"{n * step:.{digits}f}"))
            for n in range(first, last + 1)
        ]


def _shorten_zero(text: str) -> str:
    short = text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
    return "0" if not short.strip("-.0") else short


def _round(values: Sequence[float] | Iterator[float]) -> tuple[float, float]:
    first, second = values
    return round(first, 1), round(second, 1)


def _place_lines(lines: Sequence[tuple[str, float]]) -> list[Line]:
    """Return lines from the top down, each name above its line or, where one is near, below it."""
    found: list[Line] = []
    for text, y in sorted(lines, key=lambda one: one[1]):
        is_near = bool(found) and y - 4 - FONT_PX < max(found[-1].y, found[-1].text_y)
        lowest = found[-1].text_y + FONT_PX + 2 if found else 0.0
        text_y = max(y + FONT_PX, lowest) if is_near else y - 4
        found.append(Line(text, round(y, 1), round(text_y, 1)))
    return found


def _measure(text: str) -> float:
    return len(text) * LETTER_PX


def _around(x: float, y: float, size: float) -> Box:
    return x - size, y - size, x + size, y + size


def _box(x: float, y: float, width: float, *, is_above: bool) -> Box:
    """Return the box of a text on the line `y`, or in the middle of it."""
    top = y - FONT_PX if is_above else y - FONT_PX / 2
    return x, top, x + width, top + FONT_PX + 2


def _overlap(first: Box, second: Box) -> bool:
    return (
        first[0] < second[2] and second[0] < first[2]
        and first[1] < second[3] and second[1] < first[3]
    )  # fmt: skip


def _place_label(
    name: str, where: tuple[float, float], taken: list[Box], frame: Box
) -> Label | None:
    """Put a name beside its mark where nothing is, and add its box to what is taken."""
    text = name if len(name) <= MAX_LETTERS else name[: MAX_LETTERS - 1] + "…"
    width = _measure(text)
    x, y = where
    for distance in (0.0, 10.0, 20.0, 32.0, 46.0):
        for across, down in ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1)):
            reach = MARK_PX + GAP_PX + distance * (0.75 if across and down else 1)
            middle = y + down * (reach + (4 if not across else 2))
            start = x + across * reach - (width if across < 0 else 0 if across else width / 2)
            box = _box(start, middle, width, is_above=False)
            is_inside = (
                box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2]
                and box[3] <= frame[3]
            )  # fmt: skip
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                near = (min(max(x, start), start + width), middle)
                return Label(
                    text, round(start, 1), round(middle + 4, 1), _round(near) if distance else None
                )
    return None
