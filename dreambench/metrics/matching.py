"""Where a photo's subject lies in an image: the greatest correlation over moves, turns and sizes.

A subject that was cut out of a photo and set into another picture keeps its pixels, whatever lies
around it; so it is looked for by the photo's own pixels under its own mask, and nothing has to be
cut out of the image. The correlation is that of colours, from which each channel's mean has been
taken, so that it does not depend on brightness, contrast or an even tint. Three steps: a search
over all places in a small picture, for a grid of sizes, turns and mirror images, by Fourier
transforms (masked normalised correlation: Padfield, "Masked object registration in the Fourier
domain", 2012); from its best finds on, least squares over place, size and turn between pixels; and
there the correlation of both when they are smoothed, without what lies around the subject, and the
photo blurred further. The last step forgives a blurred or resized paste its lost detail, and not a
new picture its other forms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.optimize import leastsq

from dreambench.types import Features, Values

SHRINK = 2
"""The search runs in a picture whose sides are so many times smaller."""
SIZES = np.geomspace(0.6, 1.6, 6)
"""Of the subject in the image, where it has 1 in the photo; steps of 22 %."""
TURNS = np.deg2rad(np.arange(-30, 31, 15))
VISIBLE = 0.8
"""Share of the subject's pixels that has to lie within the image."""
FLAT = 0.05
"""An area with less than this share of the photo's contrast counts as having it: noise is not
a match.
"""
N_FINDS = 3
"""So many matches of the search are refined, each of another photo or mirror image."""
SMOOTHING_PX = 1.0
"""Deviation of the Gaussian that the last step smooths both with."""
BLURS_PX = (0.0, 0.7, 1.2)
"""Further blurs of the photo that it tries, since a paste may have been blurred."""
MAX_LOG_SIZE = 0.75
MIN_PIXELS = 9
"""A mask with fewer pixels, in the search's picture, is not a subject."""

# Brightness and two differences of colours: an even tint moves the former alone by much.
_COLOURS = np.array(
    [[1 / 3**0.5] * 3, [0.5**0.5, -(0.5**0.5), 0.0], [1 / 6**0.5, 1 / 6**0.5, -(2 / 6**0.5)]]
)

Array = NDArray[np.float64]
Small = NDArray[np.float32]
Turn = tuple[float, float, float]


@dataclass(frozen=True)
class _Photo:
    """The subject's pixels in a photo: offsets (n, 2) from their `middle`, and colours (n, 3)."""

    offsets: Array
    colors: Array

    @functools.cached_property
    def radius(self) -> float:
        """Root mean square distance from the middle, in pixels."""
        return math.sqrt((self.offsets**2).sum(1).mean())

    @functools.cached_property
    def share(self) -> Array:
        """What a pixel is of them all: (n,)."""
        return np.full(len(self.colors), 1 / len(self.colors))

    @functools.cached_property
    def normalised(self) -> tuple[Array, float]:
        """Colours less their channels' means and of unit length, and their energy before."""
        return _normalise_photo(self.colors, self.share)


@dataclass(frozen=True)
class _Find:
    """A place of a photo's subject in the image: middle in pixels, logarithm of size, turn."""

    photo: _Photo
    mirror: float
    place: Array


def compute_subject_matches(images: Features, photos: Features, masks: Features) -> Values:
    """Return how well each image matches some photo's subject wherever it lies: (n,) in [-1, 1].

    `images` (n, 3 s s) and `photos` (m, 3 s s) are colours in [0, 1] of pictures of side s, which
    is even; `masks` (m, s s) are above .5 where a photo shows its subject. 1 is the same pixels.
    NaN where no photo shows a subject.
    """
    side = math.isqrt(images.shape[1] // 3)
    matcher = _Matcher(_unfold(photos, side), masks.reshape(-1, side, side) > 0.5)
    # Who copies photos gives the same picture back again and again.
    found: dict[bytes, float] = {}
    for row, image in zip(images, _unfold(images, side), strict=True):
        if row.tobytes() not in found:
            found[row.tobytes()] = matcher.match(image)
    return np.array([found[row.tobytes()] for row in images], np.float64)


def _unfold(rows: Features, side: int) -> Array:
    return rows.reshape(-1, side, side, 3).astype(np.float64)


def _shrink(values: Array) -> Array:
    """Return the means of squares of SHRINK x SHRINK pixels."""
    height, width, *more = values.shape
    tiles = values.reshape(height // SHRINK, SHRINK, width // SHRINK, SHRINK, *more)
    found: Array = tiles.mean((1, 3))
    return found


def _turn(turn: Turn) -> Array:
    """Return the matrix of a mirror image (-1) or none (1), logarithm of size, and turn."""
    mirror, log_size, angle = turn
    cosine, sine = math.cos(angle), math.sin(angle)
    return math.exp(log_size) * np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])


