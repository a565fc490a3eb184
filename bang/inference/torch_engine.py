"""The engine of `Bang` on torch and fairseq: any mode, beam search, GPUs."""

import contextlib
import gc
import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.dataclass.configs import GenerationConfig

from .. import modes
from ..decoding.candidates import Slots
from ..decoding.choice import Bounds, Chooser, draw_keys
from ..decoding.passes import canvas
from ..errors import NO_NUMBERS, UserError
from ..generation.session import TorchSession
from ..network.model import BangModel
from ..options import Options, check_number
from ..plugin.data import PairDataset
from ..plugin.task import OF_MODES
from ..text.files import StrPath
from ..trained_modes import slots_ahead
from .engine import Hypothesis, hypothesis, padded, ranked
from .load import Loaded
from .trained_model import DTYPES, TrainedModel, read_checkpoint, read_folder


class TorchEngine:
    """Runs the network of a trained model; see `engine.Engine`.

    Args:
        device: "cpu", "cuda" …; None: a GPU if there is one.
        dtype: one of `trained_model.DTYPES`.
        threads: CPU threads of an operation, in the whole process; None: as they are. A forked process has one.
    """

    def __init__(self, model: TrainedModel, device: str | None = None, dtype: str = "float32", threads: int | None = None):
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r}: give one of {', '.join(DTYPES)}")
        if threads is not None:
            check_number("threads", threads, least=1)
            torch.set_num_threads(threads)
        self._device = _device(device)
        self._model, self._dictionary = model, model.dictionary
        self._network = model.build().to(self._device, DTYPES[dtype])
        self._network.lay_out()
        self.modes = tuple(self._network.decodes)
        self.shares, self.blocks, self.link = model.shares or None, model.blocks, model.link
        self.max_source_positions = model.sizes["max_source_positions"]
        self._process = os.getpid()
        self._begin()
        _ENGINES.add(self)

    def _begin(self) -> None:
        """Makes what belongs to one process."""
        self._lock = threading.Lock()  # a generator and the attention's beam size belong to one batch at a time
        # no method: the cache of one would keep this object, and its weights, alive
        self._generator = lru_cache(maxsize=8)(partial(_build_generator, self._model, self._network))

    def generate(
        self, sources: list[np.ndarray], options: Options, prefixes: Sequence[np.ndarray] | None = None
    ) -> list[Hypothesis]:
        self._check_process()
        draws = options.nbest if options.sampling else 1
        repeated = [ids for ids in sources for _ in range(draws)]
        given = None if prefixes is None else [ids for ids in prefixes for _ in range(draws)]
        with self._lock, torch.inference_mode():
            task, generator = self._generator(options, prefixes is not None)
            order, batch, prefix = self._batch(repeated, given, draw_keys(sources, draws))
            found = task.inference_step(generator, [self._network], batch, prefix_tokens=prefix)
        eos = self._dictionary.eos()
        texts = dict(zip(order, ([_hypothesis(text, eos) for text in of_row[: options.nbest]] for of_row in found)))
        if any(math.isnan(text.score) for of_row in texts.values() for text in of_row):
            raise UserError(f"the model {NO_NUMBERS}")
        return [
            ranked([text for row in range(first, first + draws) for text in texts[row]]) for first in range(0, len(texts), draws)
        ]

    def stream(self, source: np.ndarray, options: Options, prefix: np.ndarray | None = None) -> Iterator[Hypothesis]:
        """See `engine.Engine`; the lock is free between passes."""
        self._check_process()
        with self._lock, torch.inference_mode():
            generator = self._generator(options, True)[1]
            _, batch, given = self._batch([source], None if prefix is None else [prefix], draw_keys([source], 1))
            decoding = generator.decoding(batch, given)
        texts = decoding.stream()
        while True:
            with self._lock, torch.inference_mode():
                text = next(texts, None)
            if text is None:
                return
            yield _hypothesis(generator.hypothesis(text), self._dictionary.eos())

    def _check_process(self) -> None:
        if self._device.type == "cuda" and os.getpid() != self._process:
            raise UserError(
                f"the model is on {self._device}, which a forked process cannot use: load it in each process, or start them "
                "with multiprocessing's 'spawn'"
            )

    def _batch(
        self, sources: Sequence[np.ndarray], prefixes: Sequence[np.ndarray] | None, keys: np.ndarray
    ) -> tuple[list[int], dict[str, Any], torch.Tensor | None]:
        """The order of the sources in the batch, longest first, the batch on the device, and its prefixes.

        Args:
            keys: of draws, as in `choice.Bounds`.
        """
        tokens = [torch.from_numpy(ids) for ids in sources]
        dataset = PairDataset(tokens, [len(ids) for ids in tokens], self._dictionary, tgt_dict=self._dictionary)
        batch = dataset.collater([dataset[index] for index in range(len(tokens))])
        order = batch["id"].tolist()
        batch["id"] = torch.from_numpy(keys[order])
        given = None if prefixes is None else torch.from_numpy(padded(prefixes, self._dictionary.pad())[order])
        if self._device.type == "cuda":
            batch, given = utils.move_to_cuda((batch, given), self._device)
        return order, batch, given

    def canvas(self, sources: list[np.ndarray], slots: int, count: int) -> Slots:
        """See `engine.Engine`."""
        special = self._dictionary
        lengths = torch.tensor([len(ids) for ids in sources])
        chooser = Chooser(special.pad(), special.unk(), special.eos())
        slots = min(slots, self._network.max_decoder_positions())
        with self._lock, torch.inference_mode():
            src_tokens = torch.from_numpy(padded(sources, special.pad())).to(self._device)
            bounds = Bounds(*[np.zeros(len(sources), dtype=np.int64)] * 3)  # no rule is asked for
            session = TorchSession([self._network], src_tokens, lengths.to(self._device), chooser, bounds)
            return session.likeliest(canvas(len(sources), slots), count)


