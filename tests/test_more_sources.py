"""Sources without a target, out of running text."""

import subprocess
import sys

from conftest import ROOT


def run(*arguments):
    command = [sys.executable, ROOT / "research" / "more_sources.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_documents_that_are_no_source_of_the_data(tmp_path):
    known = "A library that reads and writes the files of many old games, and a viewer"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.src").write_text(f"{known} in {split}.\nSome other {split} text.\n", encoding="utf-8")
    new = "This program counts the words of a text, line by line, and draws a picture of them."
    text = [
        "",
        "Too short.",
        "",
        f"{known.upper()}.",
        "",
        new,
        "Caf\u00e9\u2028included.",
        "",
        "",
        new.replace(",", ";"),
        "",
        "Eight words are enough for a source, surely.",
    ]
    (tmp_path / "text.txt").write_text("\n".join(text), encoding="utf-8")
    done = run(tmp_path / "text.txt", tmp_path)
    assert done.stdout == f"{new} Caf\u00e9\u2028included.\n{text[-1]}\n" and not done.returncode
    (tmp_path / "valid.src").unlink()
    done = run(tmp_path / "text.txt", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("more_sources.py: error: ") and "valid.src" in done.stderr
    assert done.stderr.count("\n") == 1
