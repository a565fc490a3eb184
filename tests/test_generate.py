"""`bang generate` from files into files: tables, going on with a stopped run, several processes.

With stdin and stdout: test_pack.py. The formats themselves: test_tables.py. Also bang/text/unfinished.py.
"""

import fcntl
import gzip
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import GOLDEN, ROOT, TEXTS
from support import memory
from support.pages import DOCS, blocks

from bang.__main__ import main
from bang.inference.api import Bang
from bang.text import unfinished

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
OPTIONS = ["--mode", "nar", "--max-len", "12"]


@pytest.fixture
def model(plugin, pieces):
    return Bang(plugin, pieces)


@pytest.fixture
def generate(model, monkeypatch, tmp_path):
    """`bang generate` in this process, from a folder of its own; the model is loaded once for all."""
    monkeypatch.setattr(Bang, "load", lambda **_: model)
    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=CHECKPOINT):
        main(["generate", str(model), *OPTIONS, *arguments])

    return call


@pytest.fixture
def refused(generate):
    """What it says where it is refused."""

    def call(*arguments, **options):
        with pytest.raises(SystemExit) as stop:
            generate(*arguments, **options)
        assert str(stop.value.code).startswith("bang generate: error: ") and "\n" not in stop.value.code
        return stop.value.code.removeprefix("bang generate: error: ")

    return call


@pytest.fixture
def table(tmp_path):
    """TEXTS in a JSONL file with their numbers."""
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": id, "body": text}) + "\n" for id, text in enumerate(TEXTS)))
    return ["--input", "in.jsonl", "--input-column", "body", "--output-column", "synopsis"]


@pytest.fixture
def stopping(monkeypatch, model):
    """Lets the engine fail at its n-th batch, which is of one text; and notes how far a run is after every row."""
    monkeypatch.setattr(unfinished, "SECONDS", -1)
    whole = model.engine.generate

    def at(count):
        seen = []

        def some(sources, options):
            seen.append(len(sources))
            if sum(seen) > count:
                raise KeyboardInterrupt
            return whole(sources, options)

        monkeypatch.setattr(model.engine, "generate", some)

    yield at
    monkeypatch.setattr(model.engine, "generate", whole)


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_table(generate, table, model):
    generate(*table, "--output", "out.jsonl")
    expected = model.generate(TEXTS, "nar", max_len=12)
    assert rows("out.jsonl") == [{"id": n, "body": text, "synopsis": expected[n]} for n, text in enumerate(TEXTS)]
    generate(*table[:-2], "--output", "out.txt")
    assert Path("out.txt").read_text().splitlines() == expected
    generate("--input", "out.txt", "--output", "details.jsonl", "--json")
    (first, *_) = rows("details.jsonl")
    assert first["text"] == expected[0] and first["generated"].keys() >= {"text", "pieces", "passes", "error"}
    assert sorted(os.listdir()) == ["details.jsonl", "in.jsonl", "out.jsonl", "out.txt"]


def test_formats_of_pipes_are_named(generate, monkeypatch, capfdbinary, model):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"id,text\n3,a text\n")))
    generate("--input-format", "csv", "--output-format", "tsv")
    text = model.generate("a text", "nar", max_len=12)
    assert capfdbinary.readouterr().out.decode() == f"id\ttext\tgenerated\n3\ta text\t{text}\n"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv.gz", "out.tsv.zst", "out.parquet", "out.txt"])
def test_a_stopped_run_goes_on(name, generate, table, stopping, caplog):
    """Its output is that of a run that was never stopped, byte for byte where parts leave no trace."""
    if name.endswith((".zst", ".parquet")):
        pytest.importorskip("pyarrow")
    table = table[:-2] if name == "out.txt" else table
    generate(*table, "--output", "whole" + name, "--batch-tokens", "1")
    done = 0
    for count in (3, 4):
        stopping(count)
        with pytest.raises(SystemExit) as stop:
            generate(*table, "--output", name, "--batch-tokens", "1", *(["--resume"] if done else []))
        assert stop.value.code == 130 and not Path(name).exists()
        before, done = done, json.loads(Path(f"{name}.part.json").read_text())["rows"]
        assert done > before
    assert f"{done} rows are in {Path(name).absolute()}.part: go on with --resume" in caplog.messages
    with open(f"{name}.part", "ab") as file:  # what a killed process wrote behind what it noted
        file.write(b"half a row")
    stopping(10**9)
    generate(*table, "--output", name, "--resume")
    assert not list(Path().glob("*.part*"))
    assert contents(Path(name)) == contents(Path("whole" + name))