class _Matcher:
    """All photos of a subject, ready to be looked for."""

    def __init__(self, photos: Array, masks: NDArray[np.bool_]) -> None:
        self.side = photos.shape[1] // SHRINK
        self.turns: list[tuple[_Photo, Turn]] = []
        colors, shapes = [], []
        for photo, mask in zip(photos, masks, strict=True):
            small = _shrink(mask.astype(np.float64)) > 0.5
            if small.sum() < MIN_PIXELS:
                continue
            rows, columns = np.nonzero(mask)
            middle = np.array([columns.mean(), rows.mean()])
            one = _Photo(np.stack([columns, rows], 1) - middle, photo[mask])
            for turn, template, shape in self._make_templates(photo, mask, middle):
                self.turns.append((one, turn))
                colors.append(template)
                shapes.append(shape)
        if not self.turns:
            return
        shown, templates = np.array(shapes, np.float32), np.array(colors, np.float32)
        # A template's numbers, and those of the part of it that lies within the image wherever it
        # is put: pixels, sum of brightness, and energy less that of the mean.
        channels = self._transform(templates).conj()
        self._shape = self._transform(shown).conj()
        inside = self._transform(np.ones_like(shown[0]))
        n_pixels = self._invert(inside * self._shape).round()
        allowed = n_pixels >= VISIBLE * n_pixels.max((1, 2), keepdims=True)
        # Most places are allowed to no template: nothing is computed there.
        self._rows = np.flatnonzero(allowed.any((0, 2)))
        self._columns = np.flatnonzero(allowed.any((0, 1)))
        bright = self._invert(inside * channels[:, 0])
        squares = self._transform((templates**2).sum(1)).conj()
        energy = self._invert(inside * squares)
        n_pixels = np.maximum(n_pixels, 1)
        energy = np.maximum(energy - bright**2 / n_pixels, 1e-6)
        self._channels = np.ascontiguousarray(channels.swapaxes(0, 1))
        self._forbidden = ~self._crop(allowed)
        self._n_pixels, self._bright = self._crop(n_pixels), self._crop(bright)
        self._energy = self._crop(energy)
        self._flat = FLAT * self._energy

    def _crop(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what lies in the rows and columns that are allowed to some template."""
        return np.ascontiguousarray(values[:, self._rows][:, :, self._columns])

    def _make_templates(
        self, photo: Array, mask: NDArray[np.bool_], middle: Array
    ) -> Iterator[tuple[Turn, Array, NDArray[np.bool_]]]:
        """Yield the small subject at each size and turn, in the middle of a picture of its own."""
        small = _shrink(photo) @ _COLOURS.T
        shape = _shrink(mask.astype(np.float64))
        start = (middle + 0.5) / SHRINK - 0.5
        centre = np.full(2, (self.side - 1) / 2)
        for mirror, size, angle in product((1.0, -1.0), SIZES, TURNS):
            turn = (mirror, math.log(size), float(angle))
            # From a pixel of the template to one of the photo; (row, column), as scipy counts.
            back = np.linalg.inv(_turn(turn))
            offset = (start - back @ centre)[::-1]
            back = back[::-1, ::-1]
            seen = affine_transform(shape, back, offset, order=1) > 0.5
            if seen.sum() < MIN_PIXELS:
                continue
            layers = np.stack(
                [affine_transform(small[..., n], back, offset, order=1) for n in range(3)]
            )
            layers[0] -= layers[0][seen].mean()
            yield turn, layers * seen, seen

    def match(self, image: Array) -> float:
        """Return the greatest correlation; NaN where there is no photo to look for."""
        if not self.turns:
            return math.nan
        corners = _join_corners(image)
        return max(self._refine(corners, find) for find in self._search(image))

    def _transform(self, values: NDArray[np.floating[Any]]) -> NDArray[np.complex64]:
        return fft.rfft2(values, (2 * self.side, 2 * self.side))  # type: ignore[no-any-return]

    def _invert(self, values: NDArray[np.complex64]) -> Small:
        return fft.irfft2(values, (2 * self.side, 2 * self.side))  # type: ignore[no-any-return]

    def _invert_allowed(self, values: NDArray[np.complex64]) -> Small:
        """Return the same bits as `_invert`, where they are allowed, and overwrite `values`."""
        side = 2 * self.side
        options: dict[str, Any] = {"norm": "forward", "overwrite_x": True}
        half = fft.ifft(values, axis=1, **options)[:, self._rows]
        found = fft.irfft(half, side, axis=2, **options)[:, :, self._columns]
        found *= np.float32(1 / side**2)
        return found  # type: ignore[no-any-return]

    def _search(self, image: Array) -> Sequence[_Find]:
        """Return the best finds in the small image, each of another photo or mirror image."""
        small = (_shrink(image) @ _COLOURS.T).transpose(2, 0, 1).astype(np.float32)
        seen = self._transform(small)
        product, more = seen[0] * self._channels[0], np.empty_like(self._channels[0])
        for layer, channel in zip(seen[1:], self._channels[1:], strict=True):
            product += np.multiply(layer, channel, out=more)
        matches = self._invert_allowed(product)
        total = self._invert_allowed(np.multiply(seen[0], self._shape, out=product))
        energy_of = self._transform((small**2).sum(0))
        energy = self._invert_allowed(np.multiply(energy_of, self._shape, out=product))
        mean = total / self._n_pixels
        matches -= mean * self._bright
        total *= mean
        energy -= total
        np.maximum(energy, self._flat, out=energy)
        energy *= self._energy
        matches /= np.sqrt(energy, out=energy)
        matches[self._forbidden] = -1
        flat = matches.reshape(len(matches), -1)
        best = flat.argmax(1)
        values = flat[np.arange(len(flat)), best]
        places = np.stack([self._columns[best % len(self._columns)],
                           self._rows[best // len(self._columns)]], 1)  # fmt: skip
        finds: dict[tuple[int, float], _Find] = {}
        for number in np.argsort(-values, kind="stable"):
            photo, (mirror, log_size, angle) = self.turns[number]
            if (id(photo), mirror) in finds:
                continue
            # Rows and columns count from 0 and, for moves up and to the left, down from the end.
            moved = (places[number] + self.side) % (2 * self.side) - self.side
            middle = (moved + self.side / 2) * SHRINK - 0.5
            place = np.array([*middle, log_size, angle])
            finds[id(photo), mirror] = _Find(photo, mirror, place)
            if len(finds) == N_FINDS:
                break
        return list(finds.values())

    def _refine(self, corners: Array, find: _Find) -> float:
        """Return the correlation at the best place near a find, where both are smoothed."""
        photo = find.photo
        # Steps of one pixel each, at the middle or at the subject's rim.
        unit = np.array([1, 1, 1 / photo.radius, 1 / photo.radius])

        def measure(steps: Array) -> Array:
            return _compute_differences(corners, find, find.place + (steps - 1) * unit)

        # From 1, since steps of the derivative are relative: sqrt(.04) of a pixel. `least_squares`
        # runs the same code (MINPACK) and takes twice the time around it.
        steps, *_ = leastsq(
            measure, np.ones(4), epsfcn=0.04, xtol=1e-3, ftol=1e-4, maxfev=60, full_output=True
        )
        return _compute_smoothed_match(corners, find, find.place + (steps - 1) * unit)


def _join_corners(image: Array) -> Array:
    """Return each pixel with its neighbours to the right, below and both: (s, s, 4, 3)."""
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    parts = (padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:])
    return np.stack(parts, axis=2)


def _sample(corners: Array, find: _Find, place: Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the image's colours (n, 3) where the photo's pixels come to lie, and which are there.

    None stands for all of them; none is there when too much of the subject lies outside, or the
    size is out of bounds. `corners` is what `_join_corners` makes of the image, which one step then
    reads all at once.
    """
    last = len(corners) - 1
    x, y, log_size, angle = place.tolist()
    offsets = find.photo.offsets
    if not abs(log_size) <= MAX_LOG_SIZE:  # A plain image leads the search anywhere.
        return np.zeros_like(find.photo.colors), np.zeros(len(offsets), bool)
    places = _turn((find.mirror, log_size, angle)) @ offsets.T + [[x], [y]]
    inside: NDArray[np.bool_] | None = None
    if not places.min() >= 0 or places.max() > last:
        inside = ((places >= 0) & (places <= last)).all(0)
        if inside.sum() < VISIBLE * len(inside):
            return np.zeros_like(find.photo.colors), np.zeros(len(inside), bool)
        low = np.clip(places, 0, last).astype(int)
    else:
        low = places.astype(int)
    right, down = places - low
    left, up = 1 - right, 1 - down
    shares = np.empty((4, len(right)))
    for part, (across, along) in zip(
        shares, ((left, up), (right, up), (left, down), (right, down)), strict=True
    ):
        np.multiply(across, along, out=part)
    pixels = corners.reshape(-1, *corners.shape[2:]).take(low[1] * (last + 1) + low[0], axis=0)
    return np.einsum("kn,nkc->nc", shares, pixels), inside


def _normalise_photo(colors: Array, share: Array) -> tuple[Array, float]:
    """Return colours (n, 3) less their channels' means and of unit length, and their energy."""
    # A product with ones is three times as fast as mean(0).
    colors = colors - share @ colors
    energy = max(float(np.vdot(colors, colors)), 1e-12)
    return colors / math.sqrt(energy), energy


def _normalise_image(colors: Array, share: Array, energy: float) -> Array:
    """Return an image's colours (n, 3) likewise, or of less length where they are flat.

    `energy` is that of the photo's.
    """
    colors = colors - share @ colors
    return colors / math.sqrt(max(float(np.vdot(colors, colors)), FLAT * energy))


def _compute_differences(corners: Array, find: _Find, place: Array) -> Array:
    """Return photo less image over the subject's pixels, both of unit length: (3 n,).

    The sum of squares is twice what the two lack in correlation.
    """
    photo = find.photo
    colors, inside = _sample(corners, find, place)
    if inside is None:
        ours, energy = photo.normalised
        return (ours - _normalise_image(colors, photo.share, energy)).ravel()
    if not inside.any():
        n_values = colors.size
        return np.full(n_values, 2 / math.sqrt(n_values))
    share = np.full(inside.sum(), 1 / inside.sum())
    ours, energy = _normalise_photo(photo.colors[inside], share)
    found = np.zeros_like(colors)
    found[inside] = ours - _normalise_image(colors[inside], share, energy)
    return found.ravel()


def _compute_smoothed_match(corners: Array, find: _Find, place: Array) -> float:
    """Return the correlation of photo and image at a find, both smoothed; -1 for no place."""
    colors, there = _sample(corners, find, place)
    inside = np.ones(len(colors), bool) if there is None else there
    if not inside.any():
        return -1.0
    offsets = find.photo.offsets[inside]
    columns, rows = (offsets - offsets.min(0)).round().astype(int).T
    share = np.full(len(offsets), 1 / len(offsets))

    def smooth(values: Array, deviation_px: float) -> Array:
        # The share that is shown is smoothed alike, so that nothing from outside comes in.
        canvas = np.zeros((rows.max() + 1, columns.max() + 1, 4))
        canvas[rows, columns] = np.column_stack([values, np.ones(len(values))])
        deviations = (deviation_px, deviation_px, 0)
        found: Array = gaussian_filter(canvas, deviations, mode="constant")[rows, columns]
        return found[:, :3] / found[:, 3:]

    def match(blur_px: float) -> float:
        sharp = find.photo.colors[inside]
        ours, energy = _normalise_photo(smooth(sharp, math.hypot(SMOOTHING_PX, blur_px)), share)
        return float(np.vdot(ours, _normalise_image(theirs, share, energy)))

    theirs = smooth(colors[inside], SMOOTHING_PX)
    return max(match(blur) for blur in BLURS_PX)
