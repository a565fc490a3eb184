"""`bang link`, and the folders of `bang pack` and `bang export` that hold one."""

import json
from dataclasses import asdict, replace

import pytest
from conftest import GOLDEN, REFERENCES, TEXTS, VOCAB_SMALL

from bang.__main__ import main
from bang.decoding.counting import make_link
from bang.decoding.link import Link, Weights
from bang.deploy import export as deploy_export
from bang.inference import link_tuning
from bang.inference.api import Bang

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
DATA = GOLDEN / "data"


def command(*arguments):
    main(["link", *map(str, arguments)])


def test_raw_and_tokenized_targets_give_what_make_link_makes(tmp_path, pieces, capsys):
    command(DATA / "tokenized_train.tgt", "--tokenized", "--vocab", VOCAB_SMALL, "--out", tmp_path / "link", "--order", 2)
    ids = {piece: index for index, piece in enumerate(pieces)}
    lines = (DATA / "tokenized_train.tgt").read_text(encoding="utf-8").splitlines()
    texts = [[ids.get(piece, ids["[UNK]"]) for piece in line.split()] for line in lines]
    make_link(texts, pieces, ids["[SEP]"], 2, weights=Weights(0.5, 3.0, 0.6, candidates=24, width=1)).save(tmp_path / "expected")
    assert (tmp_path / "link").read_bytes() == (tmp_path / "expected").read_bytes()
    link = Link.load(tmp_path / "link", pieces)
    said = capsys.readouterr().out
    assert f"{len(link.keys2):,} bigrams, 0 trigrams; " in said and "weights, not tuned: weight 0.5, gain 3, bonus 0.6" in said

    raw = [line.replace(" ##", "") for line in lines]  # which the splitting undoes
    (tmp_path / "raw").write_text("\n".join(raw) + "\n", encoding="utf-8")
    command(tmp_path / "raw", "--vocab", VOCAB_SMALL, "--out", tmp_path / "of-raw", "--order", 2)
    assert (tmp_path / "of-raw").read_bytes() == (tmp_path / "link").read_bytes()


def test_a_threshold_says_what_it_leaves_out(tmp_path, capsys):
    command(DATA / "tokenized_train.tgt", "--tokenized", "--vocab", VOCAB_SMALL, "--out", tmp_path / "link", "--threshold", 2)
    link = Link.load(tmp_path / "link")
    assert link.dropped > 0 and f"{link.dropped:,} n-grams seen less than 2 times left out" in capsys.readouterr().out


def test_tuned_weights_are_the_best_of_those_tried(tmp_path, monkeypatch, capsys, link_file):
    """Told to stderr and stored; the score of each is that of the texts that the model then writes."""
    monkeypatch.setattr("bang.decoding.tune.GRID", None)  # the default of tune() is bound already
    monkeypatch.setattr(link_tuning, "tune", lambda score, start: _of_two(score, start))
    (tmp_path / "src").write_text("\n".join([*TEXTS, ""]) + "\n", encoding="utf-8")
    (tmp_path / "tgt").write_text("\n".join([*REFERENCES, "nothing"]) + "\n", encoding="utf-8")
    command(
        DATA / "tokenized_train.tgt", "--tokenized", "--vocab", VOCAB_SMALL, "--out", tmp_path / "link", "--model", CHECKPOINT,
        "--tune", tmp_path / "src", tmp_path / "tgt",
    )  # fmt: skip
    said = capsys.readouterr().err.splitlines()
    scores = [float(line.split(": ")[0].split()[-1]) for line in said if line.startswith("ROUGE-L + ROUGE-2 / 2 ")]
    assert len(scores) == 2
    found = Link.load(tmp_path / "link")
    heavy = [found.weights.gain == 6.0]
    assert heavy == [scores[1] > scores[0]]

    from bang.text.evaluate import evaluate

    expected = []
    for gain in (0.0, 6.0):
        replace(found, weights=replace(found.weights, gain=gain)).save(tmp_path / "one")
        texts = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, link=tmp_path / "one").generate([*TEXTS, ""], "nar", max_len=16)
        rouge = evaluate({"texts": texts}, [*REFERENCES, "nothing"], ["rouge"])["systems"]["texts"]
        expected.append(rouge["ROUGE-L"] + rouge["ROUGE-2"] / 2)
    assert scores == pytest.approx(expected, abs=0.01)


def _of_two(score, start):
    tried = {weights: score(weights) for weights in (replace(start, gain=0.0), replace(start, gain=6.0))}
    return max(tried, key=tried.get), tried


