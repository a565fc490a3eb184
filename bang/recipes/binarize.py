"""Word pieces to fairseq's binary data: the one place that spells out fairseq-preprocess's command line."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from ..text.files import StrPath, read_lines
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
