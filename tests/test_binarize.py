"""`bang binarize`: the command line of fairseq-preprocess that it runs, and what it refuses."""

import shlex

import pytest
from conftest import ROOT, VOCAB_SMALL
from fairseq import options

from bang.__main__ import main


@pytest.fixture
def tokenized(tmp_path):
    folder = tmp_path / "word pieces"
    folder.mkdir()
    for name in ("train.src", "train.tgt", "test.src", "test.tgt", "text.train", "text.valid"):
        (folder / name).write_text("a b\nc\n")
    return folder


def planned(capsys, *arguments):
    """What fairseq-preprocess reads of the line that is printed, and the splits that it makes."""
    main(["binarize", *map(str, arguments), "--dry-run"])
    program, *words = shlex.split(capsys.readouterr().out)
    assert program == "fairseq-preprocess"
    args = options.get_preprocessing_parser().parse_args(words)
    return args, {split: getattr(args, f"{split}pref") for split in ("train", "valid", "test") if getattr(args, f"{split}pref")}


def test_pairs(tokenized, tmp_path, capsys):
    args, splits = planned(capsys, tokenized, tmp_path / "out", "--vocab", VOCAB_SMALL, "--workers", 3)
    assert splits == {"train": str(tokenized / "train"), "test": str(tokenized / "test")}
    assert (args.task, args.source_lang, args.target_lang, args.only_source) == ("translation_bang", "src", "tgt", False)
    assert args.srcdict == args.tgtdict == str(VOCAB_SMALL) and args.user_dir == str(ROOT / "bang")
    assert args.destdir == str(tmp_path / "out") and args.workers == 3


def test_running_text(tokenized, tmp_path, capsys):
    args, splits = planned(capsys, tokenized, tmp_path / "out", "--text")
    assert splits == {split: str(tokenized / f"text.{split}") for split in ("train", "valid")}
    assert (args.task, args.only_source, args.tgtdict) == ("bang_pretraining", True, None)


def test_what_makes_no_data_is_refused(tokenized, tmp_path):
    def refused(*options):
        with pytest.raises(SystemExit) as stop:
            main(["binarize", str(tokenized), str(tmp_path / "out"), *options])
        return stop.value.code

    (tokenized / "test.tgt").write_text("a\n")
    said = f"{tokenized}/test.src has 2 lines, {tokenized}/test.tgt 1: give one target for each source"
    assert refused() == f"bang binarize: error: {said}"
    (tokenized / "train.src").unlink()
    assert refused() == f"bang binarize: error: {tokenized}/train.src is missing: give both sides of train"
    for path in tokenized.glob("text.*"):
        path.unlink()
    assert refused("--text").startswith(f"bang binarize: error: {tokenized} has no text.{{train,valid,test}}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["binarize", "raw", "out"], ["run-task", "raw", "--mode", "nar", "--out", "out"]])
def test_less_than_one_worker(arguments):
    with pytest.raises(SystemExit, match=f"^bang {arguments[0]}: error: --workers=-1: give a whole number, 1 or more"):
        main([*arguments, "--workers", "-1"])
