"""The page of a run: its data, its thumbnails, and what is served of its folder."""

import http.client
import json
import threading

import numpy as np
import pytest
from conftest import TINY_PROTOCOL
from PIL import Image
from report_pages import draw, make_run, make_subjects

from dreambench.errors import UserError
from dreambench.report.image_browser import (
    CHANGED,
    DAMAGED,
    ELSEWHERE,
    MISSING,
    NOT_PLANNED,
    THERE,
    make_browser_data,
)
from dreambench.report.serving import ReportServer, find_served
from dreambench.report.thumbnails import FOLDER, GENERATED, SIDE_PX, Thumbnails
from dreambench.storage.sums import write_sums


@pytest.fixture
def make(tmp_path):
    """Make a run called NAME of the tiny protocol, of two subjects or those that are named."""
    (tmp_path / "tiny.toml").write_text(TINY_PROTOCOL)
    subjects = make_subjects(tmp_path / "photos", {"dog": "dog", "mug": "cup"})

    def make_one(name, *, only=("dog", "mug"), **options):
        chosen = [subject for subject in subjects if subject.name in only]
        return make_run(tmp_path / "runs" / name, tmp_path / "tiny.toml", chosen, **options)

    return make_one


def make_data(*shown):
    thumbnails = Thumbnails(shown[0][1].report_dir, others=[s.report_dir for _, s in shown[1:]])
    return make_browser_data(shown, thumbnails), thumbnails


def cell_of(data, subject, prompt, k):
    names = [s["name"] for s in data["subjects"]], [p["id"] for p in data["prompts"]]
    cells = data["cells"]
    rows = zip(cells["subject"], cells["prompt"], cells["k"], strict=True)
    found = [(names[0][s], names[1][p], k) for s, p, k in rows]
    return found.index((subject, prompt, k))


def test_every_cell_has_its_seed_prompt_scores_thumbnail_and_nearest_photo(make):
    run, images = make("one")
    data, _ = make_data((run, images))
    method = data["methods"][0]
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    frame = run.scores.frame.set_index(["subject", "prompt_id", "k", "metric"])["value"]
    for unit in images.plan.images:
        cell = cell_of(data, unit.subject, unit.prompt_id, unit.k)
        assert data["cells"]["seed"][cell] == unit.seed
        assert data["texts"][data["cells"]["text"][cell]] == unit.clip_text
        assert method["states"][cell] == THERE
        assert (images.report_dir / FOLDER / f"{method['thumbnails'][cell]}.webp").is_file()
        photos = next(s for s in data["subjects"] if s["name"] == unit.subject)["photos"]
        nearest = photos[method["nearest"][cell]]["name"]
        assert nearest == run.scores.nearest[unit.relative_path]
        for metric, values in method["scores"].items():
            known = frame[(unit.subject, unit.prompt_id, unit.k, metric)]
            assert values[cell] == pytest.approx(known, abs=5e-5)


def test_number_of_a_whole_prompt_stands_at_each_of_its_images(make):
    run, images = make("one")
    row = ["dog", "dog", "live", "property", "red", -1, "dino", 0.25, 1]
    run.scores.frame.loc[len(run.scores.frame)] = row
    data, _ = make_data((run, images))
    values = data["methods"][0]["scores"]["dino"]
    assert [values[cell_of(data, "dog", "red", k)] for k in (0, 1)] == [0.25, 0.25]


def test_what_became_of_an_image_is_told_apart(make):
    run, images = make("one", missing={("dog", "red", 0)})
    other, elsewhere = make("other", only=("dog",))
    (images.folder / "images/dog/red/1.png").write_bytes(b"no image")
    draw(images.folder / "images/mug/red/0.png", "another")
    (elsewhere.folder / "images/dog/red/0.png").unlink()
    data, _ = make_data((run, images), (other, elsewhere))
    first, second = data["methods"]
    where = {
        ("dog", "red", 0): MISSING, ("dog", "red", 1): DAMAGED, ("mug", "red", 0): CHANGED,
        ("mug", "red", 1): THERE,
    }  # fmt: skip
    for key, state in where.items():
        cell = cell_of(data, *key)
        assert first["states"][cell] == state
        assert (first["thumbnails"][cell] is None) == (state in (MISSING, DAMAGED))
    assert second["states"][cell_of(data, "dog", "red", 0)] == ELSEWHERE
    assert second["states"][cell_of(data, "mug", "red", 0)] == NOT_PLANNED


def test_only_runs_that_lie_beside_are_linked_and_no_path_of_the_machine_is_told(make, tmp_path):
    first, second = make("one"), make("two words")
    apart = make_run(
        tmp_path / "elsewhere" / "three", tmp_path / "tiny.toml", first[1].subjects, quality=0.3
    )
    data, _ = make_data(first, second, apart)
    folders = [method["folder"] for method in data["methods"]]
    assert folders == ["../", "../../two%20words/", None]
    assert str(tmp_path) not in json.dumps(data) and "elsewhere" not in json.dumps(data)


@pytest.fixture
def count_decoded(monkeypatch):
    """The names of the files that are decoded for thumbnails."""
    from dreambench.report import thumbnails  # noqa: PLC0415

    seen, load = [], thumbnails.load_image
    monkeypatch.setattr(thumbnails, "load_image", lambda path: seen.append(path) or load(path))
    return seen


