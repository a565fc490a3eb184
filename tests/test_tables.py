"""Rows in and out: plain lines, JSONL, CSV, TSV and Parquet, compressed or not; what is damaged is told by its line.

Of bang/text/table_input.py, table_output.py and compression.py.
"""

import datetime
import gzip
import io
import json
import sys

import pytest

from bang.errors import UserError
from bang.text import table_output
from bang.text.table_input import TableInput, format_of
from bang.text.table_output import TableOutput

ROWS = [
    {"id": 7, "text": "a text", "tags": ["x", "ü"]},
    {"id": 8, "text": 'commas, "quotes"\nand lines', "tags": []},
    {"id": 9, "text": "", "tags": None},
]
TABLES = ["t.jsonl", "t.csv", "t.tsv", "t.parquet", "t.jsonl.gz", "t.csv.zst"]


def needs(*names):
    """Skips where a name needs a package of the extra that is not there."""
    if any(name.endswith((".parquet", ".zst")) for name in names):
        pytest.importorskip("pyarrow")


def convert(source, target, parts=1):
    """Rows of one file into another, each with its text in capitals."""
    part = target.with_name("part")
    with TableInput(source) as rows, open(part, "wb") as file:
        output = TableOutput(target, None, None, rows)
        writer = output.writer(file)
        for number, row in enumerate(rows):
            writer.write(row, row.text.upper())
            if number < parts - 1:
                writer.end_part()
        writer.end_part()
        output.finish(part, target)
    return target


def read(path, column=None):
    with TableInput(path, None, column) as rows:
        return [row.values() for row in rows]


@pytest.fixture
def table(tmp_path):
    """ROWS in a JSONL file."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_formats_are_told_by_names():
    assert [format_of(name) for name in ("a.JSONL", "b.ndjson.gz", "c.csv.zst", "d.tsv", "e.parquet", "f.txt.gz", "g", "-")] == [
        "jsonl", "jsonl", "csv", "tsv", "parquet", "lines", "lines", "lines",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_all_columns_come_through(name, table, tmp_path):
    """Into a format and back; what is no text is JSON in CSV and TSV. Parts are told by nobody who reads."""
    needs(name)
    there = convert(table, tmp_path / name, parts=3)
    expected = [{**row, "generated": row["text"].upper()} for row in ROWS]
    if "csv" in name or "tsv" in name:
        expected = [
            {"id": str(row["id"]), "text": row["text"], "tags": {7: '["x", "ü"]', 8: "[]", 9: ""}[row["id"]],
             "generated": row["text"].upper()} for row in ROWS
        ]  # fmt: skip
    assert read(there) == expected


def test_parquet_keeps_its_types(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = {
        "text": arrow.array(["a", None, "c"], arrow.large_string()),
        "when": arrow.array([datetime.datetime(2020, 1, 1)] * 3, arrow.timestamp("ns")),
        "small": arrow.array([1, None, 3], arrow.int8()),
        "kind": arrow.array(["x", "y", "x"]).dictionary_encode(),
    }
    before = arrow.table(columns).replace_schema_metadata({"by": "hand"})
    parquet.write_table(before, tmp_path / "in.parquet", row_group_size=2)
    convert(tmp_path / "in.parquet", tmp_path / "out.parquet", parts=2)
    after = parquet.read_table(tmp_path / "out.parquet")
    assert after.drop_columns("generated").equals(before) and after.schema.metadata[b"by"] == b"hand"
    assert after.column("generated").to_pylist() == ["A", "", "C"]
    with TableInput(tmp_path / "in.parquet") as rows:
        assert [row.error for row in rows] == [None, f"{tmp_path}/in.parquet, row 2: column text is null, no text", None]
        assert rows.count() == 3
    convert(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[0]["when"].startswith("2020-01-01")


def test_many_rows_of_parquet_keep_their_order(tmp_path):
    """Over several batches and row groups, from Parquet and from other formats."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "in.csv"
    path.write_text("n,text\n" + "".join(f"{n},text {n}\n" for n in range(3000)))
    convert(path, tmp_path / "one.parquet", parts=1500)
    one = parquet.read_table(tmp_path / "one.parquet")
    assert one.column("generated").to_pylist() == [f"TEXT {n}" for n in range(3000)]
    parquet.write_table(one.drop_columns("generated"), tmp_path / "two.parquet", row_group_size=700)
    assert parquet.read_table(convert(tmp_path / "two.parquet", tmp_path / "three.parquet", parts=10)).equals(one)
    assert parquet.read_metadata(tmp_path / "three.parquet").num_row_groups == 1


