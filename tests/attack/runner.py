"""Opens hostile and damaged inputs, and says what held: one clear line, in bounded time and memory, or the right texts.

python -m attack.runner --json report.json          # all of them, with tests/ in PYTHONPATH; some minutes
bash scripts/attack.sh                              # the same, and a table of what held
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data.dictionary import Dictionary  # noqa: F401  (its imports come before anything is measured)
from safetensors.torch import save_file
from support import memory

from bang import Bang
from bang.decoding.counting import make_link
from bang.decoding.link import Link
from bang.deploy import convert
from bang.errors import UserError, user_error_message
from bang.plugin.dictionary import BertDictionary
from bang.plugin.task import BangTranslationConfig, BangTranslationTask
from bang.safety import files
from bang.starts.files import read as read_start
from bang.text.vocabulary import read_vocabulary

from . import corpus

SECONDS = 5.0
"""Most of a CPU that an input may take; the median takes some milliseconds."""
_ENDLESS = 120  # seconds until a case that waits is given up
MEGABYTES = 200
"""Most memory beyond an input's own size, and that of the model that it is."""
TEXTS = ["a library for reading and writing archives", "the small tool draws a graph of its log files"]
_GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        held: as promised. said: the one line, or what went wrong.
    """

    case: corpus.Case
    held: bool
    said: str
    seconds: float
    megabytes: float


def make_material(folder: Path, export: Path, data: Path) -> corpus.Material:
    """Whole inputs, from the golden checkpoint.

    Args:
        folder: where to write them. export: of the golden checkpoint. data: of its pairs.
    """
    from bang.__main__ import main

    vocab, old = _GOLDEN / "data" / "vocab_small.txt", _GOLDEN / "mixed" / "checkpoint.pt"
    main(["pack", str(old), str(folder / "model"), "--vocab", str(vocab)])
    main(["unpack", str(folder / "model"), str(folder / "checkpoint.pt")])
    pieces = list(read_vocabulary(vocab))
    make_link([[200, 201, 202], [200, 203]], pieces, pieces.index("[SEP]")).save(
        folder / "a link.bin"
    )  # not link.bin, which the checkpoint beside it would take
    state = files.read(str(folder / "checkpoint.pt"))
    write_bert(folder / "start", pieces)
    return corpus.Material(
        folder / "checkpoint.pt", old, state, folder / "model", export, folder / "start", data, vocab, folder / "a link.bin"
    )


def write_bert(folder: Path, pieces: list[str], width: int = 16, inner: int = 32) -> None:
    """A random BERT of one layer in the Hugging Face layout."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, width)
              for name, rows in (("word", len(pieces)), ("position", 64), ("token_type", 2))}  # fmt: skip
    shapes |= {f"embeddings.LayerNorm.{kind}": (width,) for kind in ("weight", "bias")}
    sizes = {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
    for module in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                   "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"):  # fmt: skip
        size = sizes.get(module, (width, width))
        shapes[f"encoder.layer.0.{module}.weight"] = size[:1] if "LayerNorm" in module else size
        shapes[f"encoder.layer.0.{module}.bias"] = size[:1]
    save_file({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 2, "hidden_act": "gelu"}))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


