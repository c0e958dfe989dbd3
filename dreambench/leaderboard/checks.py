"""`dreambench leaderboard check`: whether a record is what it says. No torch, no GPU, seconds.

Each check has a name, and passes, fails, flags what someone has to know, or says what it could not
see. What a record is by its files and digests is looked at here, its numbers in `evidence`, what
became of it since in `history`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreambench.analysis.checking import FAILED, FLAGGED, NOT_CHECKED, PASSED, Verified, judge
from dreambench.artifacts.cells import FILE_NAME as CELLS_NAME
from dreambench.artifacts.image_set import digest_recipe
from dreambench.artifacts.manifest import flatten
from dreambench.artifacts.record import (
    FILE_NAME,
    MAX_BYTES,
    THUMBNAILS_NAME,
    Record,
    find_digest,
)
from dreambench.config.protocol import Protocol
from dreambench.datasets.subjects import digest_subjects
from dreambench.errors import UserError, disk_errors, name_some
from dreambench.leaderboard import evidence, history, plausibility
from dreambench.leaderboard.known import (
    find_base_identity,
    find_namesake,
    find_shipped_recipe,
    find_track,
    is_known_protocol,
    list_known_inputs,
    list_known_subjects,
)
from dreambench.leaderboard.records import DEPTH, Opened, find_records, is_board, open_record
from dreambench.leaderboard.thumbnails import describe_thumbnails, find_thumbnail_faults
from dreambench.storage.files import sha256_bytes
from dreambench.text import make_printable, names_folder

MAX_TEXT = 10_000
"""Characters of a text of a record."""


Check = Callable[[Opened, Protocol | None], Iterator[Verified]]


@dataclass(frozen=True)
class Checked:
    """A record's folder with what its checks found; `opened` is None where it cannot be read."""

    folder: Path
    opened: Opened | None
    found: Sequence[Verified]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(one.outcome != FAILED for one in self.found)


def check_paths(
    paths: Sequence[Path], *, board: Path | None = None, protocol: Protocol | None = None
) -> list[Checked]:
    """Check the records in some folders; `board` is a folder of the records that were there before.

    `protocol` is one of the user's own that their records may be of.

    Raises:
        UserError: a path holds no record.
    """
    groups = [(path, find_records(path)) for path in paths]
    older = history.Board(board) if board is not None else None
    checked = [_check_folder(one, protocol, CHECKS) for _, folders in groups for one in folders]
    opened = [one.opened for one in checked if one.opened is not None]
    found = []
    for one in checked:
        added: list[Verified] = []
        if one.opened is not None:
            added += history.check_duplicates(one.opened, opened, older)
            added += history.check_floor(one.opened, opened, older)
            added += history.check_status(one.opened, older)
            added += history.check_changes(one.opened, older)
        found.append(Checked(one.folder, one.opened, [*one.found, *added]))
    if older is not None:
        for path, folders in groups:
            if is_board(path, folders):
                found += [
                    Checked(path / gone, None, [Verified("gone", FAILED, [line])])
                    for gone, line in older.find_gone(path)
                ]
    return found


def open_sound(folder: Path) -> Opened:
    """Read a record that agrees with itself, whatever this version of dreambench knows of it.

    Raises:
        UserError: it is none, lies elsewhere than it belongs, or its files, digests or numbers do
            not follow from one another.
    """
    found = _check_folder(folder, None, OWN_CHECKS)
    fault = next((one for one in found.found if one.outcome == FAILED), None)
    if fault is not None:
        raise UserError(
            f"the record in {folder} is not sound: {fault.what}: {name_some(fault.lines)}",
            hint=f"see all with: dreambench leaderboard check {folder}",
            code="invalid-record",
        )
    assert found.opened is not None  # What cannot be read failed its schema.
    return found.opened


def _check_folder(folder: Path, protocol: Protocol | None, checks: Sequence[Check]) -> Checked:
    found = [judge("files", _find_file_faults(folder), "no more and no larger than a record's")]
    try:
        opened = open_record(folder)
    except UserError as error:
        return Checked(folder, None, [*found, Verified("schema", FAILED, [str(error)])])
    found.append(Verified("schema", PASSED, [f"format {opened.record.format}"]))
    for check in checks:
        found += check(opened, protocol)
    return Checked(folder, opened, found)


