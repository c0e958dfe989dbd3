"""The track of a row: what its method may use. Only rows of one track compete."""

from __future__ import annotations

from collections.abc import Mapping

ORACLE = "oracle"
"""The track of a reference that is told more than a method can know."""
NO_PHOTOS = "no photos"
"""The track of a row that saw no photo of the subject."""


def name_track(settings: Mapping[str, object], *, tunes: bool, n_references: int | None) -> str:
    """Return what a method may use with some settings, e.g. "tuned, all photos".

    `n_references` is how many photos it sees, None for all; an `n_photos` among the settings that
    is above 0 takes its place.
    """
    chosen = settings.get("n_photos")
    n_photos = chosen if isinstance(chosen, int) and chosen > 0 else n_references
    if n_photos == 0:
        return NO_PHOTOS
    seen = "all photos" if n_photos is None else f"{n_photos} photo{'s' if n_photos > 1 else ''}"
    return f"{'tuned' if tunes else 'tuning-free'}, {seen}"


def is_tuned(track: str | None) -> bool:
    """Return whether rows of a track change weights for a subject; None is an unknown track."""
    return track is not None and track.split(",")[0] == "tuned"
