"""What the tests share: no network, a tiny protocol and recipe, the command line as a process."""

import gc
import hashlib
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Set before any library of the hub is imported: no test touches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# One thread a process: workers of xdist share two cores, and threads that wait for each other
# on a busy core make ten times slower what they should make faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # For tests that ask for two threads.

import pytest
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import settings

import dreambench  # noqa: F401  (before torch: it limits instruction sets)

# How long an example takes is no fault: a busy machine is slow.
settings.register_profile("dreambench", deadline=None)
settings.load_profile("dreambench")

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_PHOTOS = REPOSITORY.parent / "shared" / "dreambooth" / "dataset"

TINY_PROTOCOL = """
title = "two subjects, two prompts, three steps"
source = "tests"
version = 1
dataset = "mini"
subjects = ["dog", "mug"]
base_model = "mini"
n_images_per_prompt = 2
metrics = ["dino", "clip-i", "clip-t", "div", "pres"]

[sampler]
scheduler = "ddim"
n_steps = 3
guidance_scale = 3.0
size_px = 64

[sampler.options]
timestep_spacing = "trailing"

[prior]
n_images = 2

[encoders]
dino = "mini-vit"
clip = "mini-clip"
perceptual = "mini-vit-patches"
segmenter = "mini-segmenter"

[[prompts]]
id = "beach"
family = "recontextualization"
text = "a {subject} on the beach"

[[prompts]]
id = "red"
family = "property"
text = "a red {subject}"
"""

# For tests of what comes before scores: those cost half of a tiny run.
LIGHT_PROTOCOL = TINY_PROTOCOL.replace(
    '["dino", "clip-i", "clip-t", "div", "pres"]', '["dino", "pres"]'
).replace('segmenter = "mini-segmenter"\n', "")

TINY_RECIPE = """
method = "dreambooth"
title = "a few steps"
source = "tests"

[mini]
identifier = "auto"
learning_rate = 1e-4
n_steps = 6
batch_size = 2
train_text_encoder = true
prior_weight = 1.0
n_class_images = 4
weight_decay = 0.01
max_grad_norm = 1.0
optimizer = "adamw"
class_noun = "correct"
n_photos = 0
gradient_checkpointing = false
"""


class Server:
    """A local HTTP server that can cut connections; counts what it was asked and what it sent."""

    def __init__(self):
        self.files, self.cut_after, self.asked, self.n_sent = {}, [], [], 0
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.headers.get("Range"))
                content = outer.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                tag, start = f'"{hashlib.sha256(content).hexdigest()}"', 0
                asked = self.headers.get("Range")
                if outer.ranges and asked and self.headers.get("If-Range") == tag:
                    start = int(asked.removeprefix("bytes=").rstrip("-"))
                    self.send_response(206)
                    total = len(content)
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                else:
                    self.send_response(200)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                body = content[start:]
                if outer.cut_after:
                    body = body[: outer.cut_after.pop(0)]
                self.wfile.write(body)
                outer.n_sent += len(body)

            def log_message(self, *words):
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def pytest_collection_modifyitems(items):
    """Start the longest tests first, so that no worker waits for one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """Leave what is there to the end out of each search for what can go; runs make many."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let what a test logs go to xdist's other side, which takes no halves of characters."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def server():
    """A running server."""
    running = Server()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def tiny(tmp_path):
    """Paths of a protocol and a recipe that run in seconds."""
    (tmp_path / "tiny.toml").write_text(TINY_PROTOCOL)
    (tmp_path / "quick.toml").write_text(TINY_RECIPE)
    return tmp_path / "tiny.toml", tmp_path / "quick.toml"


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded for features, in the order in which that starts."""
    from dreambench.encoders import extraction  # noqa: PLC0415  (imports torch)

    seen, load = [], extraction.load_image
    monkeypatch.setattr(extraction, "load_image", lambda path: seen.append(path) or load(path))
    return seen


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id):
    """A folder that all workers have in common."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def shared_cache(common):
    """One cache for the tests that do not test the cache."""
    return common / "cache"


