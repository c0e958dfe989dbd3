"""`dreambench study serve`: gives out questionnaires and keeps what answers them, and no more."""

import http.client
import json
import threading

import pytest
from simulated_raters import World, simulate
from study_runs import make_runs

from dreambench.study.pages import write_study_folder
from dreambench.study.plan import make_study
from dreambench.study.serving import StudyServer


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    study, pictures = make_study(make_runs(root), n_comparisons=8, n_raters=6, n_questions=4)
    write_study_folder(study, pictures, root / "study")
    return root / "study", study


@pytest.fixture
def server(planned):
    (planned[0] / "answers.sqlite").unlink(missing_ok=True)
    with StudyServer(planned[0]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=body, headers=sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def make_sheet(plan, **changes):
    found = simulate(plan, World({"good": 0.0, "poor": 0.0}), seed=1)[0]
    content = {**found.model_dump(mode="json"), "simulated": False, **changes}
    return json.dumps(content).encode()


def send(server, body, **headers):
    return ask(server, "POST", "/answers", body, Content_Type="application/json", **headers)


def test_who_comes_gets_the_questionnaire_that_the_fewest_answered(server, planned):
    answer, _ = ask(server, "GET", "/")
    assert answer.status == 302 and answer.headers["Location"] == "/questionnaires/001.html"
    answer, content = send(server, make_sheet(planned[1]))
    assert answer.status == 200 and json.loads(content) == {"stored": True}
    answer, _ = ask(server, "GET", "/")
    assert answer.headers["Location"] == "/questionnaires/002.html"


def test_pages_and_pictures_go_out_and_nothing_else(server, planned):
    answer, content = ask(server, "GET", "/questionnaires/001.html")
    assert answer.status == 200 and b'data-sends="true"' in content
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    picture = next((planned[0] / "questionnaires" / "images").iterdir())
    answer, content = ask(server, "GET", f"/questionnaires/images/{picture.name}")
    assert content == picture.read_bytes() and answer.headers["Content-Type"] == "image/png"
    for path in (
        "/study.json", "/answers.sqlite", "/links.csv", "/questionnaires/", "/answers",
        "/questionnaires/../study.json", "/questionnaires/%2e%2e/study.json",
        "/questionnaires/images/../../study.json", "//etc/passwd", "/questionnaires/999.html",
    ):  # fmt: skip
        assert ask(server, "GET", path)[0].status == 404, path


def test_messages_that_are_no_answers_are_refused_and_not_kept(server, planned):
    sheet = make_sheet(planned[1])
    assert send(server, b"{}")[0].status == 400
    assert send(server, make_sheet(planned[1], study="0" * 16))[0].status == 400
    assert send(server, b"x" * 300_000)[0].status == 413
    assert ask(server, "POST", "/answers", sheet, Content_Type="text/plain")[0].status == 415
    assert send(server, sheet, Origin="https://example.org")[0].status == 421
    assert send(server, sheet, Host="example.org")[0].status == 421
    assert ask(server, "POST", "/", sheet, Content_Type="application/json")[0].status == 404
    assert server.store.count() == {1: 0, 2: 0}
    assert send(server, sheet, Origin=server.url.rstrip("/"))[0].status == 200
    assert send(server, sheet)[0].status == 200
    other = json.loads(sheet)
    other["answers"] = dict.fromkeys(other["answers"], "neither")
    assert send(server, json.dumps(other).encode())[0].status == 409
    assert server.store.count() == {1: 1, 2: 0}
