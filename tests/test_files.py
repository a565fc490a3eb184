"""Text files: what is no text is told as what it is."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from support.kills import lines

from bang.__main__ import main
from bang.errors import UserError
from bang.text import files, tokenize
from bang.text.files import CompressedError, _hinted, new_folder, read_lines, replacing, write_whole
from bang.text.table_input import TableInput


def zipped(text: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("texts", text)
    return file.getvalue()


ZSTANDARD = bytes.fromhex("28b52ffd0407390000612074657874 0a")  # its frame of 'a text'; this Python has no writer

COMPRESSED = {
    ".gz": (gzip.compress, "gzip", "gzip -dc"), ".bz2": (bz2.compress, "bzip2", "bzip2 -dc"),
    ".xz": (lzma.compress, "xz", "xz -dc"), ".zip": (zipped, "zip", "unzip -p"),
    ".zst": (lambda _: ZSTANDARD, "Zstandard", "zstd -dc"),
}  # fmt: skip


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_files_are_named(ending, tmp_path):
    compress, kind, command = COMPRESSED[ending]
    path = tmp_path / f"train.src{ending}"
    path.write_bytes(compress(b"a text\n" * 50))
    with pytest.raises(CompressedError) as refusal:
        list(read_lines(path))
    assert (
        str(refusal.value)
        == f"{path}: compressed ({kind}), not text: decompress it first: {command} {path} > {tmp_path}/train.src"
    )


def test_texts_that_only_look_like_it_are_texts(tmp_path):
    for text in ("BZhang wrote it", "BZh9 is no archive", "PK (penalty kick)", "PK", ""):
        (tmp_path / "texts").write_text(text + "\n")
        assert list(read_lines(tmp_path / "texts")) == [text]


@pytest.mark.parametrize("command", [
    ["tokenize", "--workers", "1", "--out-dir", "{0}/out", "{0}/texts.gz"],
    ["tokenize", "--workers", "2", "--out-dir", "{0}/out", "{0}/texts.gz"],
    ["evaluate", "{0}/texts", "--reference", "{0}/texts.gz"],
    ["evaluate", "{0}/texts.gz", "--reference", "{0}/texts"],
    ["collect", "{0}/texts.gz", "{0}/out"],
    ["vocabulary", "{0}/out", "{0}/texts.gz"],
    ["curves", "{0}/texts.gz", "{0}/out.png"],
])  # fmt: skip
def test_every_command_names_them(command, tmp_path):
    (tmp_path / "texts").write_text("a text\n")
    (tmp_path / "texts.gz").write_bytes(gzip.compress(b"a text\n"))
    with pytest.raises(SystemExit) as stop:
        main([argument.format(tmp_path) for argument in command])
    assert stop.value.code.startswith(f"bang {command[0]}: error: {tmp_path}/texts.gz: compressed (gzip), not text: ")
    assert "\n" not in stop.value.code


def test_lines_of_json_get_a_hint_once(tmp_path, caplog):
    _hinted.clear()
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a text"}\n{"text": "another"}\n')
    for _ in range(2):
        assert len(list(read_lines(path))) == 2
    (hint,) = [record.getMessage() for record in caplog.records]
    assert hint.startswith(f'{path}, line 1: begins with {{": JSON is taken for text') and "jq -r .KEY FILE" in hint
    path.with_suffix(".txt").write_text("{braces} of a text\n{}\n")
    list(read_lines(path.with_suffix(".txt")))
    assert len(caplog.records) == 1


def test_leftovers_of_killed_processes_go_and_what_is_being_written_stays(tmp_path):
    """Also where a process number comes again, as in containers; a folder's leftovers likewise."""
    (tmp_path / f".text.{os.getpid()}.tmp").write_text("half")
    for name in (f".model.{os.getpid()}.tmp", ".model.abc.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("half")
    other = "import sys; from bang.text.files import replacing\nwith replacing(sys.argv[1]):\n    print(flush=True)\n    input()"
    with lines([sys.executable, "-c", other, tmp_path / "text"], cwd=ROOT) as (process, _):
        (theirs,) = (path for path in tmp_path.glob(".text.*.tmp") if str(os.getpid()) not in path.name)
        with replacing(tmp_path / "text") as file:
            file.write(b"one")
            assert theirs.exists() and len(list(tmp_path.glob(".text.*.tmp"))) == 2
            with replacing(tmp_path / "text") as another:
                another.write(b"two")
        process.kill()
        process.wait()
        assert theirs.exists() and (tmp_path / "text").read_text() == "one"
    write_whole(tmp_path / "text", "three")
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "text"]
    assert (tmp_path / "text").read_text() == "three" and (tmp_path / "model" / "config.json").read_text() == "whole"


def test_a_full_disk_that_a_library_meets_is_told_in_one_line(tmp_path):
    for said in (
        "I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0",
    ):
        with pytest.raises(OSError, match=f"^{tmp_path}/model: cannot be written, the disk may be full ") as error:
            with new_folder(tmp_path / "model"):
                raise RuntimeError(f"{said}\nmore")
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="^shapes$"), new_folder(tmp_path / "model"):
        raise RuntimeError("shapes")


def test_on_a_full_disk_a_file_stays_as_it_was(tmp_path):
    """A limit on the size of files stands in for it."""
    write_whole(tmp_path / "text", "whole")
    script = (
        "import resource, signal, sys\nfrom bang.text.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "write_whole(sys.argv[1], 'more')"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "text"], cwd=ROOT, capture_output=True, text=True)
    assert "File too large" in done.stderr and (tmp_path / "text").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize("read", [
    lambda: list(files.read_lines("/dev/zero")),
    lambda: list(TableInput("/dev/zero")),
    lambda: list(TableInput("/dev/zero", "jsonl")),
    lambda: TableInput("/dev/zero", "csv"),
    lambda: tokenize.tokenize_files(["/dev/zero"], ["out"]),
])  # fmt: skip
def test_a_line_that_never_ends(read, monkeypatch, tmp_path):
    """It would take all memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "LONGEST_LINE", 1 << 20)
    with pytest.raises(UserError, match="^/dev/zero, line 1: longer than 1 MB: give a file with one text a line$"):
        read()
    assert not list(tmp_path.iterdir())


def test_lines_are_cut_at_line_feeds_alone(tmp_path, monkeypatch):
    """Also where a part that is read at once ends within a line, and behind one."""
    (tmp_path / "in").write_bytes(b"one\r\n\ntwo\x0bthree\nfour")
    assert list(files.read_lines(tmp_path / "in")) == ["one\r", "", "two\x0bthree", "four"]
    for size in range(1, 20):
        monkeypatch.setattr(tokenize, "CHUNK_BYTES", size)
        chunks = list(tokenize._read_chunks([tmp_path / "in"]))
        assert b"".join(chunk.data for chunk in chunks) == (tmp_path / "in").read_bytes()
        assert all(chunk.data.endswith(b"\n") for chunk in chunks[:-2]) and chunks[-1].data == b""
        assert [chunk.first_line for chunk in chunks][:2] == [1, 1 + chunks[0].data.count(b"\n")]