def test_an_export_gives_the_weights_of_its_model(runtime, plugin, link_file, monkeypatch):
    """Both engines give the search the same candidates."""
    monkeypatch.setattr(link_tuning, "tune", _of_two)
    link, trials = Link.load(link_file), []
    for model in (runtime, Bang(plugin, runtime.pieces)):
        tried = []
        found = link_tuning.tuned(link, model, TEXTS, REFERENCES, lambda weights, score, tried=tried: tried.append(score))
        trials.append((found.weights, tried))
    assert trials[0] == trials[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tune", "src", "tgt"], "--tune SRC TGT and --model MODEL belong together"),
        (["--model", str(CHECKPOINT)], "--tune SRC TGT and --model MODEL belong together"),
        (["--threshold", "0"], "--threshold 0: give 1 or more"),
        (
            ["--tune", "two", "one", "--model", str(CHECKPOINT), "--vocab", str(VOCAB_SMALL)],
            "two has 2 lines and one 1: give pairs",
        ),
        (
            ["--tune", "none", "none", "--model", str(CHECKPOINT), "--vocab", str(VOCAB_SMALL)],
            "no source to tune on: all are empty",
        ),
        (["--vocab", "no-such"], "no-such: no such dictionary file"),
    ],
    ids=str,
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("two", "a\nb\n"), ("one", "a\n"), ("none", "\n"), ("targets", "a library\n"), ("empty", "")):
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as stop:
        command("targets", "--out", "link", *arguments)
    assert stop.value.code.startswith(f"bang link: error: {message}") and "\n" not in stop.value.code
    assert not (tmp_path / "link").exists()


def test_targets_without_a_text(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SystemExit, match="^bang link: error: no text to make a link of$"):
        command(tmp_path / "empty", "--out", tmp_path / "link")
    with pytest.raises(SystemExit, match="is the input"):
        command(tmp_path / "empty", "--out", tmp_path / "empty")


def test_pack_and_export_put_it_into_the_folder(tmp_path, link_file, monkeypatch):
    """Where it is the default of NAR and semi-NAR; an export of the folder takes it along, and the checkpoint back leaves it."""
    folder = tmp_path / "packed"
    main(["pack", str(CHECKPOINT), str(folder), "--vocab", str(VOCAB_SMALL), "--link", str(link_file)])
    assert (folder / "link.bin").read_bytes() == link_file.read_bytes()
    assert "link.bin" in json.loads((folder / "config.json").read_text())["files"]
    packed, expected = Bang.load(folder), Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, link=link_file)
    for mode in ("nar", "semi-nar", "ar"):
        texts = packed.generate(TEXTS, mode, max_len=12, beam=1)
        assert texts == expected.generate(TEXTS, mode, max_len=12, beam=1)
        assert (texts == packed.generate(TEXTS, mode, max_len=12, beam=1, link=False)) == (mode == "ar")

    monkeypatch.setattr(deploy_export, "write_graphs", lambda network, folder: None)  # which takes seconds
    from bang.inference.trained_model import read_model

    deploy_export.export(read_model(folder), tmp_path / "exported")
    assert (tmp_path / "exported" / "link.bin").read_bytes() == link_file.read_bytes()
    assert "link.bin" in json.loads((tmp_path / "exported" / "config.json").read_text())["files"]
    deploy_export.export(read_model(folder, link="none"), tmp_path / "bare")
    assert not (tmp_path / "bare" / "link.bin").exists()

    (folder / "link.bin").unlink()
    with pytest.raises(FileNotFoundError, match="lacks link.bin"):
        Bang.load(folder)


@pytest.mark.slow
def test_generate_command(link_file, capfdbinary, monkeypatch):
    import io
    import sys
    from types import SimpleNamespace

    def generate(*arguments):
        stdin = io.BytesIO("\n".join(TEXTS).encode() + b"\n")
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stdin, isatty=lambda: False))
        main(["generate", str(CHECKPOINT), "--vocab", str(VOCAB_SMALL), "--max-len", "12", *map(str, arguments)])
        return capfdbinary.readouterr().out.decode().splitlines()

    expected = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, link=link_file).generate(TEXTS, "nar", max_len=12)
    assert generate("--mode", "nar", "--link", link_file) == expected
    assert generate("--mode", "nar", "--link", "none") == generate("--mode", "nar") != expected
    with pytest.raises(SystemExit, match="^bang generate: error: mode speculative has no link"):
        generate("--mode", "speculative", "--link", link_file)


def test_all_weights_are_printed():
    from bang.cli.link import _format_weights

    assert all(name in _format_weights(Weights()) for name in asdict(Weights()))
