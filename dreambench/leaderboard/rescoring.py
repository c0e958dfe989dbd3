"""The images of a record scored again: the same files have to give the same numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreambench.analysis.checking import FAILED, NOT_CHECKED, Verified, judge
from dreambench.analysis.summary import mean_reference_bounds, summarise_metrics
from dreambench.artifacts.cells import list_images
from dreambench.artifacts.image_set import ImageSet, hold_folder
from dreambench.artifacts.record import Record, Remeasurement
from dreambench.artifacts.results import ScoreTable, read_reference_bounds, read_scores
from dreambench.config.protocol import Protocol
from dreambench.encoders.pace import Pace
from dreambench.errors import UserError, name_some
from dreambench.leaderboard.known import find_namesake, is_known_protocol
from dreambench.leaderboard.records import Opened
from dreambench.machine.devices import pick_device
from dreambench.progress import Progress, no_progress
from dreambench.scoring.external import ExternalRequest, load_external, open_results
from dreambench.scoring.problems import ImageSetError, list_problems
from dreambench.scoring.process import ScoreRequest, score_apart
from dreambench.storage.archives import unpack
from dreambench.verification import compare_scores

TOLERANCE = 1e-3
"""How far a number that is made again may lie from the record's."""
MAX_UNPACKED_BYTES = 50_000_000_000
"""What an archive of images may unpack to: 3,000 of 1,024 px are a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class RescoreOptions:
    """Where a record's images lie, in a folder, an index or an archive, and how to score them.

    `layout` is one of LAYOUTS, or None: that which the folder is seen to have. `metrics` and
    `encoders` are those that the record has besides the protocol's; `protocol` is the user's own
    where it is not a shipped one.
    """

    images: Path
    layout: str | None = None
    protocol: Protocol | None = None
    metrics: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    data_dir: Path | None = None
    device: str = "auto"
    n_decoding: int = 0


def rescore(
    opened: Opened, options: RescoreOptions, *, progress: Progress = no_progress
) -> tuple[list[Verified], Remeasurement | None]:
    """Score the images of a record again, from their files, with an empty cache.

    Return what was found, and what to write into the record where all agrees.

    Raises:
        UserError: the record is of a protocol that is not known, the images are not there, or the
            photos or encoders are not on this machine.
    """
    protocol = require_protocol(opened.record, options.protocol)
    with tempfile.TemporaryDirectory(prefix="dreambench-check-") as name:
        work = Path(name)
        folder = options.images
        if not folder.is_dir() and folder.suffix.lower() != ".csv":
            folder = work / "images"
            folder.mkdir()
            unpack(options.images, folder, max_bytes=MAX_UNPACKED_BYTES)
            folder = _find_top(folder, {"images", *opened.record.subjects})
        request = ExternalRequest(
            folder=folder, protocol=protocol, name="images", partial=True,
            layout=options.layout,
            subjects=opened.record.subjects, prompts=opened.record.prompts,
            metrics=options.metrics, encoders=options.encoders, data_dir=options.data_dir,
        )  # fmt: skip
        try:
            images = load_external(
                request, work / "scores", device=pick_device(options.device),
                cache_dir=work / "cache", progress=progress,
            )  # fmt: skip
        except ImageSetError as error:
            return [Verified("images", FAILED, list_problems(error.problems))], None
        found = [_compare_files(opened, images)]
        if found[0].outcome == FAILED:
            return found, None
        with hold_folder(images.folder):
            images = open_results(images)
            asked = ScoreRequest(
                metrics=options.metrics, encoders=options.encoders, cache_dir=work / "cache",
                data_dir=options.data_dir, pace=Pace(n_threads=options.n_decoding),
            )  # fmt: skip
            score_apart(images, asked, progress=progress)
            return _compare_numbers(opened, images, read_scores(images), found)


def _find_top(folder: Path, names: set[str]) -> Path:
    """Return the folder in an archive in which one of some names lies: many have one around it."""
    inside = list(folder.iterdir())
    while len(inside) == 1 and inside[0].is_dir() and inside[0].name not in names:
        folder = inside[0]
        inside = list(folder.iterdir())
    return folder


def require_protocol(record: Record, named: Protocol | None) -> Protocol:
    """Return the protocol of a record as it is known here.

    Raises:
        UserError: it is not known: nothing is read because a record names it.
    """
    known = find_namesake(record, named)
    if known is None or not is_known_protocol(record, named):
        raise UserError(
            f"the record is of the protocol {record.protocol.name} "
            f"({record.digests.protocol}), which is not known here",
            hint="name its file with --protocol FILE.toml",
            code="unknown-protocol",
        )
    return known


def _compare_files(opened: Opened, images: ImageSet) -> Verified:
    known = {name: sha for name, sha in list_images(opened.cells).items() if sha is not None}
    there = images.hash_images()
    lines = {
        "not the file that was scored": [n for n in known if n in there and there[n] != known[n]],
        "not there": [n for n in known if n not in there],
        "there, and missing in the record": [n for n in there if n not in known],
    }
    faults = [
        f"{len(names)} {words}: {name_some(names)}" for words, names in lines.items() if names
    ]
    return judge("images", faults, f"{len(known)} files are those of the record")


def _compare_numbers(
    opened: Opened, images: ImageSet, again: ScoreTable, found: list[Verified]
) -> tuple[list[Verified], Remeasurement | None]:
    record = opened.record
    cells = {(unit.subject, unit.prompt_id) for unit in images.plan.images}
    compared = compare_scores(opened.table, again, cells, tolerance=TOLERANCE)
    about = f"{compared.n_numbers} numbers again, at most {compared.largest:.0e} apart"
    found = [*found, judge("re-scored", compared.faults, about)]
    bounds = mean_reference_bounds(read_reference_bounds(images))
    faults = [
        f"{metric}: the {key} is {said:.4f}, and {made:.4f} from the photos here"
        for metric, part in record.reference_bounds.items()
        for key in ("copy_bound", "faithful_bound")
        if (said := getattr(part, key)) is not None
        and (made := bounds.get(metric, {}).get(key)) is not None
        and not abs(said - made) <= TOLERANCE
    ]
    found.append(judge("photos again", faults, "they score what the record says"))
    own = {info.name for info in again.metrics if info.signature is not None}
    left = [name for name, entry in record.metrics.items()
            if entry.info.signature is not None and name not in own]  # fmt: skip
    if left:
        why = "made by code that was not named; name it with --metric"
        found.append(Verified(f"scores of {name_some(left)}", NOT_CHECKED, [why]))
    if any(one.outcome == FAILED for one in found):
        return found, None
    means = {name: entry.whole.mean for name, entry in summarise_metrics(again).items()}
    return found, Remeasurement(
        session=images.manifest.session, n_images=len(images.hash_images()),
        largest_difference=compared.largest,
        means={name: mean for name, mean in means.items() if name in record.metrics},
    )  # fmt: skip
