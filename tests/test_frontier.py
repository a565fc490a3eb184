"""The frontier: every way of decoding of one checkpoint, against time; and the script that proves exactness."""

import argparse
import json
import shutil
import sys

import pytest
from conftest import GOLDEN, ROOT, VOCAB_SMALL

from bang.text.vocabulary import read_vocabulary

sys.path.insert(0, str(ROOT / "benchmarks"))
import frontier  # noqa: E402


def row(family, label, rouge, milliseconds, passes, tokens=8.0):
    return {"family": family, "label": label, "name": f"{family} {label}", "ROUGE-L": rouge, "milliseconds": milliseconds,
            "sentences_per_second": 10.0, "passes": passes, "tokens_a_pass": tokens / passes}  # fmt: skip


GREEDY = row("AR greedy", "", 37.0, 90.0, 8.0)


def test_verdicts():
    rows = [GREEDY, row("speculative", "K=1", 37.0, 70.0, 6.0), row("speculative", "K=2", 37.0, 60.0, 4.0),
            row("dial", "τ=0.3", 35.9, 40.0, 3.0), row("dial", "τ=0.5", 36.0, 45.0, 4.0),
            row("dial", "τ=0.9", 37.0, 80.0, 7.0)]  # fmt: skip
    found = frontier.verdicts(rows)
    assert found["speculative"] == {"best": "K=2", "times_greedy_at_batch_1": 1.5, "tokens_a_pass": 2.0}
    assert found["dial"]["reached"] and found["dial"]["best"] == "τ=0.5"  # 0.9 is better, but takes more than half the passes
    rows.remove(rows[4])
    assert not frontier.verdicts(rows)["dial"]["reached"]
    assert frontier.verdicts([GREEDY, rows[-1]])["dial"]["best"] is None
    assert frontier.verdicts(rows[1:]) == {}


def test_a_frontier_of_a_golden_checkpoint(tmp_path, link_file, monkeypatch, capsys):
    data = tmp_path / "data"
    data.mkdir()
    pieces = [piece for piece in read_vocabulary(VOCAB_SMALL) if piece.isalpha()]
    for side, start in (("src", 0), ("tgt", 3)):
        (data / f"test.{side}").write_text("".join(" ".join(pieces[start + i : start + i + 5]) + "\n" for i in range(9)))
    out = tmp_path / "out"
    for name, path in (("checkpoint.pt", GOLDEN / "mixed" / "checkpoint.pt"), ("link.bin", link_file)):
        shutil.copy(path, tmp_path / name)
    arguments = [tmp_path / "checkpoint.pt", data, "--vocab", VOCAB_SMALL, "--out", out, "--sentences", 6, "--timed", 2,
                 "--rounds", 1, "--threads", 1, "--max-len", 6, "--batch-tokens", 96]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["frontier.py", *map(str, arguments)])
    frontier.main()
    report = json.loads((out / "frontier.json").read_text())
    rows = {one["name"]: one for one in report["rows"]}
    assert list(rows) == [system.name for system in frontier.systems(6)]
    assert rows["AR greedy"]["tokens_a_pass"] == 1
    assert rows["NAR"]["passes"] == rows["NAR + link"]["passes"] == 1 and rows["NAR + link rescore 4"]["passes"] == 2
    assert rows["NAR"]["tokens"] != rows["NAR + link"]["tokens"]
    for name, one in rows.items():
        assert one["milliseconds"] > 0 and one["sentences_per_second"] > 0
        if name.startswith("speculative"):
            assert one["ROUGE-L"] == rows["AR greedy"]["ROUGE-L"] and one["tokens"] == rows["AR greedy"]["tokens"]
    assert report["settings"]["sentences"] == 6 and set(report["verdicts"]) == {"speculative", "dial"}
    table = (out / "frontier.md").read_text()
    assert capsys.readouterr().out == table and "| dial τ=0.95 |" in table and "The dial " in table
    for name in ("frontier.png", "frontier-passes.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_is_measured_is_what_was_asked_for(tmp_path):
    """An export's engine cannot be another than its own, and a packed model is exported for onnxruntime."""
    from bang.deploy.export import export
    from bang.deploy.pack import write_folder
    from bang.inference.trained_model import read_model

    model = read_model(GOLDEN / "mixed" / "checkpoint.pt", VOCAB_SMALL)
    write_folder(model, tmp_path / "packed")
    export(model, tmp_path / "export")
    with pytest.raises(ValueError, match="an export in float32; give --engine onnx-float32"):
        frontier.load(str(tmp_path / "export"), None, "torch", 1, str(tmp_path / "made"))
    args = argparse.Namespace(dial_block=5, systems=frontier.FAMILIES)
    without = frontier.chosen_systems(frontier.load(str(tmp_path / "packed"), None, "torch", 1, ""), args)
    assert without and not {one.family for one in without} & set(frontier.LINKED)
    packed = frontier.load(str(tmp_path / "packed"), None, "onnx-float32", 1, str(tmp_path / "made"))
    assert type(packed.engine).__name__ == "OnnxEngine"
    with pytest.raises(ValueError, match="packed: brings its own vocabulary; give no other"):
        read_model(tmp_path / "packed", VOCAB_SMALL)


@pytest.mark.parametrize(
    "arguments, message",
    [(["--rounds", "0"], "--rounds 0: give 1 or more"), ([], "test.src has 2 lines, test.tgt 1")],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "test.src").write_text("one\ntwo\n")
    (tmp_path / "test.tgt").write_text("one\n")
    monkeypatch.setattr(sys, "argv", ["frontier.py", "no.pt", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as stop:
        frontier.main()
    assert message in str(stop.value.code) + capsys.readouterr().err