class Runner:
    """Opens inputs as the commands do.

    Args:
        material: the texts of its whole inputs are the right ones.
    """

    def __init__(self, material: corpus.Material):
        self.material = material
        self.right = self._texts(material.folder)
        assert self._texts(material.export) == self.right == self._texts(material.checkpoint)

    def _texts(self, path: Path) -> list:
        vocab = None if path.is_dir() else self.material.vocab
        model = Bang.load(path, vocab=vocab, threads=1)
        return [model.generate(TEXTS, mode, beam=1, max_len=12) for mode in ("ar", "nar") if mode in model.modes]

    def _open(self, case: corpus.Case, path: Path) -> bool:
        """Opens an input; whether what it gives is right. A start, data or a vocabulary that is whole after all is."""
        if case.way in ("checkpoint", "folder"):
            return self._texts(path) == self.right
        if case.way == "start":
            convert.to_model(read_start(str(path)), BertDictionary.load(self.material.vocab)).build()
        elif case.way == "data":
            self._read_data(path)
        elif case.way == "vocabulary":
            read_vocabulary(path)
        else:
            Link.load(path)
        return True

    def _read_data(self, folder: Path) -> None:
        cfg = BangTranslationConfig(data=str(folder), source_lang="src", target_lang="tgt")
        for name in ("checkpoint_paths", "restore_file", "save_dir", "log_format", "dataset_impl", "train_subset"):
            setattr(cfg, name, None)
        cfg.skip_invalid_size_inputs_valid_test, cfg.required_seq_len_multiple = False, 1
        cfg.max_source_positions = cfg.max_target_positions = 512
        task = BangTranslationTask.setup_task(cfg)
        task.load_dataset("test")
        dataset = task.dataset("test")
        for batch in dataset.batch_by_size(dataset.ordered_indices(), None, 8):
            dataset.collater([dataset[index] for index in batch])

    def try_one(self, case: corpus.Case) -> Outcome:
        """Makes an input, opens it, and judges what comes of it."""
        folder = Path(tempfile.mkdtemp(prefix="bang-attack-"))
        try:
            path = case.make(folder)
            size = sum(file.lstat().st_size for file in [path, *(path.rglob("*") if path.is_dir() else ())]) / 1e6
            memory.forget()
            before, start = memory.most(), time.process_time()
            held, said = self._judge(case, path)
            seconds, megabytes = time.process_time() - start, 1.048576 * (memory.most() - before)
            if seconds > SECONDS or megabytes > MEGABYTES + size:
                held, said = False, f"{seconds:.1f} s, {megabytes:.0f} MB: {said}"
            return Outcome(case, held, said, seconds, megabytes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _judge(self, case: corpus.Case, path: Path) -> tuple[bool, str]:
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(_ENDLESS)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                right = self._open(case, path)
            return right, "the right texts" if right else "other texts, without a word"
        except (OSError, UserError) as error:
            line = user_error_message(error) or ""
            named = any(name in line for name in (str(path), path.name))
            if "bang" + "_traceback" in line.lower():  # foreseen by nobody: one line, but not a good one
                return named, f"(unforeseen) {line}"
            return named and "\n" not in line, line
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return False, "".join(traceback.format_exception_only(error)) + "".join(traceback.format_tb(error.__traceback__)[-2:])
        finally:
            signal.alarm(0)

    def try_all(self, cases: Iterable[corpus.Case]) -> Iterator[Outcome]:
        logging.disable(logging.WARNING)
        try:
            yield from map(self.try_one, cases)
        finally:
            logging.disable(logging.NOTSET)


def _too_long(*_) -> None:
    raise TimeoutError("it does not come to an end")


def table(outcomes: Iterable[Outcome]) -> str:
    """What held, by kind of input."""
    by_kind = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.case.kind].append(outcome)
    rows = ["| inputs | tried | held | median, longest (CPU s) | memory (MB) |", "| --- | --- | --- | --- | --- |"]
    for kind, found in [*by_kind.items(), ("all", sum(by_kind.values(), []))]:
        seconds, held = [outcome.seconds for outcome in found], sum(outcome.held for outcome in found)
        most = max(outcome.megabytes for outcome in found)
        rows.append(f"| {kind} | {len(found)} | {held} | {np.median(seconds):.2f}, {max(seconds):.1f} | {most:.0f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="bang export of tests/golden/mixed/checkpoint.pt")
    parser.add_argument("data", type=Path, help="fairseq-preprocess of tests/golden/data, with a split test")
    parser.add_argument("--json", type=Path, help="write every outcome there")
    parser.add_argument("--only", default="", help="cases whose kind or name holds this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bang-attack-") as folder:
        material = make_material(Path(folder), args.export, args.data)
        runner = Runner(material)
        chosen = [case for case in corpus.cases(material) if args.only in f"{case.kind} {case.name}"]
        if not chosen:
            sys.exit(f"--only {args.only}: no case of that name")
        outcomes = []
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: the table is of what was tried
            for outcome in runner.try_all(chosen):
                outcomes.append(outcome)
                if not outcome.held:
                    print(f"LOST {outcome.case.kind}: {outcome.case.name}: {outcome.said}", file=sys.stderr, flush=True)
    if args.json is not None:
        said = [{"kind": o.case.kind, "name": o.case.name, **o._asdict()} for o in outcomes]
        args.json.write_text(json.dumps([{k: v for k, v in row.items() if k != "case"} for row in said], indent=1) + "\n")
    print(table(outcomes))
    sys.exit(not all(outcome.held for outcome in outcomes))


if __name__ == "__main__":
    main()
