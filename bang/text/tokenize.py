"""Raw text to BERT word pieces joined by blanks, the text that fairseq-preprocess expects.

The pieces are those of transformers' `BertTokenizer`, line for line: this drives the same Rust library,
from several processes and with a memory for words. Each line in, which ends at a line feed and nowhere
else, gives one line out, in order, in memory that does not grow with the file.
"""

import itertools
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from ..errors import UserError
from ..processes import end_with_parent
from .files import StrPath, decode_line, refuse_overwriting, replacing, standard_input, standard_output, whole_line
from .vocabulary import VOCAB
from .wordpieces import load_word_pieces

STANDARD_STREAM = "-"  # as an input: stdin, as an output: stdout
CHUNK_BYTES = 1 << 18  # large beside the cost of a hand-over; bounds the lines too, each has a byte at least
CHUNKS_PER_WORKER = 2  # in flight: one at work, one waiting
SIGNALS = {signal.SIGINT, signal.SIGTERM}  # what ends the command

Item = TypeVar("Item")
Result = TypeVar("Result")


class Chunk(NamedTuple):
    """Some lines of an input file."""

    file: int  # which of the inputs
    name: str
    first_line: int  # number of the first line, from 1
    data: bytes  # whole lines; empty at the end of the file, and only there


def _read_chunks(inputs: Sequence[StrPath]) -> Iterator[Chunk]:
    for index, path in enumerate(inputs):
        with nullcontext(standard_input()) if path == STANDARD_STREAM else open(path, "rb") as file:
            line, data = 1, None
            while data != b"":  # even an empty stdin gives a chunk, so that it has its output
                data = file.read(CHUNK_BYTES)
                if data and not data.endswith(b"\n"):
                    data += whole_line(file, path, line + data.count(b"\n"))
                yield Chunk(index, str(path), line, data)
                line += data.count(b"\n")


def _tokenize_chunk(vocab: str, chunk: Chunk) -> bytes:
    word_pieces = load_word_pieces(vocab)  # once in each process
    lines = chunk.data.split(b"\n")
    if lines[-1] == b"":  # what stands after the last line feed
        lines.pop()
    numbered = enumerate(lines, start=chunk.first_line)
    return "".join(f"{word_pieces(decode_line(line, chunk.name, number))}\n" for number, line in numbered).encode()


def _follow_the_parent(parent: int) -> None:
    """A worker ends with its parent, and leaves signals to it.

    Ctrl-C and a scheduler's SIGTERM reach the whole process group; a worker that died of one could leave the parent
    waiting for ever.
    """
    end_with_parent(parent)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def _held_back() -> Iterator[None]:
    """Workers begin with these signals held back, until they ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Result], None, None]:
    """Yields (item, function(item)) in order, reading only a few items ahead of the consumer."""
    if workers == 1:
        for item in items:
            yield item, function(item)
        return
    # A forked worker has torch and the vocabulary loaded already.
    context = get_context("fork" if "fork" in get_all_start_methods() else None)
    pool = ProcessPoolExecutor(workers, context, initializer=_follow_the_parent, initargs=(os.getpid(),))
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            with _held_back():  # the first one starts the workers
                pending.append((item, pool.submit(function, item)))
            if len(pending) == CHUNKS_PER_WORKER * workers:
                item, future = pending.popleft()
                yield item, future.result()
        for item, future in pending:
            yield item, future.result()
    except BrokenProcessPool:
        raise ChildProcessError("a worker died, for lack of memory maybe: try fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def tokenize_files(
    inputs: Sequence[StrPath],
    outputs: Sequence[StrPath],
    vocab: StrPath = VOCAB,
    workers: int = 1,
    progress: bool = False,
) -> None:
    """Tokenizes raw text files, in parallel over files and over the lines of each.

    Args:
        inputs: UTF-8 text files; "-" is stdin.
        outputs: where the pieces of each go, one line for each line; "-" is stdout. A file appears
            once it is whole.
        vocab: the vocabulary, one `piece count` a line.
        workers: how many processes tokenize; 1 starts none.
        progress: whether to show a progress bar, in bytes, if stderr is a terminal.

    Raises:
        FileNotFoundError: an input or the vocabulary does not exist.
        ValueError: a line is not UTF-8, a file is empty, an output would replace an input or another output, or
            the vocabulary is none.
        ChildProcessError: a worker died.
    """
    _check_files(inputs, outputs)
    vocab = os.fspath(vocab)
    load_word_pieces(vocab)  # before the workers start: they inherit it, and a mistake in it is met here
    sizes = [os.path.getsize(path) for path in inputs if path != STANDARD_STREAM]
    total = sum(sizes) if len(sizes) == len(inputs) else None
    chunks = _read_chunks(inputs)
    with (
        closing(_map_in_order(partial(_tokenize_chunk, vocab), chunks, workers)) as results,
        tqdm(total=total, unit="B", unit_scale=True, disable=None if progress else True) as bar,
    ):
        for index, of_file in itertools.groupby(results, key=lambda result: result[0].file):
            path = outputs[index]
            with nullcontext(standard_output()) if path == STANDARD_STREAM else replacing(path) as output:
                for chunk, pieces in of_file:
                    output.write(pieces)
                    bar.update(len(chunk.data))


def _check_files(inputs: Sequence[StrPath], outputs: Sequence[StrPath]) -> None:
    writers: dict[str, StrPath] = {}
    for path, output in zip(inputs, outputs, strict=True):
        if path != STANDARD_STREAM and not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such file to tokenize")
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder: name the files to tokenize")
        if os.path.isfile(path) and not os.path.getsize(path):
            raise UserError(f"{path}: empty: give a file with one text a line")
        refuse_overwriting(output, inputs)
        first = writers.setdefault(os.path.realpath(output), path)
        if first is not path:
            raise UserError(f"{first} and {path} would both be written to {output}: tokenize them in two runs")
