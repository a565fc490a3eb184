"""Word pieces to fairseq's binary data: the one place that spells out fairseq-preprocess's command line."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..processes import exit_status, started
from ..text.files import StrPath, read_lines, unfinished
from ..text.vocabulary import VOCAB

PACKAGE = Path(__file__).resolve().parents[1]
SPLITS = ("train", "valid", "test")
SIDES = ("src", "tgt")


def binarize_words(
    prefixes: Mapping[str, StrPath], out: StrPath, vocab: StrPath = VOCAB, running_text: bool = False
) -> list[StrPath]:
    """fairseq-preprocess's command line.

    Args:
        prefixes: by split; of pairs without .src and .tgt, of running text the file itself.
        out: folder for the data.
        vocab: of sources and targets alike.
        running_text: for pretraining, else pairs.
    """
    words: list[StrPath] = ["fairseq-preprocess", "--user-dir", PACKAGE]
    if running_text:
        words += ["--task", "bang_pretraining", "--only-source"]
    else:
        words += ["--task", "translation_bang", "--source-lang", "src", "--target-lang", "tgt", "--tgtdict", vocab]
    words += ["--destdir", out, "--srcdict", vocab]
    for split, prefix in prefixes.items():
        words += [f"--{split}pref", prefix]
    return words


def find_prefixes(folder: StrPath, running_text: bool = False) -> dict[str, Path]:
    """The splits that a folder of word pieces has, for `binarize_words`: {split}.{src,tgt}, or text.{split}.

    Raises:
        ValueError: there is none, a side is missing, or the sides differ in their number of lines; one line.
    """
    prefixes = {}
    for split in SPLITS:
        prefix = Path(folder, f"text.{split}" if running_text else split)
        files = [prefix] if running_text else [prefix.with_name(f"{split}.{side}") for side in SIDES]
        missing = [path for path in files if not path.is_file()]
        if len(missing) == len(files):
            continue
        if missing:
            raise UserError(f"{missing[0]} is missing: give both sides of {split}")
        lines = [sum(1 for _ in read_lines(path)) for path in files]
        if len(set(lines)) > 1:
            raise UserError(f"{files[0]} has {lines[0]} lines, {files[1]} {lines[1]}: give one target for each source")
        prefixes[split] = prefix
    if not prefixes:
        names = "text.{train,valid,test}" if running_text else "{train,valid,test}.{src,tgt}"
        raise UserError(f"{folder} has no {names}: give a folder of word pieces, as bang tokenize writes them")
    return prefixes


def binarize(words: Callable[[Path], Sequence[str]], out: StrPath) -> None:
    """Runs fairseq-preprocess; its files come to `out` once all are written.

    Of a killed run parts would stay (`train1…`), which are read as data, and new texts beside an old index.

    Args:
        words: fairseq-preprocess's command line for the folder that it writes to.
        out: made where it is missing.

    Raises:
        SystemExit: it failed, and has said why.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with unfinished(out / "data", Path.mkdir) as folder:
        # As a module: an interpreter whose programs are not on the PATH has it too.
        with started([sys.executable, "-m", "fairseq_cli.preprocess", *words(folder)[1:]]) as process:
            process.wait()
        if process.returncode:
            sys.exit(exit_status(process))
        made = sorted(folder.iterdir(), key=lambda path: path.suffix == ".idx")
        for path in made:  # data without an index is refused: never a new one beside an old one
            if path.suffix == ".idx":
                (out / path.name).unlink(missing_ok=True)
        for path in made:
            os.replace(path, out / path.name)
