"""A shape from photos and masks alone, whose cameras are not known.

Where the cameras stood is searched: a good guess lets the masks carve a solid that fills each of
them (silhouette coherence: Hernandez et al., PAMI 2007), whose cells have one colour in all photos
that see them (voxel coloring: Seitz and Dyer, IJCV 1999), and which is compact and about its own
mirror image, as most things are. What no photo looks along is as deep as the photos need; what none
sees has the colours of its mirror image, else of the same place in front, else of what is nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dreambench.methods.reconstruction.shape import Floats, Shape, find_box, make_axes
from dreambench.types import Mask

Values = NDArray[np.floating[Any]]

Mirror = Literal["x", "z"]
"""The axis that a solid is mirrored along: left and right are alike, or front and back."""

# The search looks at so many pixels and cells a side: it takes seconds, and finer ones find no
# better cameras among a handful of photos.
_SEARCH_PX = _SEARCH_CELLS = 24
_HALF_HEIGHT = 0.72
# Found on subjects of the small world that no benchmark has.
_COLOUR_WEIGHT, _MIRROR_WEIGHT, _BULK_WEIGHT = 6.0, 0.3, 0.1
# How people photograph: the front, from about their own height and down to somewhat above.
_AZIMUTHS, _ELEVATIONS, _SCALES = range(-60, 61, 15), (6, 16, 28), (0.9, 1.1)
_MAX_AZIMUTH, _MAX_ELEVATION = 75, 45
_STARTS = ((0,), (30, -30), (-30, 30))
_STEPS = (7.0, 6.0, 0.06, 0.045, 0.045)
# How deep a solid is, over its width: the first that leaves the photos as full as any.
_DEPTHS, _COVERED = (0.7, 0.85, 1.0, 1.2, 1.5, 1.9, 2.4, 3.0), 0.975


@dataclass(frozen=True)
class _Camera:
    """Degrees; a unit of the grid is `scale` units of the photo, moved by `right` and `up`."""

    azimuth: float
    elevation: float
    scale: float = 1.0
    right: float = 0.0
    up: float = 0.0

    def place(self, points: Floats) -> Floats:
        """Return where points (3, m) lie in the photo: right, up and towards the camera."""
        found = make_axes(self.azimuth, self.elevation) @ points
        found[0] = found[0] * self.scale + self.right
        found[1] = found[1] * self.scale + self.up
        return found

    def step(self, size: float) -> Iterable[_Camera]:
        """Yield its neighbours."""
        for name, step in zip(self.__dataclass_fields__, _STEPS, strict=True):
            for sign in (-1, 1):
                camera = replace(self, **{name: getattr(self, name) + sign * size * step})
                low = abs(camera.azimuth) <= _MAX_AZIMUTH and 0.6 < camera.scale < 1.5
                if low and 0 <= camera.elevation <= _MAX_ELEVATION:
                    yield camera


class _Photo:
    """A photo in units in which the subject's box is in the middle, 2 * `half_height` high."""

    def __init__(self, photo: Image.Image, mask: Mask, *, half_height: float) -> None:
        self.mask = mask
        left, top, right, bottom = find_box(mask)
        self.unit_px = (bottom - top) / 2 / half_height
        self.middle = (left + right) / 2, (top + bottom) / 2
        # Pixels at the outline are half the place's colour, and are those inside it instead.
        inside = ndimage.binary_erosion(mask)
        inside = inside if inside.any() else mask
        nearest = ndimage.distance_transform_edt(
            ~inside, return_distances=False, return_indices=True
        )
        self.colours = np.asarray(photo, np.float32)[tuple(nearest)] / 255
        fine = 4
        ticks = (np.arange(_SEARCH_PX * fine) + 0.5) / (_SEARCH_PX * fine) * 2 - 1
        u, v = (part.ravel() for part in np.meshgrid(ticks, -ticks))
        shape = (_SEARCH_PX, fine, _SEARCH_PX, fine)
        share = self.look(mask.astype(np.float32), u, v).reshape(shape).mean((1, 3))
        # A line that is thinner than a pixel is one, too.
        self.small_mask: Mask = (share >= min(0.5, share.max() / 2)).ravel()
        self.area = max(1, int(self.small_mask.sum()))
        self.small_colours = np.stack(
            [
                self.look(self.colours[..., k], u, v, mode="nearest").reshape(shape).mean((1, 3))
                for k in range(3)
            ],
            axis=-1,
        ).reshape(-1, 3)

    def look(self, values: Floats, u: Values, v: Values, *, mode: str = "constant") -> Floats:
        """Return the values (h, w) of the photo at places (m,) right and up of its middle."""
        columns = u * self.unit_px + self.middle[0] - 0.5
        rows = self.middle[1] - v * self.unit_px - 0.5
        found: Floats = ndimage.map_coordinates(values, [rows, columns], order=1, mode=mode)
        return found