_ENGINES: weakref.WeakSet[TorchEngine] = weakref.WeakSet()
_FORKING = threading.Lock()
_PATIENCE = 30.0  # seconds that a fork waits for a batch
_held: list[threading.Lock] = []  # by the thread that forks


def _before_fork() -> None:
    """Waits for the batches that other threads decode: a lock that a library holds then is held for ever in the child."""
    _FORKING.acquire()
    _held[:] = [engine._lock for engine in list(_ENGINES) if engine._lock.acquire(timeout=_PATIENCE)]


def _after_fork_in_parent() -> None:
    for lock in _held:
        lock.release()
    _held.clear()
    _FORKING.release()


def _after_fork() -> None:
    """Makes engines usable in a forked process, which has none of its parent's threads: more than one would be waited for."""
    if _ENGINES:
        torch.set_num_threads(1)
    for engine in _ENGINES:
        engine._begin()
    _held.clear()
    _FORKING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)


def _build_generator(model: TrainedModel, network: BangModel, options: Options, in_loop: bool = False):
    """The task, in the mode, and its generator.

    Args:
        in_loop: AR runs in the decoding loop too, where it is greedy. Draws always do: those of fairseq's generator depend on
            the batch.
    """
    mode = modes.find(options.mode)
    of_task = {name: getattr(options, name) for name in OF_MODES if name in mode.options}
    task = model.task(decoding=mode.name, **of_task)
    generation = GenerationConfig(
        beam=options.beam if mode.beam_search else 1,
        no_repeat_ngram_size=mode.value(options, "no_repeat_ngram_size"),
        max_len_a=options.max_len_a, max_len_b=options.max_len, min_len=options.min_len, lenpen=options.len_penalty,
        sampling=options.sampling, sampling_topk=options.sampling_topk or -1, sampling_topp=options.sampling_topp or -1.0,
        temperature=options.temperature,
    )  # fmt: skip
    generation.seed = options.seed  # fairseq's own is one of the whole run
    task.link = None if options.link is False else model.link
    if mode.beam_search and (options.sampling or in_loop and options.beam == 1):
        generator = task.loop_generator([network], mode, options, generation)
    else:
        generator = task.build_generator([network], generation)
    generator.statistics = None  # a command's report at its end
    if mode.may_link(options):  # the network, built without its run, does not know its blocks
        generator.ahead = slots_ahead([model.blocks], 1 + mode.strategy(options).drafts)
    return task, generator


def _hypothesis(found: dict[str, Any], eos: int) -> Hypothesis:
    tokens = found["tokens"].tolist()
    passes = found.get("passes")
    passes = np.arange(1, 1 + len(tokens)) if passes is None else passes  # of a beam search: one pass a token
    return hypothesis(tokens, float(found["score"]), found["positional_scores"], passes, eos, found.get("path_score"))


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r}: not to be had here ({str(error).splitlines()[0]})") from None
    return device


def load(
    folder: StrPath, config: dict[str, Any], link: StrPath | None = None, casing: StrPath | None = None, **options
) -> Loaded:
    """See `load.load_model`."""
    with _freed():
        return _ready(read_folder(folder, link, casing), options)


def load_checkpoint(
    path: StrPath, vocab: StrPath | None, link: StrPath | None = None, casing: StrPath | None = None, **options
) -> Loaded:
    """See `load.load_model`."""
    with _freed():
        return _ready(read_checkpoint(path, vocab, link, casing), options)


def _ready(model: TrainedModel, options: dict[str, Any]) -> Loaded:
    engine = TorchEngine(model, **options)
    return Loaded(engine, model.dictionary.symbols, model.generation, model.dictionary.normalization, model.casing)


@contextlib.contextmanager
def _freed() -> Iterator[None]:
    """Frees what loading leaves in cycles: exceptions inside omegaconf and hydra keep its frames, and with them the weights.

    Without automatic collections all of it stays in the youngest generation. A full collection takes seconds in a large
    program.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if enabled:
            gc.enable()
