"""The examples do what the documentation says of them."""

import re
import shutil

import nbformat
import pytest
from conftest import REPOSITORY, invoke
from nbclient import NotebookClient

from dreambench.config.protocol import load_protocol
from dreambench.storage.files import read_json

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture
def examples(tmp_path, shared_cache, monkeypatch):
    """A copy of examples/ as the working folder, so that nothing is written into the checkout."""
    monkeypatch.setenv("DREAMBENCH_CACHE", str(shared_cache))
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("runs", "scores", "my-images"))
    monkeypatch.chdir(folder)
    return folder


def test_the_protocol_is_valid_and_small():
    protocol = load_protocol(str(EXAMPLES / "my_protocol.toml"))
    assert protocol.name == "my-protocol"
    assert len(protocol.subjects) * len(protocol.prompts) <= 12


def test_the_metric_has_its_rows_in_summary_and_report(examples):
    invoke(
        "run", "--method", "copy-reference", "--protocol", "my_protocol.toml", "--alongside", "",
        "--metric", "my_metric.py:NearestPhoto",
    )  # fmt: skip
    folder = examples / "runs" / "my-protocol" / "copy-reference"
    entry = read_json(folder / "summary.json")["metrics"]["nearest-photo"]
    # A pasted photo is its own nearest photo.
    assert entry["whole"]["mean"] == pytest.approx(1, abs=1e-5)
    assert entry["info"]["signature"].startswith("Nearest photo|v1|code:")
    assert "Nearest photo" in (folder / "report" / "report.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", ["score-a-folder", "compare-methods"])
def test_notebooks_run_and_are_stored_without_outputs(examples, name):
    book = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(examples)}}).execute()
    shown = [
        output.data
        for cell in cells
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert any("text/html" in data for data in shown)


def test_pages_show_examples_that_are_there():
    pages = (REPOSITORY / "docs").rglob("*.md")
    named = [name for page in pages for name in re.findall(r'--8<-- "([^"]+)"', page.read_text())]
    assert {"examples/my_method.py", "examples/my_metric.py", "examples/my_encoder.py"} <= {*named}
    assert all((REPOSITORY / name).is_file() for name in named)