def contents(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        return parquet.read_table(path)
    if path.suffix == ".zst":
        import pyarrow

        return pyarrow.input_stream(path, compression="zstd").read()
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return path.read_bytes()


def test_what_a_stopped_run_was_not_of_is_refused(generate, refused, table, stopping, tmp_path):
    output = ["--output", "out.jsonl", "--batch-tokens", "1"]
    stopping(5)
    with pytest.raises(SystemExit):
        generate(*table, *output)
    part = tmp_path / "out.jsonl.part"
    before = part.read_bytes()
    whole = Path("in.jsonl").read_text()
    assert refused(*table, *output) == (
        f"{part}: has {len(rows(part))} rows of a run that has not ended: go on with --resume, or remove it"
    )
    assert refused(*table, *output, "--resume", "--mode", "ar", "--beam", "1") == (
        f"{part}: is of another run (--beam None, now 1, --mode nar, now ar): give what that run had, or remove it"
    )
    assert "(--json False, now True)" in refused(*table, *output, "--resume", "--json")
    Path("in.jsonl").write_text(whole.replace('"id": 11', '"id": 12'))
    assert "(another --input)" in refused(*table, *output, "--resume")
    Path("in.jsonl").write_text(whole)
    (tmp_path / "other.pt").write_bytes(CHECKPOINT.read_bytes() + b".")
    assert "(another MODEL)" in refused(*table, *output, "--resume", model="other.pt")
    assert part.read_bytes() == before
    part.write_bytes(before[:-1])
    assert "shorter than" in refused(*table, *output, "--resume")
    part.write_bytes(before)
    Path("out.jsonl.part.json").write_text("{")
    assert "not what this command writes" in refused(*table, *output, "--resume")


def test_a_whole_output_is_not_gone_on_with(generate, refused, table, tmp_path):
    Path("out.jsonl").write_text("mine")
    assert refused(*table, "--output", "out.jsonl", "--resume") == (
        f"{tmp_path}/out.jsonl: is there, and no run of it is to go on with: remove it, or leave --resume out"
    )
    assert Path("out.jsonl").read_text() == "mine"


def test_a_run_that_stops_at_a_line_goes_on_with_another_answer_to_it(generate, refused, model, caplog):
    lines = [*TEXTS[:4], "tool " * 600, *TEXTS[4:6]]
    Path("in.txt").write_text("\n".join(lines) + "\n")
    files = ["--input", "in.txt", "--output", "out.txt"]
    assert refused(*files).startswith("text 5 has over 511 word pieces")
    assert not Path("out.txt").exists() and caplog.messages[-1].startswith("4 rows are in ")
    with pytest.raises(SystemExit) as stop:
        generate(*files, "--resume", "--on-error", "blank")
    assert stop.value.code == 3
    expected = model.generate(TEXTS[:6], "nar", max_len=12)
    assert Path("out.txt").read_text().splitlines() == [*expected[:4], "", *expected[4:]]


def test_lines_left_blank_before_a_run_was_stopped_are_listed_too(generate, stopping, capsys, monkeypatch):
    monkeypatch.setattr("bang.cli.generate.MOST_LISTED", 2)
    good = [json.dumps({"text": text}) for text in TEXTS]
    Path("in.jsonl").write_text("\n".join([good[0], "{", *good[1:7], "[]", "{}", good[7]]) + "\n")
    files = ["--input", "in.jsonl", "--output", "out.jsonl", "--on-error", "blank", "--batch-tokens", "1"]
    stopping(5)
    with pytest.raises(SystemExit):
        generate(*files)
    stopping(10**9)
    with pytest.raises(SystemExit) as stop:
        generate(*files, "--resume")
    assert stop.value.code == 3
    said = capsys.readouterr().err.splitlines()[-3:]
    assert said[0].startswith("row 2 left blank: in.jsonl, line 2: not JSON") and said[1].startswith("row 9 left blank: in.jsonl")
    assert said[2] == "bang generate: 3 of 11 rows are blank, the first for the reasons above"
    assert [row["generated"] == "" for row in rows("out.jsonl")] == [n in (1, 8, 9) for n in range(11)]


def test_an_output_is_written_by_one_process(refused, table, tmp_path):
    with open("out.jsonl.part", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process writes it" in refused(*table, "--output", "out.jsonl")
    assert Path("out.jsonl.part").exists()


@pytest.mark.parametrize("arguments, error", [
    (["--resume"], "--resume needs files to go on with: give --input and --output"),
    (["--input", "in.jsonl", "--resume"], "--resume needs files to go on with: give --input and --output"),
    (["--input", "none.csv"], "none.csv: no such file or directory"),
    (["--input", "in.jsonl", "--output", "none/out.txt"], "none/out.txt: its folder does not exist: make it first"),
    (["--input", "in.jsonl", "--output", "."], ".: is a folder; name a file in it"),
    (["--input", "in.jsonl", "--output", "in.jsonl"], "output in.jsonl is the input in.jsonl: choose another output"),
    (["--input", "in.jsonl"], "in.jsonl, line 1: no column text; it has id, body: name one with --input-column"),
    (["--input", "in.jsonl", "--output", "o.csv", "--json"], "--json: csv has no place for it; write plain lines or JSONL"),
    (["--workers", "0"], "workers=0: give a whole number, 1 or more"),
    (["--input", "in.jsonl", "--output", "o.csv", "--beam", "0"], "beam=0: give a whole number, 1 or more"),
])  # fmt: skip
def test_bad_input_gets_one_line(arguments, error, refused, table):
    assert refused(*arguments) == error
    assert sorted(os.listdir()) == ["in.jsonl"]  # nothing half-written


def test_parquet_needs_files(refused, table):
    pytest.importorskip("pyarrow")
    assert "cannot be read from a pipe" in refused("--input-format", "parquet")
    assert "cannot be written to a pipe" in refused(*table, "--output-format", "parquet")


def test_progress_has_a_rate_and_remaining_time(generate, table, monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    generate(*table, "--output", "out.jsonl")
    assert "| 12/12 [00:0" in capfd.readouterr().err


@pytest.fixture
def start(exported, tmp_path):
    """Starts the command in a process of its own."""

    def call(*arguments):
        command = [sys.executable, "-W", "ignore", "-m", "bang", "generate", exported, *OPTIONS, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(list(map(str, command)), cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)

    return call


def workers_of(process, count):
    """The process ids of its workers, once they are there."""
    while True:
        found = [pid for pid in memory.children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if len(found) == count:
            return found
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def number_of_rows(path):
    try:
        return json.loads(Path(path).read_text())["rows"]
    except FileNotFoundError:
        return 0


def write_rows(path, count):
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"id": number, "text": f"tool {number}"}) + "\n")


@pytest.mark.slow
def test_a_killed_run_of_two_workers_goes_on(start, runtime, tmp_path):
    """One worker is killed: told, and replaced. Then the command itself is killed, and goes on. No text lacks or differs."""
    write_rows(tmp_path / "in.jsonl", 40_000)
    files = ["--input", "in.jsonl", "--output", "out.jsonl", "--workers", "2"]
    first = start(*files)
    pids = workers_of(first, 2)
    while not number_of_rows(tmp_path / "out.jsonl.part.json"):
        assert first.poll() is None
        time.sleep(0.1)
    os.kill(pids[0], signal.SIGKILL)
    while pids[0] in (now := workers_of(first, 2)):
        pass
    first.kill()
    said = first.communicate()[1]
    assert f"process {pids[0]}, was killed (SIGKILL; for lack of memory, maybe): " in said and "by a new one" in said
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in now):
        time.sleep(0.1)  # workers end with the command
    done = number_of_rows(tmp_path / "out.jsonl.part.json")
    assert 0 < done < 40_000 and not (tmp_path / "out.jsonl").exists()
    second = start(*files, "--resume")
    assert second.communicate()[1] == "" and second.returncode == 0
    found = rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == list(range(40_000))
    some = found[:: 40_000 // 50]
    assert runtime.generate([row["text"] for row in some], "nar", max_len=12) == [row["generated"] for row in some]


def peak(process):
    """MiB that a command and its workers held at most, added up."""
    found = memory.most_of_all(process)
    assert process.returncode == 0, process.stderr.read()
    return found


def test_memory_is_that_of_the_process_and_its_children_alone(tmp_path):
    """Not of the one that starts them, which holds more; and what is started takes none from what it starts."""
    held = bytearray(b"1") * (150 << 20)
    inner = "import time; held = bytearray(b'1') * (30 << 20); time.sleep(1)"
    outer = f"import subprocess, sys; held = bytearray(b'1') * (50 << 20); subprocess.run([sys.executable, '-c', {inner!r}])"
    found = memory.most_of_all(subprocess.Popen([sys.executable, "-c", outer]))
    assert 80 < found < len(held) / 2**20


@pytest.mark.slow
def test_200_000_rows_through_every_format(start, tmp_path):
    """Each format is made of the one before; every row keeps its place and its columns, and every format's text is the same."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    names = ["in.csv.gz", "one.jsonl.zst", "two.parquet", "three.tsv", "four.jsonl.gz"]
    with gzip.open(tmp_path / names[0], "wt", compresslevel=1) as file:
        file.write("id,text\n")
        file.writelines(f"{number},tool {number}\n" for number in range(200_000))
    for number, (source, target) in enumerate(zip(names, names[1:])):
        columns = ["--output-column", f"text {number}", "--workers", "2", "--max-len", "2"]
        peak(start("--input", source, "--output", target, *columns))
    assert parquet.read_metadata(tmp_path / "two.parquet").num_rows == 200_000
    written = 0
    with gzip.open(tmp_path / names[-1], "rt") as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            assert (row["id"], row["text"]) == (str(number), f"tool {number}")
            assert row["text 0"] == row["text 1"] == row["text 2"] == row["text 3"]
            written += row["text 0"] != ""
    assert number == 199_999 and written > 1000  # two word pieces may make no text


@pytest.mark.slow
def test_a_million_lines_take_no_more_memory_than_some(start, tmp_path):
    taken = []
    for name, count in (
        ("some", 400_000),
        ("million", 1_000_000),
    ):  # each worker's cache of 131,072 words is full in both, and as large
        with open(tmp_path / name, "w", encoding="utf-8") as file:
            file.writelines(f"tool {number}\n" for number in range(count))
        command = ["--input", name, "--output", f"{name}.out", "--workers", "2", "--max-len", "2"]
        taken.append(peak(start(*command)))
    assert taken[1] < taken[0] + 32
    with open(tmp_path / "million.out", encoding="utf-8") as file:
        assert sum(1 for _ in file) == 1_000_000
    head = (tmp_path / "some.out").read_bytes()
    with open(tmp_path / "million.out", "rb") as file:
        assert file.read(len(head)) == head


@pytest.mark.slow
def test_the_page_on_a_million_lines(exported, monkeypatch, tmp_path):
    """Its commands run as they stand; the second goes on with what the first has left, here nothing."""
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "exported").symlink_to(exported)
    with gzip.open(tmp_path / "titles.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"title": text}) + "\n" for text in TEXTS)
    monkeypatch.chdir(tmp_path)
    for command in blocks(DOCS / "bulk.md")[0].splitlines():
        main(shlex.split(command)[1:])
        table = parquet.read_table("synopses.parquet").to_pydict()
        assert table["title"] == TEXTS and all(table["synopsis"])
        os.remove("synopses.parquet")
