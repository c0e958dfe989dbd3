"""The photos: fetched from good and from hostile sources, verified, added, exported."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import REAL_PHOTOS, call
from PIL import Image

import dreambench
from dreambench import cli
from dreambench.datasets import fetch
from dreambench.datasets.custom_subjects import (
    add_subject,
    find_kind,
    load_class_nouns,
    review_photos,
)
from dreambench.datasets.export import export_dataset
from dreambench.datasets.subjects import (
    Dataset,
    check_file,
    find_dataset,
    load_subjects,
    read_index,
)
from dreambench.encoders.classification import classify_photos
from dreambench.encoders.encoder import load_encoder
from dreambench.errors import UserError
from dreambench.storage import archives, downloads

real_photos = pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="needs the real photos")


def quiet(what, done, total):
    """No display."""


def noise_jpeg(seed):
    """A small photo with its own bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTOS = {f"{name}/{k:02d}.jpg": noise_jpeg(k + 10 * len(name)) for name in "ab" for k in range(2)}
PHOTOS["b/00.jpg"], PHOTOS["b/01.jpg"] = noise_jpeg(91), noise_jpeg(92)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset of four photos, none of them here yet; an own cache."""
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    (index / "subjects.csv").write_text(
        "subject,class_name,kind,n_images\na,dog,live,2\nb,toy,object,2\n"
    )
    lines = [
        f"{file[0]},{file},{hashlib.sha256(content).hexdigest()},{len(content)}"
        for file, content in PHOTOS.items()
    ]
    (index / "images.csv").write_text("\n".join(["subject,file,sha256,bytes", *lines]) + "\n")
    return Dataset("small", index, tmp_path / "photos")


def content_of(folder):
    """All files below a folder with their bytes, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def zip_of(files, compression=zipfile.ZIP_STORED):
    """Bytes of a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(members, mode="w:gz"):
    """Bytes of a tar archive of (TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for info, content in members:
            info.size = len(content) if content is not None else 0
            archive.addfile(info, io.BytesIO(content) if content is not None else None)
    return buffer.getvalue()


GOOD_ZIP = zip_of({f"dreambooth-4f887/dataset/{k}": v for k, v in PHOTOS.items()})


def bring(dataset, source):
    return fetch.fetch_photos(dataset, source=str(source), progress=quiet)


def test_photos_come_from_an_address_and_nothing_else_stays(dataset, server, tmp_path):
    server.files["/a.zip"] = GOOD_ZIP
    assert bring(dataset, f"{server.url}/a.zip") == 4
    assert content_of(dataset.photos_dir) == PHOTOS
    assert [s.name for s in load_subjects(dataset)] == ["a", "b"]
    assert not list((tmp_path / "cache" / "downloads").glob("*.file"))
    # All are here: nothing is asked for again.
    assert bring(dataset, f"{server.url}/a.zip") == 0
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "folder", "parquet"])
def test_any_layout_serves_since_files_are_known_by_content(dataset, tmp_path, kind):
    source = tmp_path / f"source.{kind}"
    renamed = {f"x/{index}": content for index, content in enumerate(PHOTOS.values())}
    if kind == "zip":
        source.write_bytes(zip_of(renamed, zipfile.ZIP_DEFLATED))
    elif kind in {"folder", "parquet"}:
        source.mkdir()
        for name, content in renamed.items():
            (source / name.replace("/", "-")).write_bytes(content)
        if kind == "parquet":
            rows = [{"bytes": path.read_bytes(), "path": path.name} for path in source.iterdir()]
            for path in source.iterdir():
                path.unlink()
            pq.write_table(pa.table({"image": rows, "n": [1] * len(rows)}), source / "t.parquet")
    else:
        mode = "w" if kind == "tar" else f"w:{kind.split('.')[1]}"
        members = [(tarfile.TarInfo(name), content) for name, content in renamed.items()]
        source.write_bytes(tar_of(members, mode))
    assert bring(dataset, source) == 4
    assert content_of(dataset.photos_dir) == PHOTOS


