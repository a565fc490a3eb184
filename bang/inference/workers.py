"""Several processes that generate side by side, each with the model: answers come in order, memory stays flat.

A killed process (out of memory, for instance) is reported and replaced, and its texts are generated again.
"""

import itertools
import logging
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import UserError
from .api import Bang, Generation

logger = logging.getLogger(__name__)

CHUNK = 512
"""Most texts that a worker takes at once: enough to batch texts of like lengths."""

_LEAST_CHUNK = 16  # the first ones are small, so that answers come soon and short inputs are shared
_AHEAD = 4  # chunks of each worker that are read ahead of the answer that is next
_TRIES = 3  # workers that may die of a chunk


@dataclass
class _Chunk:
    """Texts in a row, and their answers once they are there."""

    first: int
    texts: list[str]
    answers: list[Generation] | None = None
    deaths: int = 0


class _Worker:
    """A process and what it is at.

    Attributes:
        chunk: None: it loads the model, or waits.
        is_ready: it waits for a chunk.
    """

    def __init__(self, number: int, arguments: tuple):
        context = multiprocessing.get_context("spawn")  # torch and onnxruntime have threads, which no fork survives
        self.number, self.chunk, self.is_ready = number, None, False  # type: int, _Chunk | None, bool
        self.pipe, of_child = context.Pipe()
        self.process = context.Process(target=_work, args=(of_child, *arguments), daemon=True)
        with _interrupts_held():
            self.process.start()
        of_child.close()  # its end is the only one: the pipe ends with the process

    def take(self, chunk: _Chunk) -> None:
        self.chunk, self.is_ready = chunk, False
        with suppress(BrokenPipeError):  # it is dead: the next read finds out
            self.pipe.send((chunk.first, chunk.texts))

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def generate(
    texts: Iterable[str], load: dict[str, Any], options: dict[str, Any], workers: int, first: int = 1, details: bool = False
) -> Iterator[Generation]:
    """Generates in several processes.

    Args:
        texts: read as far ahead as the workers need.
        load: what `Bang.load` takes; its `threads` are of each process.
        options: what `Bang.generate` takes.
        workers: how many processes.
        first: the number of the first text, for messages.
        details: word pieces and their scores too.

    Yields:
        For each text, in order. One that cannot be served has an `error`.

    Raises:
        UserError: the model or an option does not serve.
        ChildProcessError: workers die again and again.
    """
    pool = _Pool(workers, (load, options, details))
    try:
        yield from pool.answers(_chunks(texts, first))
    finally:
        pool.end()


def _chunks(texts: Iterable[str], first: int) -> Iterator[_Chunk]:
    texts, size, failure = iter(texts), _LEAST_CHUNK, None
    while failure is None:
        chunk = _Chunk(first, [])
        try:
            chunk.texts.extend(itertools.islice(texts, size))
        except Exception as error:  # what came before it is answered first
            failure = error
        if not chunk.texts:
            break
        yield chunk
        first, size = first + len(chunk.texts), min(2 * size, CHUNK)
    if failure is not None:
        raise failure


class _Pool:
    def __init__(self, workers: int, arguments: tuple):
        self._arguments = arguments
        self._said: set[str] = set()
        self._deaths = 0  # in a row, without an answer
        self._workers = [_Worker(number, arguments) for number in range(1, workers + 1)]

    def answers(self, chunks: Iterator[_Chunk]) -> Iterator[Generation]:
        open_chunks: deque[_Chunk] = deque()  # in order, from the one whose answers are next
        to_do: deque[_Chunk] = deque()
        failure, is_read = None, False  # type: Exception | None, bool
        while True:
            while len(open_chunks) < _AHEAD * len(self._workers) and not is_read:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    is_read = True
                except Exception as error:
                    failure, is_read = error, True
                else:
                    open_chunks.append(chunk)
                    to_do.append(chunk)
            for worker in self._workers:
                if worker.is_ready and to_do:
                    worker.take(to_do.popleft())
            if not open_chunks:
                break
            if open_chunks[0].answers is not None:
                yield from open_chunks.popleft().answers or []
                continue
            heard = wait([worker.pipe for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.pipe in heard]:
                lost = self._hear(worker)
                if lost is not None:
                    to_do.appendleft(lost)
        if failure is not None:
            raise failure

    def _hear(self, worker: _Worker) -> _Chunk | None:
        """Takes what a worker sends. Returns the chunk to be done again, if it is dead."""
        try:
            answer, messages = worker.pipe.recv()
        except (EOFError, OSError):  # maybe in the middle of an answer
            return self._replace(worker)
        if isinstance(answer, BaseException):
            raise answer
        for message in messages:
            if message not in self._said:
                self._said.add(message)
                logger.warning("%s", message)
        if worker.chunk is not None:
            worker.chunk.answers, worker.chunk, self._deaths = answer, None, 0
        worker.is_ready = True
        return None

    def _replace(self, worker: _Worker) -> _Chunk | None:
        chunk = worker.chunk
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed ({signal.Signals(-code).name}; for lack of memory, maybe)" if code < 0 else f"ended with status {code}"
        lost = (
            "it had no texts"
            if chunk is None
            else f"texts {chunk.first} to {chunk.first + len(chunk.texts) - 1} are generated again"
        )
        self._deaths += 1
        deaths = self._deaths
        if chunk is not None:
            chunk.deaths += 1
        if deaths >= _TRIES * len(self._workers) or chunk is not None and chunk.deaths >= _TRIES:
            raise ChildProcessError(
                f"worker {worker.number} {how}, and so did those before it: try fewer --workers, or a smaller --batch-tokens"
            )
        logger.warning("worker %d, process %d, %s: %s by a new one", worker.number, worker.process.pid, how, lost)
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = _Worker(worker.number, self._arguments)
        return chunk

    def end(self) -> None:
        for worker in self._workers:
            worker.end()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started within never gets Ctrl-C: that is for the one that started it, which ends it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Messages(logging.Handler):
    """Keeps what is said in a worker: it is said once, by the process that started it."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())

    def take(self) -> list[str]:
        kept, self.kept = self.kept, []
        return kept


def _work(pipe: Connection, load: dict[str, Any], options: dict[str, Any], details: bool) -> None:
    """A worker: loads the model, and generates for each chunk that comes, until the pipe ends."""
    messages = _Messages()
    logging.getLogger("bang").addHandler(messages)
    logging.getLogger("bang").propagate = False
    try:
        model = Bang.load(**load)
        pipe.send((None, messages.take()))
        while True:
            first, texts = pipe.recv()
            answers = model.generate(texts, details=True, on_error="blank", first=first, **options)
            if not details:
                answers = [replace(answer, pieces=[], piece_scores=(), passes=()) for answer in answers]
            pipe.send((answers, messages.take()))
    except (EOFError, BrokenPipeError):  # the parent has ended
        return
    except (UserError, OSError) as error:
        pipe.send((error, []))
    except Exception:  # our own bug: the parent raises it with this traceback
        pipe.send((RuntimeError(f"a worker failed:\n{traceback.format_exc()}"), []))
