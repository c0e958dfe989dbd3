"""The page docs/how-to/score-a-folder.md: its commands and its code run as written."""

import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPOSITORY
from external_images import write_index
from processes import call

from dreambench.storage.files import read_json


@pytest.mark.long
def test_the_page_on_scoring_a_folder_runs_as_written(tmp_path, shared_cache):
    text = (REPOSITORY / "docs" / "how-to" / "score-a-folder.md").read_text()
    blocks = re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(("dreambench ", "cp "))]
    table = [line for line in lines if line.startswith(("file,subject", "my-images/"))]
    python = [line for line in lines if line.startswith(("import ", "found = ", "print("))]
    assert (len(commands), len(table), len(python)) == (7, 3, 5)
    place = {"cwd": tmp_path, "env": {**os.environ, "DREAMBENCH_CACHE": str(shared_cache)}}
    first = commands.index("dreambench score my-images.csv --protocol mini --name my-method")

    def shell(lines):
        printed = ""
        for line in lines:
            program, *words = shlex.split(line)
            if program == "cp":
                subprocess.run(line, shell=True, cwd=tmp_path, check=True)
                continue
            done = call(*words, **place)
            assert done.returncode == 0, done.stderr
            printed += done.stdout
        return printed

    shell(commands[:first])
    # The index of the page, written on to its end.
    images = sorted((tmp_path / "my-images").glob("*/*/*.png"))
    rows = [
        [path.relative_to(tmp_path).as_posix(), *path.parts[-3:-1], path.stem] for path in images
    ]
    write_index(tmp_path / "my-images.csv", rows)
    with (tmp_path / "my-images.csv").open() as stream:
        written = {line.strip() for line in stream}
    assert {table[0], table[1]} <= written
    changed = table[2].replace("a sks dog on the beach", "beach")
    assert changed in written
    content = (tmp_path / "my-images.csv").read_text().replace(changed, table[2])
    (tmp_path / "my-images.csv").write_text(content)
    printed = shell(commands[first:])
    assert "'sks'" in printed
    assert "copy-reference" in printed
    assert "my-dogs (partial)" in printed
    assert "customconcept101" in printed
    code = "\n".join(python)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **place
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = pd.read_parquet(tmp_path / "scores" / "mini" / "my-method" / "scores.parquet")
    own = pd.read_parquet(tmp_path / "runs" / "mini" / "copy-reference" / "scores.parquet")
    assert theirs.equals(own)
    summary = read_json(tmp_path / "scores" / "mini" / "my-method" / "summary.json")
    for entry in summary["metrics"].values():
        assert entry["info"]["signature"] in done.stdout
        assert f"{entry['whole']['mean']:.6f}" in done.stdout