def test_a_cut_download_goes_on_where_it_stopped(dataset, server):
    server.files["/a.zip"] = GOOD_ZIP
    third = len(GOOD_ZIP) // 3
    server.cut_after = [third, third]
    bring(dataset, f"{server.url}/a.zip")
    assert server.asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert server.n_sent == len(GOOD_ZIP)
    assert content_of(dataset.photos_dir) == PHOTOS


def test_a_later_call_goes_on_with_what_an_earlier_one_has(dataset, server, monkeypatch):
    server.files["/a.zip"] = GOOD_ZIP
    monkeypatch.setattr(downloads, "N_ATTEMPTS", 1)
    server.cut_after = [1000]
    with pytest.raises(UserError, match=r"the connection was cut after .* MB, which are kept"):
        bring(dataset, f"{server.url}/a.zip")
    assert not dataset.photos_dir.exists()
    bring(dataset, f"{server.url}/a.zip")
    assert server.asked == [None, "bytes=1000-"]
    assert content_of(dataset.photos_dir) == PHOTOS


def test_a_file_that_changed_meanwhile_is_taken_anew(dataset, server, monkeypatch):
    monkeypatch.setattr(downloads, "N_ATTEMPTS", 1)
    server.files["/a.zip"] = zip_of({"other": b"x" * 5000})
    server.cut_after = [3000]
    with pytest.raises(UserError):
        bring(dataset, f"{server.url}/a.zip")
    server.files["/a.zip"] = GOOD_ZIP
    bring(dataset, f"{server.url}/a.zip")
    assert content_of(dataset.photos_dir) == PHOTOS


def test_a_server_without_ranges_serves_too(dataset, server):
    server.files["/a.zip"], server.ranges = GOOD_ZIP, False
    server.cut_after = [1000]
    bring(dataset, f"{server.url}/a.zip")
    assert content_of(dataset.photos_dir) == PHOTOS