def _find_file_faults(folder: Path) -> list[str]:
    with disk_errors(folder):
        entries = sorted(folder.iterdir())
    faults = []
    for entry in entries:
        if entry.name not in MAX_BYTES:
            faults.append(f"{entry.name} is not a file of a record")
        elif entry.is_symlink() or not entry.is_file():
            faults.append(f"{entry.name} is not a file")
        elif (n_bytes := entry.stat().st_size) > MAX_BYTES[entry.name]:
            faults.append(f"{entry.name} has {n_bytes:,} bytes, over {MAX_BYTES[entry.name]:,}")
    return faults


def _check_path(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    parts, path = opened.folder.absolute().parts[-DEPTH:], opened.record.path
    is_right = parts == path.parts
    faults = [] if is_right else [f"it lies in {'/'.join(parts)}, and is {path.as_posix()}"]
    yield judge("path", faults, path.as_posix())


def _check_hashes(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    """Compare the files beside record.json with the SHA-256 in it."""
    folder, listed = opened.folder, opened.record.files
    names = [name for name in MAX_BYTES if name != FILE_NAME and (folder / name).is_file()]
    faults = [f"{name} is not listed in {FILE_NAME}" for name in names if name not in listed]
    for name, known in listed.items():
        if name not in names:
            faults.append(f"{name} is missing")
        elif sha256_bytes((folder / name).read_bytes()) != known:
            faults.append(f"{name} has another SHA-256 than {FILE_NAME} says")
    try:
        about = pq.read_metadata(folder / CELLS_NAME).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        about = {}
    if odd := set(about) - {b"ARROW:schema"}:
        faults.append(f"{CELLS_NAME} carries metadata of its own ({len(odd)})")
    yield judge("hashes", faults, f"{len(listed)} files are those that it lists")


def _check_texts(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    """Look for paths of a machine, for texts that are too long, and for what no eye sees."""
    flat = flatten(opened.record.model_dump(mode="json"))
    texts = {key: value for key, value in flat.items() if isinstance(value, str)}
    every = {**texts, **{f"the name {key[:60]}": key for key in flat}}
    paths = [key for key, text in every.items() if not key.endswith("_url") and names_folder(text)]
    yield judge(
        "private", [f"a path of a machine in {name_some(paths)}"] if paths else [],
        "no path of a machine",
    )  # fmt: skip
    long = [f"{key}: {len(text):,} letters" for key, text in every.items() if len(text) > MAX_TEXT]
    if long:
        yield Verified("texts", FAILED, long)
        return
    odd = [f"{key}: {text[:200]}" for key, text in every.items() if make_printable(text) != text]
    yield judge("texts", odd, "all of them can be seen", worst=FLAGGED)


def _check_digest(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    found, said = find_digest(opened.record, opened.cells), opened.record.digest
    faults = [] if found == said else [f"its content has the digest {found}, and it says {said}"]
    yield judge("digest", faults, "is that of its content")


def _check_protocol(opened: Opened, named: Protocol | None) -> Iterator[Verified]:
    record = opened.record
    protocol, said = record.protocol, record.digests.protocol
    if protocol.digest() != said:
        line = f"its protocol has the digest {protocol.digest()}, and it says {said}"
        yield Verified("protocol", FAILED, [line])
        return
    known = find_namesake(record, named)
    if is_known_protocol(record, named):
        yield Verified("protocol", PASSED, [f"{protocol.name} v{protocol.version} ({said})"])
    elif known is not None and known.version == protocol.version:
        line = f"it is not {protocol.name} v{protocol.version}, whose digest is {known.digest()}"
        yield Verified("protocol", FAILED, [line])
    else:
        line = f"{protocol.name} v{protocol.version} is not known here: it is never ranked"
        yield Verified("protocol", FLAGGED, [line])


def _check_photos(opened: Opened, named: Protocol | None) -> Iterator[Verified]:
    record = opened.record
    if not is_known_protocol(record, named):
        yield Verified("photos", NOT_CHECKED, ["they are those of a protocol that is not known"])
        return
    every = list_known_subjects(_pick_protocol(record, named))
    chosen = [subject for subject in every if subject.name in record.subjects]
    if unknown := set(record.subjects) - {subject.name for subject in every}:
        yield Verified("photos", FAILED, [f"no subject of it: {name_some(sorted(unknown))}"])
        return
    found = digest_subjects(chosen, record.protocol.references)
    said = record.digests.data
    faults = [] if found == said else [f"the photos have the digest {found}, and it says {said}"]
    yield judge("photos", faults, f"those of {len(chosen)} subjects")


def _pick_protocol(record: Record, named: Protocol | None) -> Protocol:
    """Return the known protocol, which knows where it was read from, of a record of it."""
    return find_namesake(record, named) or record.protocol


def _check_encoders(opened: Opened, named: Protocol | None) -> Iterator[Verified]:
    """Compare identities with those that the protocol's encoders have."""
    record = opened.record
    known = list_known_inputs(record.protocol)
    faults, flags, unseen = [], [], []
    for name, identity in record.encoders.items():
        own = known.get(name)
        if own is None or not own.form.fullmatch(identity):
            flags.append(f"{name} is {identity}, and not what the protocol names")
        elif own.exact is None:
            unseen.append(f"{own.name}: nobody has published the digest of its weights")
        elif own.exact != identity:
            faults.append(f"{name} is {identity}, and {own.name} is {own.exact}")
    if faults:
        yield Verified("encoders", FAILED, faults)
    elif flags:
        yield Verified("encoders", FLAGGED, flags)
    elif unseen:
        about = "; its reference bounds are checked" if record.reference_bounds else ""
        yield Verified("encoders", NOT_CHECKED, [f"{line}{about}" for line in unseen])
    else:
        yield Verified("encoders", PASSED, [f"{len(record.encoders)} are the protocol's"])


def _check_base_model(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    record = opened.record
    base, identity = record.method.base_model, record.digests.base_model
    if record.origin == "external":
        faults = [f"it says {identity} of images that it did not make"] if identity else []
        if base is not None and base.identity:
            faults.append(f"it says {base.identity} of images that it did not make")
        yield judge("base-model", faults, "not known of external images")
        return
    if base is None or identity is None or base.identity != identity:
        yield Verified("base-model", FAILED, ["its digests are of another base model"])
        return
    known = find_base_identity(base.name)
    faults = []
    if base.name != identity.partition(":")[0]:
        faults.append(f"{base.name} has the identity {identity}")
    if faults or known == identity:
        yield judge("base-model", faults, identity)
    else:
        line = f"{identity} are not weights that dreambench knows by {base.name}"
        yield Verified("base-model", FLAGGED, [line])


def _check_recipe(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    record, method = opened.record, opened.record.method
    recipe = record.recipe
    if recipe is None or record.origin == "external":
        is_bare = recipe is None and record.digests.recipe is None and not method.code
        is_right = is_bare and record.origin == "external"
        faults = [] if is_right else ["a run has a recipe, and external images have none"]
        yield judge("recipe", faults, "none: the images are external")
        return
    faults = []
    if (found := digest_recipe(recipe)) != record.digests.recipe:
        faults.append(f"its recipe has the digest {found}, and it says {record.digests.recipe}")
    for key in ("name", "title", "source", "track"):
        own, its = getattr(recipe, key), getattr(method, key)
        if own != its:
            faults.append(f"its recipe has the {key} {own}, and its method {its}")
    if (recipe.code or {}) != method.code:
        faults.append("its recipe is of other code than its method")
    track = None if recipe.code else find_track(recipe.method, recipe.settings)
    if track is not None and track != recipe.track:
        faults.append(f"its track is {recipe.track}, and that of {recipe.method} is {track}")
    if faults:
        yield Verified("recipe", FAILED, faults)
        return
    if recipe.code:
        yield Verified("recipe", FLAGGED, [f"{recipe.method} is code from outside of dreambench"])
        return
    shipped = find_shipped_recipe(recipe.name)
    base = "" if method.base_model is None else method.base_model.name
    is_other = shipped is not None and (
        (shipped.method, shipped.title, shipped.source)
        != (recipe.method, recipe.title, recipe.source)
        or shipped.tables.get(base) != recipe.settings
    )
    lines = [f"it is not the recipe {recipe.name} that this version of dreambench ships"]
    about = f"{recipe.name} ({record.digests.recipe})"
    yield judge("recipe", lines if is_other else [], about, worst=FLAGGED)


def _check_thumbnails(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    record, path = opened.record, opened.folder / THUMBNAILS_NAME
    if not path.is_file():
        yield Verified("thumbnails", NOT_CHECKED, ["there are none"])
        return
    faults = find_thumbnail_faults(path.read_bytes(), describe_thumbnails(record))
    yield judge("thumbnails", faults, "a WebP picture and its provenance")


OWN_CHECKS: Sequence[Check] = (
    _check_path, _check_hashes, _check_digest, _check_protocol, evidence.check_numbers,
)  # fmt: skip
"""Those that hold what a record says against what else it says, with whatever version."""
CHECKS: Sequence[Check] = (
    *OWN_CHECKS, _check_texts, _check_photos, _check_encoders, _check_base_model, _check_recipe,
    _check_thumbnails, evidence.check_plan, *plausibility.CHECKS,
)  # fmt: skip
