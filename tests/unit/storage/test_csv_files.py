"""Tables that people write: each row as it was meant, or one line that names the fault."""

import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambench.errors import UserError
from dreambench.storage.csv_files import read_csv, write_csv

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
names = st.text(string.ascii_letters + "_ \"',", min_size=1)
cells = st.text(st.characters(exclude_categories=["Cs"]))  # any text that can be encoded


@st.composite
def tables(draw):
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    row = st.fixed_dictionaries(dict.fromkeys(columns, cells))
    return columns, draw(st.lists(row, max_size=5))


@shared_folder
@given(tables())
def test_what_is_written_is_read(tmp_path, table):
    columns, rows = table
    write_csv(tmp_path / "t.csv", columns, rows)
    assert read_csv(tmp_path / "t.csv", columns) == rows


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
        (b"a,b\n1,2\n\n3\n", "invalid-table", "line 4 has 1 cells"),
        (b"a,b\n1,2,3\n", "invalid-table", "line 2 has 3 cells"),
        (b'a,b\n"1"x,2\n', "invalid-table", "line 2"),
        (b'a,b\n"1,2\n', "invalid-table", "line 2"),
        (b"a,b\n" + b"x" * 200_000 + b",2\n", "invalid-table", "line 2"),
        (b"a,b\n\xff,2\n", "unreadable-file", "UTF-8"),
    ],
)
def test_faults_are_named_by_line(tmp_path, content, code, fact):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_csv(path, ["a", "b"])
    assert caught.value.code == code
    assert fact in caught.value.problem


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