@pytest.fixture(scope="session")
def finished(common, shared_cache, tmp_path_factory):
    """A whole tiny run with both methods alongside: (folder of runs, words, what was printed).

    One worker makes it for all, and each has a copy, which its tests share: copy what one changes.
    """
    made, printed = common / "finished", common / "finished.txt"
    root = tmp_path_factory.mktemp("finished")

    def words(folder):
        return (
            "run", "--protocol", folder / "tiny.toml", "--method", folder / "quick.toml",
            "--out", folder / "runs", "--cache", shared_cache, "--batch-size", 4,
        )  # fmt: skip

    with FileLock(common / "finished.lock"):
        if not printed.exists():
            made.mkdir()
            (made / "tiny.toml").write_text(TINY_PROTOCOL)
            (made / "quick.toml").write_text(TINY_RECIPE)
            printed.write_text(invoke(*words(made)).stdout)
    shutil.copytree(made, root, dirs_exist_ok=True)
    own = printed.read_text().replace(str(made), str(root))
    return root / "runs" / "tiny", words(root), own


@pytest.fixture(scope="session")
def board(finished, tmp_path_factory):
    """A folder of records: those of the finished run and of the methods alongside it."""
    root = tmp_path_factory.mktemp("board") / "records"
    for name in ("quick", "class-only", "copy-reference"):
        invoke("submit", finished[0] / name, "--out", root, "--sample", "0")
    return root


@pytest.fixture(scope="session")
def protocol(finished):
    """The protocol of these records."""
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415  (imports pydantic)

    return load_protocol(str(finished[1][2]))


@pytest.fixture
def copied(finished, tmp_path):
    """A private copy of the finished run's folder."""
    return shutil.copytree(finished[0] / "quick", tmp_path / "quick")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Small random folders of flow models by their names, each written when first asked for."""
    from small_flows import WRITERS  # noqa: PLC0415  (imports torch)

    made = {}

    def find(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "pipeline"
            WRITERS[name](made[name])
        return made[name]

    return find


@pytest.fixture
def few_pixels(monkeypatch):
    """Photos in thousands of pixels where diffusers shows a model a megapixel of each."""
    from diffusers.pipelines.flux import pipeline_flux_kontext  # noqa: PLC0415  (imports torch)
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus  # noqa: PLC0415

    sizes = [(64, 64), (96, 48), (48, 96)]
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", sizes)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 64 * 64)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """A random pipeline of other sizes than mini's: 4 latent channels, epsilon prediction."""
    from small_pipelines import write_sd_folder  # noqa: PLC0415  (imports torch)

    folder = tmp_path_factory.mktemp("other") / "pipeline"
    write_sd_folder(folder)
    return folder


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    """A random pipeline of SDXL's shape."""
    from small_pipelines import write_xl_folder  # noqa: PLC0415  (imports torch)

    folder = tmp_path_factory.mktemp("xl") / "pipeline"
    write_xl_folder(folder)
    return folder


@pytest.fixture(scope="session")
def base_of(other_folder, xl_folder):
    """Base models by a short name: mini, and random ones of two other shapes.

    `small` has mini's numbers and hardly any network: for tests of what a network does not decide.
    """
    from dreambench.base_models.catalogue import BASE_MODELS  # noqa: PLC0415
    from dreambench.base_models.registry import find_base_model  # noqa: PLC0415

    return {
        "mini": BASE_MODELS["mini"],
        "small": find_base_model(f"mini={other_folder}"),
        "other": find_base_model(f"sd15={other_folder}"),
        "xl": find_base_model(f"sdxl={xl_folder}"),
    }


@pytest.fixture
def own(tiny, tmp_path, shared_cache, monkeypatch):
    """A plug-in's file and the words of a command that runs it, without FAULT."""
    from own_method import OWN  # noqa: PLC0415  (imports this file)

    monkeypatch.delenv("FAULT", raising=False)
    tiny[0].write_text(LIGHT_PROTOCOL)
    path = tmp_path / "code" / "own.py"
    path.parent.mkdir()
    path.write_text(OWN)
    words = (
        "--protocol", tiny[0], "--out", tmp_path / "runs", "--cache", shared_cache,
        "--batch-size", 2,
    )  # fmt: skip
    return path, words


def tree(folder):
    """Every file of a folder with its bytes, but for locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def invoke(*words, status=0):
    """The command line in this process; `status` is the exit code that it must end with."""
    from dreambench import cli  # noqa: PLC0415  (after HF_HUB_OFFLINE is set)

    done = CliRunner().invoke(cli.main, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done


def refused(*words):
    """The one line that a refused command prints; only progress may stand before it."""
    return find_refusal(invoke(*words, status=2))


def refused_at_once(*words):
    """The same of a command that does nothing before it: all that it prints is the line."""
    done = invoke(*words, status=2)
    assert done.stderr.strip() == find_refusal(done)
    return done.stderr.strip()


def find_refusal(done):
    """The one line that says why, of all that a refused command printed."""
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("dreambench:")]
    assert len(lines) == 1, done.stderr
    return lines[0]