def test_an_input_of_no_rows(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    (tmp_path / "in.csv").write_text("id,text\n")
    (tmp_path / "in.jsonl").write_text("")
    assert convert(tmp_path / "in.csv", tmp_path / "out.csv").read_text() == "id,text,generated\n"
    assert parquet.read_table(convert(tmp_path / "in.csv", tmp_path / "out.parquet")).schema.names == ["id", "text", "generated"]
    assert parquet.read_table(convert(tmp_path / "in.jsonl", tmp_path / "out2.parquet")).schema.names == ["generated"]
    assert convert(tmp_path / "in.jsonl", tmp_path / "out.txt").read_text() == ""


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz", "t.txt.zst"])
def test_plain_lines(name, tmp_path):
    """Line feeds alone end lines; a last one may lack."""
    needs(name)
    (tmp_path / "in.txt").write_bytes(b"one\r\n\n\xc2\x85three")
    assert read(convert(tmp_path / "in.txt", tmp_path / name)) == [{"text": "ONE\r"}, {"text": ""}, {"text": "\x85THREE"}]
    with TableInput(tmp_path / name) as rows:
        assert rows.count() == 3


@pytest.mark.parametrize("name, content, error", [
    ("t.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON (Expecting value at character 10)"),
    ("t.jsonl", b'{"text": "a"}\n\n', "line 2: not JSON (Expecting value at character 1)"),
    ("t.jsonl", b'{"text": "a"}\n["text"]\n', "line 2: JSON, but no object of columns: give one {...} a line"),
    ("t.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no column text; it has body: name one with --input-column"),
    ("t.jsonl", b'{"text": "a"}\n{"text": null}\n', "line 2: column text is null, no text"),
    ("t.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not UTF-8 (byte 0xff at byte 11 of the line)"),
    ("t.jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", "line 2: not JSON that can be read ("),
    ("t.csv", b"text,id\na,1\nb\n", "line 3: 1 fields, and the header has 2"),
    ("t.tsv", b"text\tid\na\t1\nb\t\xff\n", "line 3: not UTF-8: convert the file to UTF-8, with iconv for instance"),
    ("t.txt", b"a\n\xff\n", "line 2: not UTF-8 (byte 0xff at byte 1 of the line)"),
])  # fmt: skip
def test_a_row_that_cannot_be_read_keeps_its_place(name, content, error, tmp_path):
    (tmp_path / name).write_bytes(content)
    with TableInput(tmp_path / name) as rows:
        found = list(rows)
    assert [row.text for row in found] == ["a", ""] and found[0].error is None
    assert found[1].error.startswith(f"{tmp_path / name}, {error}")
    convert(tmp_path / name, tmp_path / "out.jsonl")
    assert [row["generated"] for row in read(tmp_path / "out.jsonl", "generated")] == ["A", ""]


@pytest.mark.parametrize("name, content, error", [
    ("t.csv", b"id,body\n1,a\n", ": no column text; it has id, body: name one with --input-column"),
    ("t.csv", b"", ": its first line names no columns: give a header"),
    ("t.csv", b"text,id,id\n", ": has two columns 'id': rename one"),
    ("t.csv", b'text,id\na,"1\nb,2\nc,3\n', ", line 4: not CSV (unexpected end of data): is a quote unclosed before it?"),
    ("t.tsv", b'text\tid\n"a" b\t1\n', ", line 2: not TSV ("),
    ("t.jsonl.gz", b"", ": damaged, or not written to its end (gzip: it is empty): make it again, or copy it whole"),
    ("t.txt.gz", gzip.compress(b"a text\n" * 9999)[:-9], ": damaged, or not written to its end (gzip: Compressed file ended"),
    ("t.txt.gz", b"a text\n", ": damaged, or not written to its end (gzip: Not a gzipped file"),
    ("t.txt.zst", b"a text\n", ": damaged, or not written to its end (zstd: "),
    ("t.parquet", b"PAR1 and no more", ": no whole Parquet file ("),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_told(name, content, error, tmp_path):
    needs(name)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        list(TableInput(tmp_path / name))
    assert str(refusal.value).startswith(f"{tmp_path / name}{error}") and "\n" not in str(refusal.value)


def test_a_cut_zstandard_file_is_no_whole_one(tmp_path):
    needs(".zst")
    (tmp_path / "in.txt").write_text("".join(f"text {n}\n" for n in range(3000)))
    whole = convert(tmp_path / "in.txt", tmp_path / "t.zst", parts=2).read_bytes()
    (tmp_path / "t.zst").write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"t.zst: damaged, or not written to its end \(zstd: Truncated compressed stream\)"):
        list(TableInput(tmp_path / "t.zst"))


def test_a_folder_and_columns_that_do_not_fit(table, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        TableInput(tmp_path)
    with pytest.raises(FileNotFoundError):
        TableInput(tmp_path / "none.csv")
    (tmp_path / "t.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"^--input-column body: .*t.txt is plain lines, which have no columns; --input-format"):
        TableInput(tmp_path / "t.txt", column="body")
    with TableInput(table) as rows:
        with pytest.raises(UserError, match="^--output-column synopsis: plain lines have no columns"):
            TableOutput("out.txt", None, "synopsis", rows)
        writer = TableOutput(tmp_path / "out.jsonl", None, "tags", rows).writer(io.BytesIO())
        with pytest.raises(UserError, match=r"rows.jsonl, line 1: has a column tags already: name another --output-column"):
            writer.write(next(iter(rows)), "")
        with pytest.raises(UserError, match=r"Parquet is compressed inside: leave out .gz"):
            TableOutput("out.parquet.gz", None, None, rows)
    (tmp_path / "t.csv").write_text("text,generated\na,b\n")
    with TableInput(tmp_path / "t.csv") as rows, pytest.raises(UserError, match="t.csv has that column already; name another"):
        TableOutput("out.jsonl", None, None, rows)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_rows_with_other_columns_than_the_first(name, tmp_path, monkeypatch):
    """CSV and Parquet have one head; columns that lack are empty there."""
    needs(name)
    path = tmp_path / "in.jsonl"
    lines = ['{"text": "a", "b": 1}', '{"text": "b"}', '{"text": "c", "d": 2}', '{"text": "d", "e": 3}']
    path.write_text("\n".join(lines[:3]) + "\n")
    found = read(convert(path, tmp_path / name))
    assert [list(row) for row in found] == [["text", "b", "d", "generated"]] * 3
    assert [row["b"] for row in found] == (["1", "", ""] if name == "out.csv" else [1, None, None])
    for module in (sys.modules["bang.text.table_input"], table_output):
        monkeypatch.setattr(module, "PEEK", 3)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="in.jsonl, line 4: has a column e, which the first 3 rows lack: write JSONL"):
        convert(path, tmp_path / name)
    if name == "out.parquet":
        path.write_text("\n".join([*lines[:3], '{"text": "d", "b": "x"}']) + "\n")
        with pytest.raises(UserError, match="in.jsonl, line 4: column b does not fit: its type is int64 in the first 3 rows"):
            convert(path, tmp_path / name)
        path.write_text('{"text": "a", "b": 1}\n{"text": "b", "b": "x"}\n')
        with pytest.raises(UserError, match="in.jsonl: its first 3 rows do not fit into columns"):
            convert(path, tmp_path / name)


def test_excels_csv(tmp_path):
    """With its mark of UTF-8, carriage returns, and blank lines at the end, which are no rows."""
    (tmp_path / "t.csv").write_bytes("\ufefftext;,id\r\nÄ,1\r\n\r\n".encode())
    assert read(tmp_path / "t.csv", "text;") == [{"text;": "Ä", "id": "1"}]
    with TableInput(tmp_path / "t.csv", None, "text;") as rows:
        assert rows.count() == 1


def test_half_a_surrogate_pair_stays_in_json(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "b": "\\ud800"}\n')
    assert read(convert(tmp_path / "t.jsonl", tmp_path / "out.jsonl"))[0]["b"] == "\ud800"


@pytest.mark.parametrize("name", ["t.parquet", "t.txt.zst"])
def test_without_the_extra(name, tmp_path, monkeypatch):
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"some")
    (tmp_path / "t.txt").write_bytes(b"a\n")
    for read_or_write in (
        lambda: TableInput(tmp_path / name),
        lambda: TableOutput(name, None, None, TableInput(tmp_path / "t.txt")),
    ):
        with pytest.raises(UserError, match=r"^needs pyarrow, which is not installed: pip install .*\[bulk\]'$"):
            read_or_write()
