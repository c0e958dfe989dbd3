"""Tables that people write: each row as it was meant, or one line that names the fault."""

import os
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambench.errors import UserError
from dreambench.storage.csv_files import read_csv, read_whole_number, write_csv

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.text(string.ascii_letters + "_ \"',", min_size=1)
# Any text that can be encoded, but for the one character that no text has.
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@st.composite
def tables(draw):
    columns = draw(
        st.lists(names, min_size=1, max_size=5, unique_by=lambda n: n.strip().casefold())
    )
    columns = [name for name in columns if name.strip()] or ["a"]
    row = st.fixed_dictionaries(dict.fromkeys(columns, cells))
    return columns, draw(st.lists(row, max_size=5))


@shared_folder
@given(tables())
def test_what_is_written_is_read(tmp_path, table):
    columns, rows = table
    write_csv(tmp_path / "t.csv", columns, rows)
    stripped = [{name.strip(): cell.strip() for name, cell in row.items()} for row in rows]
    found = read_csv(tmp_path / "t.csv", [name.strip() for name in columns])
    assert found == [row for row in stripped if any(row.values())]


@shared_folder
@given(st.binary() | st.text(alphabet='a,"\n\r; \t\0').map(str.encode))
def test_any_bytes_are_rows_of_the_headers_length_or_one_line(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    try:
        rows = read_csv(path, ["a"])
    except UserError as error:
        assert error.code in {"invalid-table", "unreadable-file"}
        assert str(path) in error.problem
        assert "\n" not in str(error)
    else:
        assert all(set(row) == set(rows[0]) and "a" in row for row in rows)
        assert all(isinstance(value, str) for row in rows for value in row.values())


@pytest.mark.parametrize(
    ("content", "code", "fact"),
    [
        (b"", "invalid-table", "a, b"),
        (b"a,c\n1,2\n", "invalid-table", "column b"),
        (b"a,b,a\n1,2,3\n", "invalid-table", "column a"),
        (b"a,b\n1,2\n\n3\n", "invalid-table", "line 4 has 1 cell, but the header has 2"),
        (b"a,b\n1,2,3\n", "invalid-table", "line 2 has 3 cells"),
        (b'a,b\n"1"x,2\n', "invalid-table", "line 2"),
        (b'a,b\n"1,2\n', "invalid-table", "line 2"),
        (
            b"a,b\n1,2\n1;2\n",
            "invalid-table",
            "line 3 has 1 cell, but the header has 2: it is separated by a",
        ),
        (b"# mine\na,b\n1,2\n", "invalid-table", "line 1 has to name the columns a, b"),
        (b"\n\na,b\n1,2,x\n", "invalid-table", "line 4 has 3 cells"),
        (b"a,b\n1,\0\n", "invalid-table", "line 2 holds a NUL"),
        (b"a,b,,\n1,2\n1,2,x,\n", "invalid-table", "line 3 has 3 cells"),
        (b"a,b,,\n1,2,,\n,,3,\n", "invalid-table", "line 3 has 3 cells"),
        (b",a,,b\n", "invalid-table", "without a name"),
        (b"sep=,\na;b\n1;2\n", "invalid-table", "line 2 has to name"),
        (b"a,b\n" + b"x" * 200_000 + b",2\n", "invalid-table", "line 2"),
        (b"a,b\n1,caf\xe9\n", "unreadable-file", "line 2 is not UTF-8 text (byte 0xE9)"),
        ("a,b\n1,2\n".encode("utf-16-le"), "unreadable-file", "UTF-16"),
        (b"\xff\xfea", "unreadable-file", "UTF-16"),
        ("a,b\n".encode("utf-32"), "unreadable-file", "UTF-32"),
    ],
)
def test_faults_are_named_by_line(tmp_path, content, code, fact):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_csv(path, ["a", "b"])
    assert caught.value.code == code
    assert fact in caught.value.problem


DIALECTS = {
    "plain": b"file,prompt,n\nx.png,a dog,0\ny.png,a cat,1\n",
    "byte-order mark": b"\xef\xbb\xbffile,prompt,n\nx.png,a dog,0\ny.png,a cat,1\n",
    "UTF-16 with tabs": "file\tprompt\tn\nx.png\ta dog\t0\ny.png\ta cat\t1\n".encode("utf-16"),
    "semicolons": b"file;prompt;n\nx.png;a dog;0\ny.png;a cat;1\n",
    "bars": b"file|prompt|n\nx.png|a dog|0\ny.png|a cat|1\n",
    "sep": b"sep=;\r\nfile;prompt;n\r\nx.png;a dog;0\r\ny.png;a cat;1\r\n",
    "sep in quotes": b'"sep=,"\nfile,prompt,n\nx.png,a dog,0\ny.png,a cat,1\n',
    "capitals": b"File,PROMPT,N\nx.png,a dog,0\ny.png,a cat,1\n",
    "blanks": b" file , prompt , n \n x.png , a dog , 0\ny.png,\"a cat\", 1\n",
    "blanks before quotes": b'file, prompt, n\nx.png, "a dog", 0\ny.png, "a cat", "1"\n',
    "CRLF": b"file,prompt,n\r\nx.png,a dog,0\r\ny.png,a cat,1\r\n",
    "CR": b"file,prompt,n\rx.png,a dog,0\ry.png,a cat,1\r",
    "empty rows": b"\n,,\nfile,prompt,n\n\nx.png,a dog,0\n,,\ny.png,a cat,1\n,,\n,,,,\n\n",
    "empty columns": b"file,prompt,n,,\nx.png,a dog,0,,\ny.png,a cat,1,,,\n",
    "all in quotes": b'"file";"prompt";"n"\n"x.png";"a dog";"0"\n"y.png";"a cat";"1"\n',
}  # fmt: skip


@pytest.mark.parametrize("content", [pytest.param(c, id=name) for name, c in DIALECTS.items()])
def test_what_spreadsheets_make_of_a_table_is_read(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    found = read_csv(tmp_path / "t.csv", ["file", "prompt"], optional=["n"])
    assert found == [
        {"file": "x.png", "prompt": "a dog", "n": "0"},
        {"file": "y.png", "prompt": "a cat", "n": "1"},
    ]


def test_the_likely_cause_of_a_long_row_is_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file,prompt\nx.png,a dog, on the beach, at noon\n")
    with pytest.raises(UserError, match=r"line 2 has 4 cells, .* a comma in quotes"):
        read_csv(path, ["file", "prompt"])
    path.write_text('sep=;\nfile;prompt\nx.png;"a\nb"\n\ny.png;a; b\n')
    with pytest.raises(UserError, match=r"line 6 has 3 cells, .* a semicolon in quotes"):
        read_csv(path, ["file", "prompt"])


def test_rows_know_their_line_and_own_columns_keep_their_names(tmp_path):
    (tmp_path / "t.csv").write_text('A,My Note\n"1\n2",x\n\n3,y\n')
    rows = read_csv(tmp_path / "t.csv", ["a"])
    assert [row.line for row in rows] == [2, 5]
    assert list(rows[0]) == ["a", "My Note"]


@pytest.mark.parametrize(
    ("cell", "number"),
    [("0", 0), ("12", 12), ("5.0", 5), ("007", 7), ("5.5", None), ("-1", None), ("", None),
     ("²", None), ("٣", None), ("1e3", None), ("9" * 5000, None), ("true", None)],
)  # fmt: skip
def test_whole_numbers_are_plain_digits(cell, number):
    assert read_whole_number(cell) == number


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="not a file"):
        read_csv(tmp_path / "t.csv", ["a"])


def test_a_file_that_is_missing_and_one_that_is_a_folder(tmp_path):
    with pytest.raises(UserError) as caught:
        read_csv(tmp_path / "none.csv", [])
    assert caught.value.code == "missing-file"
    with pytest.raises(UserError) as caught:
        read_csv(tmp_path, [])
    assert caught.value.code == "unreadable-file"


def test_a_lone_carriage_return_is_part_of_its_cell(tmp_path):
    rows = [{"a": "x\ry", "b": "1"}]
    write_csv(tmp_path / "t.csv", ["a", "b"], rows)
    assert read_csv(tmp_path / "t.csv", ["a"]) == rows


def test_cells_that_a_row_lacks_are_written_empty(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [{"a": "1"}])
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\n1,\n"
