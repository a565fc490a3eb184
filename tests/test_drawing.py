"""`bang visibility`: the drawings show what the table of the paper says, written as plain loops."""

import re
import struct
import subprocess
import sys

import pytest
from conftest import ROOT

from bang.__main__ import main
from bang.inference import drawing


def expected(mode, length, block):
    """For each target what it sees: real tokens, the start symbol 0, and slots by target, from 1."""
    for target in range(1, 1 + length):
        start = {"ar": target, "semi-nar": 1 + (target - 1) // block * block, "nar": 1, "speculative": target}[mode]
        yield target, [] if mode == "nar" else list(range(start)), list(range(start, target + 1))


def read(text):
    """What a drawing in characters says, line by line."""
    heads, *lines = text.splitlines()[3:]
    count = len(heads.split()) // 2
    for line in lines:
        name, *cells = re.split(r"  +(?=[█▒·])| (?=[█▒·])", line.replace("██", "█").replace("▒▒", "▒"))
        assert len(cells) == 2 * count
        seen = [cell.strip() in "█▒" for cell in cells]
        yield name.strip(), [n for n in range(count) if seen[n]], [1 + n for n in range(count) if seen[count + n]]


@pytest.mark.parametrize("mode", ["ar", "semi-nar", "nar", "speculative"])
@pytest.mark.parametrize("length, block", [(8, 4), (7, 3), (12, 5), (1, 4)])
def test_what_is_drawn_is_what_a_mode_sees(mode, length, block, capsys):
    main(["visibility", "--mode", mode, "--length", str(length), "--block-size", str(block)])
    found = list(read(capsys.readouterr().out))
    assert found == [(str(target), tokens, slots) for target, tokens, slots in expected(mode, length, block)]


def test_streams(capsys):
    main(["visibility", "--ngram", "3", "--length", "5"])
    wanted = [
        (f"{target}, stream {stream}", list(range(target - stream)), list(range(target - stream, target + 1)))
        for stream in range(3)
        for target in range(1 + stream, 6)
    ]
    assert list(read(capsys.readouterr().out)) == wanted


def test_all_trained_modes_without_an_option(capsys):
    main(["visibility", "--length", "3"])
    titles = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert titles == ["AR", "semi-NAR, blocks of 4", "NAR"]


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    main(["visibility", "--mode", "semi-nar", "--length", "8", "--out", str(tmp_path / "seen.png")])
    picture = (tmp_path / "seen.png").read_bytes()
    width, height = struct.unpack(">II", picture[16:24])
    assert picture.startswith(b"\x89PNG") and width > height > 100
    pages = [drawing.svg.__wrapped__("semi-nar", 6, block) for block in (2, 2, 3)]
    assert pages[0].startswith("<svg") and pages[0] == pages[1] != pages[2]
    hidden, tokens, slots = (pages[0].count(f"fill: {colour}") for colour in ("#f1f1f1", "#2b5c8a", "#e8a33d"))
    assert (tokens, slots, hidden) == (2 * (1 + 3 + 5), 3 * (1 + 2), 72 - 18 - 9)


@pytest.mark.parametrize("options, message", [
    (["--mode", "rna"], "mode 'rna': give one of ar, semi-nar, nar, speculative"),
    (["--length", "0"], "length=0: give a whole number, from 1 to 64"),
    (["--length", "65"], "length=65: give a whole number, from 1 to 64"),
    (["--block-size", "0"], "block_size=0: give a whole number, from 1 to 64"),
    (["--ngram", "0"], "ngram=0: give a whole number, from 1 to 64"),
    (["--out", "seen.jpeg"], "seen.jpeg: give a file that ends in .png, .svg or .pdf"),
    (["--out", "no-such-folder/seen.png"], "no-such-folder/seen.png: its folder does not exist: make it first"),
])  # fmt: skip
def test_mistakes_are_one_line(options, message):
    with pytest.raises(SystemExit) as stop:
        main(["visibility", *options])
    assert stop.value.code == f"bang visibility: error: {message}"


def test_it_needs_no_torch():
    code = (
        "import sys; from bang.__main__ import main; main(['visibility', '--length', '4'])\n"
        "assert not {'torch', 'fairseq', 'matplotlib'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