def hostile():
    """Name -> (archive, what the one line says)."""
    link = tarfile.TarInfo("x/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("x/hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../etc/passwd"
    fifo = tarfile.TarInfo("x/fifo")
    fifo.type = tarfile.FIFOTYPE
    zipped_link = zipfile.ZipInfo("x/link")
    zipped_link.external_attr = 0o120777 << 16
    wrong = {**PHOTOS, "a/01.jpg": noise_jpeg(5)}
    encrypted = bytearray(GOOD_ZIP)
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = encrypted.find(mark)
        encrypted[at + offset] |= 1
    bomb = zip_of({**PHOTOS, "zeros": b"\0" * 30_000_000}, zipfile.ZIP_DEFLATED)
    tar_bomb = tar_of([(tarfile.TarInfo("zeros"), b"\0" * 30_000_000)])
    up = {"../a/00.jpg": PHOTOS["a/00.jpg"], **PHOTOS}
    return {
        "wrong bytes": (zip_of(wrong), "lacks 1 of 4 photos with the pinned bytes: a/01.jpg"),
        "truncated zip": (GOOD_ZIP[: len(GOOD_ZIP) // 2], "not a whole zip or tar"),
        "truncated tar": (
            tar_of([(tarfile.TarInfo(k), v) for k, v in PHOTOS.items()])[:-900],
            "cannot be read as an archive",
        ),
        "no archive": (b"<html>busy</html>" * 100, "not a whole zip or tar"),
        "dots": (zip_of(up), "leads out of its folder"),
        "dots tar": (
            tar_of([(tarfile.TarInfo(k), v) for k, v in up.items()]), "leads out of its folder",
        ),
        "absolute": (zip_of({"/etc/x": b"x", **PHOTOS}), "leads out of its folder"),
        "drive": (zip_of({"C:\\x": b"x", **PHOTOS}), "leads out of its folder"),
        "backslashes": (zip_of({"..\\..\\x": b"x", **PHOTOS}), "leads out of its folder"),
        "link": (tar_of([(link, None)]), "holds the link"),
        "hard link": (tar_of([(hard, None)]), "holds the link"),
        "device": (tar_of([(fifo, None)]), "holds the device"),
        "zipped link": (zip_of({zipped_link: "/etc/passwd", **PHOTOS}), "holds the link"),
        "bomb": (bomb, "unpacks to over"),
        "tar bomb": (tar_bomb, "unpacks to over"),
        "encrypted": (bytes(encrypted), "is encrypted"),
        "many": (zip_of({str(i): b"" for i in range(60)}), "holds over"),
    }  # fmt: skip


HOSTILE = hostile()


@pytest.mark.parametrize("way", ["file", "address"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_source_gets_one_line_and_changes_nothing(
    dataset, server, tmp_path, monkeypatch, name, way
):
    archive, said = HOSTILE[name]
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 20_000_000)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    dataset.photos_dir.mkdir()
    (dataset.photos_dir / "a").mkdir()
    (dataset.photos_dir / "a" / "00.jpg").write_bytes(b"mine")
    (dataset.photos_dir / "notes.txt").write_text("keep")
    before = content_of(tmp_path)
    if way == "file":
        source = tmp_path / "archive"
        source.write_bytes(archive)
        before = content_of(tmp_path)
    else:
        server.files["/a"] = archive
        source = f"{server.url}/a"
    with pytest.raises(UserError) as caught:
        bring(dataset, source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    after = content_of(tmp_path)
    changed = {k for k in before | after if before.get(k) != after.get(k)}
    assert all(k.startswith("cache/") and k.endswith(".lock") for k in changed), changed


def test_404_and_no_server_are_one_line(dataset, server):
    with pytest.raises(UserError, match="HTTP 404"):
        bring(dataset, f"{server.url}/nothing.zip")
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(UserError, match="no connection"):
        bring(dataset, f"{server.url}/a.zip")
    with pytest.raises(UserError, match="no folder, no zip or tar archive"):
        bring(dataset, "/nowhere/at/all")


def test_a_download_beyond_the_limit_is_refused(dataset, server, monkeypatch):
    server.files["/a.zip"] = GOOD_ZIP
    monkeypatch.setattr(fetch, "MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(UserError, match="is over"):
        bring(dataset, f"{server.url}/a.zip")


def test_first_source_fails_and_the_second_is_tried(dataset, server, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "GITHUB_ARCHIVE", f"{server.url}/gone.zip")
    with pytest.raises(UserError) as caught:
        fetch.fetch_photos(dataset, source=None, progress=quiet)
    assert "HTTP 404" in str(caught.value)
    assert "hub dataset google/dreambooth cannot be fetched" in str(caught.value)
    assert "--from" in str(caught.value)


def test_a_damaged_photo_is_brought_again_and_the_rest_stays(dataset, tmp_path):
    source = tmp_path / "a.zip"
    source.write_bytes(GOOD_ZIP)
    bring(dataset, source)
    kept = dataset.photos_dir / "a" / "00.jpg"
    stamp = kept.stat().st_mtime_ns
    (dataset.photos_dir / "b" / "01.jpg").write_bytes(b"half")
    faults = [check_file(dataset, file) for file in read_index(dataset).files]
    assert [fault for fault in faults if fault] == [
        f"b/01.jpg has 4 bytes, not {len(PHOTOS['b/01.jpg'])}"
    ]
    assert bring(dataset, source) == 1
    assert content_of(dataset.photos_dir) == PHOTOS
    assert kept.stat().st_mtime_ns == stamp


KILLED = """
import sys, time
from pathlib import Path
from dreambench.datasets import fetch
from dreambench.datasets.subjects import Dataset
write = fetch.write_bytes
def slow(path, content):
    write(path, content)
    print(path, flush=True)
    time.sleep(60)
fetch.write_bytes = slow
index, photos, source = map(Path, sys.argv[1:])
fetch.fetch_photos(Dataset("small", index, photos), source=str(source), progress=print)
"""


def test_a_killed_fetch_leaves_nothing_half_written_and_goes_on(dataset, tmp_path):
    source = tmp_path / "a.zip"
    source.write_bytes(GOOD_ZIP)
    words = [sys.executable, "-c", KILLED, dataset.index_dir, dataset.photos_dir, source]
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, env=os.environ)
    process.stdout.readline()
    process.kill()
    process.wait()
    assert not dataset.photos_dir.exists()
    assert bring(dataset, source) == 4
    assert content_of(dataset.photos_dir) == PHOTOS
    assert not list(tmp_path.glob(".*"))


def test_an_index_that_leads_out_of_its_folder_is_refused(dataset):
    path = dataset.index_dir / "images.csv"
    path.write_text(path.read_text().replace("a/00.jpg", "../../secret.jpg"))
    with pytest.raises(UserError, match="leads out of the folder"):
        load_subjects(dataset)


@real_photos
def test_the_real_photos_are_the_pinned_ones():
    done = call("data", "verify", "--data", REAL_PHOTOS)
    assert done.returncode == 0, done.stderr
    assert "158 of 158" in done.stdout
    listed = call("data", "list", "--data", REAL_PHOTOS).stdout.splitlines()
    assert len(listed) == 31
    assert sum(int(line.split()[-1]) for line in listed[1:]) == 158


def test_verify_reports_all_faults_at_once(tmp_path):
    done = call("data", "verify", "--data", tmp_path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 158
    assert "0 of 158" in done.stderr
    assert "dreambench data fetch" in done.stderr


def run_cli(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def test_contact_sheet_is_drawn(tmp_path):
    done = run_cli("data", "show", "mug", "--dataset", "mini", "--out", tmp_path / "mug.png")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "mug.png") as sheet:
        assert sheet.width > 1000
    assert run_cli("data", "show", "mugg", "--dataset", "mini").exit_code == 2


def photo_file(path, *, size=(300, 300), seed=0, exif=None, mode="RGB"):
    """A smooth photo file, so that perceptual hashes mean something."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(path, **({"exif": exif} if exif else {}))
    return path


def test_own_photos_become_a_dataset_that_runs(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        photo_file(tmp_path / "one.jpg", seed=1),
        photo_file(tmp_path / "two.jpg", seed=2, size=(400, 300), exif=exif.tobytes()),
        photo_file(tmp_path / "grey.png", seed=3, mode="L"),
        photo_file(tmp_path / "again.jpg", seed=1, size=(320, 320)),
    ]
    done = run_cli("data", "add", "my_dog", *files, "--class", "dog", "--to", tmp_path / "own")
    assert done.exit_code == 0, done.output
    assert "one.jpg and again.jpg are nearly the same picture" in done.output
    assert "two.jpg is not square" in done.output
    (mine,) = load_subjects(find_dataset(str(tmp_path / "own")))
    assert (mine.name, mine.class_name, mine.kind, len(mine.photos)) == ("my_dog", "dog", "live", 4)
    sizes = [Image.open(path).size for path in mine.photos]
    assert sizes[1] == (300, 400)
    assert {Image.open(path).mode for path in mine.photos} == {"RGB"}
    # A second one joins it; a taken name, and a noun of unknown kind, are refused.
    words = ["data", "add", "thing", files[0], "--to", tmp_path / "own", "--class"]
    refused = run_cli(*words, "gizmo")
    assert refused.exit_code == 2
    assert "say --kind" in refused.output
    done = run_cli(*words, "gizmo", "--kind", "object")
    assert "1 photos; 3 to 6 are advised" in done.output
    assert len(load_subjects(find_dataset(str(tmp_path / "own")))) == 2
    again = run_cli(*words, "toy")
    assert again.exit_code == 2
    assert "already has a subject 'thing'" in again.output


def test_bad_own_photos_are_all_named_at_once_and_nothing_is_written(tmp_path):
    small = photo_file(tmp_path / "small.jpg", size=(90, 90))
    (tmp_path / "text.jpg").write_text("no image")
    words = [small, tmp_path / "text.jpg", tmp_path / "gone.jpg"]
    done = run_cli("data", "add", "x", *words, "--class", "dog", "--to", tmp_path / "own")
    assert done.exit_code == 2
    for name in ("small.jpg has 90 x 90", "text.jpg cannot be read", "gone.jpg is not there"):
        assert name in done.output
    assert not (tmp_path / "own").exists()
    bad = run_cli("data", "add", "../x", photo_file(tmp_path / "a.jpg"), "--class", "dog",
                  "--to", tmp_path / "own")  # fmt: skip
    assert bad.exit_code == 2
    assert "cannot be a subject's name" in bad.output


@real_photos
def test_no_two_real_photos_are_called_duplicates():
    for subject in load_subjects(find_dataset("dreambooth", photos_dir=REAL_PHOTOS))[:6]:
        photos = [Image.open(path).convert("RGB") for path in subject.photos]
        notes = review_photos([path.name for path in subject.photos], photos)
        assert notes == []


def test_classifier_finds_the_class_of_minis_subjects():
    encoder = load_encoder("mini-clip", "clip")
    nouns = ["dog", "cat", "bird", "plushie", "robot", "car", "mug", "vase", "teapot", "backpack"]
    subjects = load_subjects(find_dataset("mini"))
    hits = 0
    for subject in subjects:
        ranking = classify_photos([Image.open(p) for p in subject.photos], nouns, encoder)
        assert sum(p for _, p in ranking) == pytest.approx(1)
        assert [p for _, p in ranking] == sorted((p for _, p in ranking), reverse=True)
        hits += ranking[0][0] == subject.class_name
    assert hits >= 7


def test_class_auto_prints_five_nouns_with_probabilities(tmp_path):
    photos = load_subjects(find_dataset("mini"), names=["mug"])[0].photos
    words = ["--class", "auto", "--encoder", "mini-clip", "--min-side-px", 64]
    done = run_cli("data", "add", "cup", *photos, *words, "--to", tmp_path)
    assert done.exit_code == 0, done.output
    assert sum("%" in line for line in done.output.splitlines()) == 5


def test_vocabulary_knows_the_classes_of_the_benchmarks():
    for name in ("dreambooth", "mini"):
        for row in read_index(find_dataset(name)).subjects:
            assert load_class_nouns()[row["class_name"]] == row["kind"]
    with pytest.raises(UserError, match="--kind"):
        find_kind("gizmo")


def test_export_keeps_the_bytes_and_describes_itself(tmp_path):
    import datasets  # noqa: PLC0415  (slow import)
    import mlcroissant  # noqa: PLC0415

    source = find_dataset("mini")
    export_dataset(source, tmp_path / "out")
    photos = [path for subject in load_subjects(source) for path in subject.photos]
    pinned = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photos]
    rows = pq.read_table(tmp_path / "out" / "photos.parquet").to_pylist()
    assert [row["sha256"] for row in rows] == pinned
    assert [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows] == pinned
    folder = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out" / "images"), cache_dir=str(tmp_path / "c")
    )["train"]
    assert sorted(folder["sha256"]) == sorted(pinned)
    assert folder.features["image"].__class__.__name__ == "Image"
    described = mlcroissant.Dataset(str(tmp_path / "out" / "croissant.json"))
    assert not described.metadata.issues.errors
    first = next(iter(described.records("photos")))
    assert first["photos/subject"] == b"dog"
    assert first["photos/image"].size == (64, 64)
    with pytest.raises(UserError, match="is not empty"):
        export_dataset(source, tmp_path / "out")


def test_upload_without_a_hub_is_one_line():
    done = run_cli("data", "export", "--dataset", "mini", "--push", "nobody/nothing")
    assert done.exit_code == 2
    assert "cannot upload to nobody/nothing" in done.output
    assert run_cli("data", "export", "--dataset", "mini").exit_code == 2


def test_add_goes_on_after_a_kill_between_its_two_index_files(tmp_path):
    image = Image.new("RGB", (300, 300), "red")
    add_subject(tmp_path, "a", photos=[image], names=["x"], class_name="dog", kind="live")
    # As if killed before the subject's row was written.
    (tmp_path / "subjects.csv").write_text("subject,class_name,kind,n_images\n")
    add_subject(tmp_path, "a", photos=[image] * 2, names=["x", "y"], class_name="dog", kind="live")
    (only,) = load_subjects(find_dataset(str(tmp_path)))
    assert len(only.photos) == 2


def test_subjects_load_in_python(tmp_path):
    assert [s.name for s in dreambench.load_subjects("mini", names=["mug"])] == ["mug"]
    with pytest.raises(UserError, match="dreambench data fetch"):
        dreambench.load_subjects(data_dir=tmp_path)