def test_thumbnails_are_made_once_for_the_same_bytes_and_again_for_others(make, count_decoded):
    run, images = make("one")
    same = images.folder / "images/dog/red/1.png"
    same.write_bytes((images.folder / "images/dog/red/0.png").read_bytes())
    _, thumbnails = make_data((run, images))
    paths = thumbnails.list_paths()
    assert len(count_decoded) == len(paths) == 11 + 6
    write_sums(images.report_dir, paths)
    # One is no longer what was written, one image is another, and one thumbnail is of nothing.
    paths[0].write_bytes(b"torn")
    draw(images.folder / "images/mug/red/0.png", "another")
    (images.report_dir / FOLDER / f"{'0' * 20}.webp").write_bytes(b"old")
    count_decoded.clear()
    data, again = make_data((run, images))
    assert len(count_decoded) == 2
    assert len(again.list_paths()) == 17
    assert set(again.list_paths()) == set((images.report_dir / FOLDER).iterdir())
    with Image.open(paths[0]) as image:
        assert image.format == "WEBP"
    assert all(data["methods"][0]["thumbnails"])


def test_thumbnails_of_images_that_lie_nowhere_any_more_come_from_their_own_report(make, tmp_path):
    first, other = make("one"), make("external")
    _, thumbnails = make_data(other)
    write_sums(other[1].report_dir, thumbnails.list_paths())
    for path in other[1].folder.glob("images/*/*/*.png"):
        path.unlink()
    data, _ = make_data(first, other)
    states, names = data["methods"][1]["states"], data["methods"][1]["thumbnails"]
    assert set(states) == {ELSEWHERE} and all(names)
    assert all((first[1].report_dir / FOLDER / f"{name}.webp").is_file() for name in names)


def test_thumbnail_is_small_says_that_it_was_generated_and_looks_like_its_image(tmp_path):
    image = draw(tmp_path / "image.png", 1, size_px=600)
    photo = draw(tmp_path / "photo.png", 2, size_px=20)
    thumbnails = Thumbnails(tmp_path / "report")
    made = thumbnails.make([photo], [image])
    with Image.open(tmp_path / "report" / FOLDER / f"{made[image].name}.webp") as small:
        assert small.size == (SIDE_PX, SIDE_PX) and small.getexif()[270] == GENERATED
        with Image.open(image) as large:
            wanted = np.asarray(large.resize(small.size), float)
        assert np.abs(np.asarray(small, float) - wanted).mean() < 6
    with Image.open(tmp_path / "report" / FOLDER / f"{made[photo].name}.webp") as small:
        assert small.size == (20, 20) and not small.getexif()


@pytest.fixture
def folder(make):
    """A run's folder with a report and an image."""
    _, images = make("one")
    (images.report_dir / "thumbnails").mkdir(parents=True)
    (images.report_dir / "index.html").write_text("<p>page</p>")
    (images.report_dir / "notes.txt").write_text("private")
    (images.folder / "run.json").write_text("{}")
    (images.folder / "images/dog/red/notes.png").write_bytes(b"private")
    (images.folder.parent / "other.png").write_bytes(b"private")
    (images.report_dir / "link.png").symlink_to(images.folder.parent / "other.png")
    return images.folder


def test_reports_and_images_are_served_and_nothing_else(folder):
    found = {"/one/report/index.html", "/one/images/dog/red/0.png"}
    others = {
        "/", "/one", "/one/", "/one/report", "/one/report/", "/one/run.json", "/one/SHA256SUMS",
        "/one/report/notes.txt", "/one/report/link.png", "/one/images/dog/red/notes.png",
        "/one/images/dog/red", "/one/images/dog/red/9.png", "/other.png", "/two/report/index.html",
        "/one/report/../run.json", "/one/report/%2e%2e/%2e%2e/other.png", "//one/report/index.html",
        "/one/report/..%2f..%2fother.png", "/one/report/%00.png", "/one/report//index.html",
        "/one/report/%ff.png", f"/one/report/{'a' * 5000}.png", "/one/report/C:%5Cx.png",
    }  # fmt: skip
    folders = {"one": folder}
    assert {path for path in found | others if find_served(folders, path)} == found


def test_server_answers_this_machine_alone_and_lets_pages_load_nothing_from_elsewhere(folder):
    with ReportServer([folder]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.server_address[0] == "127.0.0.1"
        own = {"Host": f"127.0.0.1:{server.server_port}"}

        def ask(path, method="GET", headers=own):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()

        answer, body = ask("/one/report/index.html")
        assert (answer.status, body) == (200, b"<p>page</p>")
        policy = answer.getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'none'") and "http" not in policy
        assert ask("/")[0].getheader("Location") == "/one/report/index.html"
        assert ask("/one/images/dog/red/0.png")[0].getheader("Content-Type") == "image/png"
        assert ask("/one/run.json")[0].status == 404
        assert ask("/one/report/index.html", "HEAD")[1] == b""
        assert ask("/one/report/index.html", "POST")[0].status == 501
        # A name of a stranger's that leads here.
        assert ask("/one/report/index.html", headers={"Host": "evil.example"})[0].status == 421
        with pytest.raises(UserError) as refused, ReportServer([folder], port=server.server_port):
            pass
        assert refused.value.code == "port-in-use"
        server.shutdown()


@pytest.mark.parametrize("code", ["not-a-run", "no-report", "name-taken"])
def test_folders_without_a_report_or_with_one_name_are_refused(folder, tmp_path, code):
    folders = [folder]
    if code == "not-a-run":
        folders = [tmp_path]
    elif code == "no-report":
        (folder / "report" / "index.html").unlink()
    else:
        other = tmp_path / "more" / "one"
        other.mkdir(parents=True)
        (other / "run.json").write_text("{}")
        folders.append(other)
    with pytest.raises(UserError) as refused:
        ReportServer(folders)
    assert refused.value.code == code
