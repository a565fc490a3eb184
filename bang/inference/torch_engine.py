"""The engine of `Bang` on torch and fairseq: any mode, beam search, GPUs."""

import gc
import os
import threading
import weakref
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.dataclass.configs import GenerationConfig

from .. import modes
from ..decoding.choice import Bounds, Chooser
from ..decoding.passes import canvas
from ..decoding.search import Slots
from ..errors import UserError
from ..generation.session import TorchSession
from ..network.model import BangModel
from ..options import Options, check_number
from ..plugin.data import PairDataset
from ..plugin.task import OF_MODES
from ..text.files import StrPath
from .api import Hypothesis
from .trained_model import DTYPES, TrainedModel, read_checkpoint, read_folder


class TorchEngine:
    """Runs the network of a trained model; see `api.Engine`.

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

    def generate(self, sources: list[np.ndarray], options: Options) -> list[Hypothesis]:
        if self._device.type == "cuda" and os.getpid() != self._process:
            raise UserError(
                f"the model is on {self._device}, which a forked process cannot use: load it in each process, or start them "
                "with multiprocessing's 'spawn'"
            )
        tokens = [torch.from_numpy(ids) for ids in sources]
        with self._lock, torch.inference_mode():
            task, generator = self._generator(options)
            dataset = PairDataset(tokens, [len(ids) for ids in tokens], self._dictionary, tgt_dict=self._dictionary)
            batch = dataset.collater([dataset[index] for index in range(len(tokens))])  # longest first
            order = batch["id"].tolist()
            batch = utils.move_to_cuda(batch, self._device) if self._device.type == "cuda" else batch
            found = task.inference_step(generator, [self._network], batch)
            best = {index: hypotheses[0] for index, hypotheses in zip(order, found)}
            eos = self._dictionary.eos()
            return [_hypothesis(best[index], eos) for index in range(len(tokens))]

    def canvas(self, sources: list[np.ndarray], slots: int, count: int) -> Slots:
        """See `api.Engine`."""
        special = self._dictionary
        tokens = np.full((len(sources), max(map(len, sources))), special.pad())
        for row, ids in enumerate(sources):
            tokens[row, : len(ids)] = ids
        lengths = torch.tensor([len(ids) for ids in sources])
        chooser = Chooser(special.pad(), special.unk(), special.eos())
        slots = min(slots, self._network.max_decoder_positions())
        with self._lock, torch.inference_mode():
            src_tokens = torch.from_numpy(tokens).to(self._device)
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


def _build_generator(model: TrainedModel, network: BangModel, options: Options):
    """The task, in the mode, and its generator."""
    mode = modes.find(options.mode)
    of_task = {name: getattr(options, name) for name in OF_MODES if name in mode.options}
    task = model.task(decoding=mode.name, **of_task)
    generation = GenerationConfig(
        beam=options.beam if mode.beam_search else 1,
        no_repeat_ngram_size=options.no_repeat_ngram_size if "no_repeat_ngram_size" in mode.options else 0,
        max_len_a=options.max_len_a, max_len_b=options.max_len, min_len=options.min_len, lenpen=options.len_penalty,
    )  # fmt: skip
    task.link = None if options.link is False else model.link
    generator = task.build_generator([network], generation)
    generator.statistics = None  # a command's report at its end
    return task, generator


def _hypothesis(found: dict[str, Any], eos: int) -> Hypothesis:
    tokens, scores = found["tokens"].tolist(), found["positional_scores"].tolist()
    passes = found.get("passes")
    passes = list(range(len(tokens))) if passes is None else passes.tolist()  # AR: one pass a token
    if tokens and tokens[-1] == eos:
        tokens = tokens[:-1]
    return Hypothesis(tokens, float(found["score"]), scores, passes)


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
    folder: StrPath, config: dict[str, Any], link: StrPath | None = None, **options
) -> tuple[TorchEngine, list[str], dict[str, Any]]:
    """See `load.load_model`."""
    return _ready(read_folder(folder, link), options)


def load_checkpoint(
    path: StrPath, vocab: StrPath | None, link: StrPath | None = None, **options
) -> tuple[TorchEngine, list[str], dict[str, Any]]:
    """See `load.load_model`."""
    return _ready(read_checkpoint(path, vocab, link), options)


def _ready(model: TrainedModel, options: dict[str, Any]) -> tuple[TorchEngine, list[str], dict[str, Any]]:
    engine = TorchEngine(model, **options)
    gc.collect()  # exceptions inside omegaconf and hydra keep the frames of the loading in cycles, and with them the weights
    return engine, model.dictionary.symbols, model.generation