class _Search:
    """Scores guesses of all cameras, and finds better ones."""

    def __init__(self, photos: Sequence[_Photo], mirror: Mirror) -> None:
        n = _SEARCH_CELLS
        self.photos = photos
        self.points = _make_points(n)
        self.mirrored = _mirror(n, mirror)
        z, y, x = np.meshgrid(*3 * [np.arange(n) // 2], indexing="ij")
        # Cells are compared two by two by two: guesses are off by one.
        self.blocks = ((z * (n // 2) + y) * (n // 2) + x).ravel()
        # A ball has .75 of its outline's area to the power of 1.5.
        area = np.mean([photo.area for photo in photos])
        self.cell_bulk = float((_SEARCH_PX / n) ** 3 / area**1.5)
        self._seen: dict[
            tuple[int, _Camera], tuple[NDArray[np.int64], Mask, NDArray[np.int64]]
        ] = {}

    def _look(self, row: int, camera: _Camera) -> tuple[NDArray[np.int64], Mask, NDArray[np.int64]]:
        """Return each cell's pixel, whether that is the subject's, and cells from far to near."""
        key = row, camera
        if key not in self._seen:
            u, v, depth = camera.place(self.points)
            columns = np.floor((u + 1) / 2 * _SEARCH_PX).astype(int)
            rows = np.floor((1 - v) / 2 * _SEARCH_PX).astype(int)
            last = _SEARCH_PX - 1
            inside = (rows >= 0) & (rows <= last) & (columns >= 0) & (columns <= last)
            pixels = rows.clip(0, last) * _SEARCH_PX + columns.clip(0, last)
            mask = inside & self.photos[row].small_mask[pixels]
            self._seen[key] = pixels, mask, np.argsort(depth, kind="stable")
        return self._seen[key]

    def score(self, cameras: Sequence[_Camera], *, limit: float = np.inf) -> float:
        """Return how little the photos agree about one solid; 0 is best.

        It stops where the rest cannot bring it below a limit.
        """
        views = [self._look(row, camera) for row, camera in enumerate(cameras)]
        solid = views[0][1].copy()
        for _, inside, _ in views[1:]:
            solid &= inside
        n_cells = int(solid.sum())
        if not n_cells:
            return np.inf
        unlike = (solid & ~solid[self.mirrored]).sum() / n_cells
        bulk = n_cells * self.cell_bulk
        score = _MIRROR_WEIGHT * unlike + _BULK_WEIGHT * bulk
        if score >= limit:
            return np.inf
        seen = []
        for photo, (pixels, _, order) in zip(self.photos, views, strict=True):
            nearest = np.full(_SEARCH_PX**2, -1)
            cells = order[solid[order]]
            nearest[pixels[cells]] = cells
            seen.append(nearest)
            score += (1 - (nearest >= 0).sum() / photo.area) / len(views)
        if score >= limit:
            return np.inf
        blocks, colours = [], []
        for photo, nearest in zip(self.photos, seen, strict=True):
            shown = nearest >= 0
            at, colour = nearest[shown], photo.small_colours[shown]
            other = self.mirrored[at]
            both = solid[other]
            blocks += [self.blocks[at], self.blocks[other[both]]]
            colours += [colour, colour[both]]
        spread = _measure_spread(np.concatenate(blocks), np.concatenate(colours))
        return float(score + _COLOUR_WEIGHT * spread)

    def descend(
        self,
        cameras: Sequence[_Camera],
        propose: Callable[[_Camera], Iterable[_Camera]],
        *,
        rounds: int,
    ) -> tuple[float, list[_Camera]]:
        """Return the best score and cameras, when one after another is changed for the better."""
        best, found = self.score(cameras), list(cameras)
        for _ in range(rounds):
            before = list(found)
            for row in range(len(found)):
                for camera in propose(found[row]):
                    guess = [*found[:row], camera, *found[row + 1 :]]
                    score = self.score(guess, limit=best)
                    if score < best - 1e-6:
                        best, found = score, guess
            if found == before:
                break
        return best, found


def _measure_spread(blocks: NDArray[np.int64], colours: Floats) -> float:
    """Return the variance of colours (m, 3) inside of blocks that are seen more than once."""
    count = np.bincount(blocks)
    squares = np.bincount(blocks, (colours**2).sum(1))
    sums = np.stack([np.bincount(blocks, colours[:, k]) for k in range(3)], 1)
    many = count > 1
    if not many.any():
        return 0.0
    within = squares[many] - (sums[many] ** 2).sum(1) / count[many]
    return float(within.sum() / count[many].sum())


def _make_points(n: int) -> Floats:
    """Return the middles (3, n**3) of a grid's cells: x, y, z."""
    ticks = ((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32)
    z, y, x = np.meshgrid(ticks, ticks, ticks, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), z.ravel()])


def _mirror(n: int, axis: Mirror) -> NDArray[np.int64]:
    """Return the number of each cell's mirror image."""
    cells = np.arange(n**3).reshape(n, n, n)
    return (cells[:, :, ::-1] if axis == "x" else cells[::-1]).ravel()


def _find_cameras(photos: Sequence[_Photo]) -> tuple[Mirror, list[_Camera]]:
    """Return the axis of the mirror and the cameras under which the photos agree best."""
    coarse = [_Camera(a, e, s) for a in _AZIMUTHS for e in _ELEVATIONS for s in _SCALES]
    mirrors: tuple[Mirror, ...] = ("x", "z")
    found = []
    for mirror in mirrors:
        search, ends = _Search(photos, mirror), []
        for start in _STARTS:
            cameras = [_Camera(start[row % len(start)], 16) for row in range(len(photos))]
            ends.append(search.descend(cameras, lambda _: coarse, rounds=3))
        best = min(ends, key=lambda end: end[0])
        for size in (1.0, 0.5):
            best = search.descend(best[1], partial(_Camera.step, size=size), rounds=3)
        found.append((best[0], mirror, best[1]))
    _, mirror, cameras = min(found, key=lambda one: one[0])
    return mirror, cameras


def reconstruct(photos: Sequence[Image.Image], masks: Sequence[Mask], *, n_cells: int) -> Shape:
    """Return the shape that photos (RGB) and their masks, none empty, show. Nothing is random."""
    boxes = [find_box(mask) for mask in masks]
    widest = max((right - left) / (bottom - top) for left, top, right, bottom in boxes)
    half_height = _HALF_HEIGHT / max(1.0, widest)
    placed = [
        _Photo(photo, mask, half_height=half_height)
        for photo, mask in zip(photos, masks, strict=True)
    ]
    mirror, cameras = _find_cameras(placed)
    points = _make_points(n_cells)
    views = [camera.place(points) for camera in cameras]
    solid = _carve(placed, views, _mirror(n_cells, mirror), n_cells)
    soft = ndimage.gaussian_filter(solid.reshape(3 * [n_cells]).astype(np.float32), 0.8)
    colours = _paint(placed, cameras, views, soft, _mirror(n_cells, mirror))
    return Shape(
        (soft * 255).round().astype(np.uint8),
        (colours.clip(0, 1) * 255).round().astype(np.uint8),
        np.array([[camera.azimuth, camera.elevation] for camera in cameras], np.float32),
    )


def _carve(
    photos: Sequence[_Photo], views: Sequence[Floats], mirrored: NDArray[np.int64], n: int
) -> Mask:
    """Return which cells (n**3,) are inside.

    The hull of the masks is too deep where no photo looked from the side: it ends in an edge. It
    is made as round and flat as leaves the photos full, and what then lacks in one is put back,
    about as deep as it is wide.
    """
    hull = np.logical_and.reduce(
        [
            photo.look(photo.mask.astype(np.float32), u, v) > 0.5
            for photo, (u, v, _) in zip(photos, views, strict=True)
        ]
    )
    both = hull & hull[mirrored]
    looks = [_find_pixels(u, v, n) for u, v, _ in views]
    needed = _count_covered(both, looks, n)
    for depth in _DEPTHS:
        solid = both & _make_round(both, n, depth)
        if _count_covered(solid, looks, n) >= _COVERED * needed:
            break
    else:
        solid = both
    back = np.zeros_like(solid)
    for pixels, (_, _, depth) in zip(looks, views, strict=True):
        covered = np.zeros(n * n, bool)
        covered[pixels[solid]] = True
        cells = np.nonzero(hull & ~covered[pixels])[0]
        at = pixels[cells]
        near, far = np.full(n * n, -np.inf), np.full(n * n, np.inf)
        np.maximum.at(near, at, depth[cells])
        np.minimum.at(far, at, depth[cells])
        bare = np.zeros(n * n, bool)
        bare[at] = True
        width = ndimage.distance_transform_edt(bare.reshape(n, n)).ravel()[at] * 2 / n
        back[cells[abs(depth[cells] - (near[at] + far[at]) / 2) <= width]] = True
    return solid | back


def _find_pixels(u: Floats, v: Floats, n: int) -> NDArray[np.int64]:
    """Return which of n * n pixels of a photo places are in."""
    columns = np.floor((u + 1) / 2 * n).astype(int).clip(0, n - 1)
    found: NDArray[np.int64] = np.floor((v + 1) / 2 * n).astype(int).clip(0, n - 1) * n + columns
    return found


def _count_covered(solid: Mask, looks: Sequence[NDArray[np.int64]], n: int) -> int:
    """Return how many pixels of all photos together show a solid."""
    return sum(int((np.bincount(pixels[solid], minlength=n * n) > 0).sum()) for pixels in looks)


def _make_round(solid: Mask, n: int, depth: float) -> Mask:
    """Return for each slice of a solid an ellipse as wide as it and `depth` times as deep."""
    ticks = (np.arange(n) + 0.5) / n * 2 - 1
    z, x = np.meshgrid(ticks, ticks, indexing="ij")
    slices = solid.reshape(n, n, n)
    found = np.zeros_like(slices)
    for row in range(n):
        rows, columns = np.nonzero(slices[:, row])
        if len(rows):
            low, high = ticks[columns.min()], ticks[columns.max()]
            radius = (high - low) / 2 + 1 / n
            middle = (ticks[rows.min()] + ticks[rows.max()]) / 2
            across, along = (x - (low + high) / 2) / radius, (z - middle) / (depth * radius)
            found[:, row] = across**2 + along**2 <= 1.15
    mask: Mask = found.ravel()
    return mask


def _paint(
    photos: Sequence[_Photo],
    cameras: Sequence[_Camera],
    views: Sequence[Floats],
    soft: Floats,
    mirrored: NDArray[np.int64],
) -> Floats:
    """Return the colours (n, n, n, 3) of cells, by the photos that face them most."""
    n = len(soft)
    solid = soft > 0.4
    shell = (solid & ~ndimage.binary_erosion(solid, iterations=2)).ravel()
    slopes = np.gradient(ndimage.gaussian_filter(soft, 1.2))
    normals = -np.stack(slopes[::-1]).reshape(3, -1)
    normals /= np.linalg.norm(normals, axis=0) + 1e-6
    colours, weights = np.zeros((n**3, 3)), np.zeros(n**3)
    inside = np.nonzero(solid.ravel())[0]
    for photo, camera, (u, v, depth) in zip(photos, cameras, views, strict=True):
        pixels = _find_pixels(u, v, n)
        front = np.full(n * n, -np.inf)
        np.maximum.at(front, pixels[inside], depth[inside])
        cells = np.nonzero(shell & (depth > front[pixels] - 5 / n))[0]
        facing = (make_axes(camera.azimuth, camera.elevation)[2] @ normals)[cells].clip(0)
        weight = facing**10 + 1e-4
        seen = [
            photo.look(photo.colours[..., k], u[cells], v[cells], mode="nearest") for k in range(3)
        ]
        colour = np.stack(seen, 1) * weight[:, None]
        for at in (cells, mirrored[cells]):
            np.add.at(colours, at, colour)
            np.add.at(weights, at, weight)
    known = weights > 0.003
    if not known.any():
        return np.zeros((n, n, n, 3), np.float32)
    colours[known] /= weights[known][:, None]
    painted, known = colours.reshape(n, n, n, 3), known.reshape(n, n, n)
    # The back is more like the front than like nothing.
    behind = known[::-1] & ~known
    painted[behind] = painted[::-1][behind]
    known = known | behind
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return painted[tuple(nearest)].astype(np.float32)
