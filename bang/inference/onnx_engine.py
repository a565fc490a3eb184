"""The engine of `Bang` on onnxruntime: every mode, without torch and fairseq."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession, SessionOptions

from .. import visibility
from ..decoding import loop
from ..decoding.candidates import Slots
from ..decoding.choice import Bounds, draw_keys
from ..decoding.limits import least_length, length_limits
from ..decoding.link import Link, find_link
from ..decoding.linked import Linked
from ..decoding.passes import canvas
from ..decoding.rescore import best_for_ar
from ..errors import NO_NUMBERS, UserError, damaged
from ..modes import MODES
from ..options import Options, check_number
from ..safety.folder import VOCABULARY, check_vocabulary, read_pieces
from ..text.casing import find_casing
from ..text.files import StrPath
from ..text.vocabulary import read_normalization
from ..trained_modes import Blocks, slots_ahead
from . import cpu
from .engine import Hypothesis, hypothesis, padded, ranked
from .load import Loaded
from .onnx_beam import Found, search
from .onnx_session import Graphs, OfLogProbs, OnnxSession

logger = logging.getLogger(__name__)

_AT_ONCE = 256
"""Source tokens that go through the encoder together on a CPU: enough to share its weights, few enough for the cache."""

_LOG_PROBS = 1 << 28
"""Log-probabilities of a pass, slots of all rows, that are held at once, 1 GiB; more rows take turns."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine:
    """Runs an exported model; see `engine.Engine`. Threads may share it: it keeps nothing between calls.

    Args:
        folder: of `bang export`.
        config: its config.json.
        device: "cpu", "cuda", "cuda:1" …; None: the CPU.
        threads: CPU threads of an operation; None: as many as the process may use.
        link: of NAR and semi-NAR; None: none.
    """

    def __init__(
        self,
        folder: StrPath,
        config: dict[str, Any],
        device: str | None = None,
        threads: int | None = None,
        link: Link | None = None,
    ):
        if threads is not None:
            check_number("threads", threads, least=1)
        self.modes, self.shares, self.link = tuple(config["modes"]), config["shares"] or None, link
        self.blocks = Blocks(*config["blocks"]) if config.get("blocks") else None  # exports of once do not say
        self.max_source_positions = config["max_source_positions"]
        self._max_len = config["max_target_positions"] - 1  # the eos behind it has a position too
        kind, number = _device(device)
        on_cpu = kind == "cpu"
        if on_cpu and config.get("reduce_range") is False and cpu.has_vnni() is False:
            logger.warning(
                "%s: made for CPUs with VNNI, which this one lacks: sums of its 8-bit numbers may saturate and change texts; "
                "export it on this machine, or with --int8 --reduce-range", folder,
            )  # fmt: skip
        encoder, decoder = (_session(Path(folder, f"{name}.onnx"), kind, number, threads) for name in ("encoder", "decoder"))
        _check_graphs(folder, encoder, decoder)
        self.pieces = decoder.get_outputs()[0].shape[-1]  # of the log-probabilities: entries of the vocabulary
        self._graphs = Graphs(
            str(folder),
            encoder,
            decoder,
            self.pieces,
            visibility.bucket_table(config["num_buckets"], config["relative_max_distance"]),
            config["max_target_positions"] + 2,
            tuple(config["specials"]),
            _AT_ONCE if on_cpu else sys.maxsize,
            whole=on_cpu,
        )

    def generate(
        self, sources: list[np.ndarray], options: Options, prefixes: Sequence[np.ndarray] | None = None
    ) -> list[Hypothesis]:
        draws = options.nbest if options.sampling else 1
        repeated = [ids for ids in sources for _ in range(draws)]
        given = None if prefixes is None else [ids for ids in prefixes for _ in range(draws)]
        found = self._generate(repeated, options, given, draw_keys(sources, draws))
        if np.isnan([hypothesis.score for hypothesis in found]).any():
            raise UserError(f"{self._graphs.folder}: {NO_NUMBERS}")
        return [ranked(found[first : first + draws]) for first in range(0, len(found), draws)] if draws > 1 else found

    def _generate(
        self, sources: list[np.ndarray], options: Options, prefixes: Sequence[np.ndarray] | None, keys: np.ndarray
    ) -> list[Hypothesis]:
        """For each source one hypothesis, with those behind it of a beam search; `keys` as in `Bounds`."""
        mode = MODES[options.mode]
        beam = options.beam if mode.beam_search and not options.sampling else 1
        longest = 0 if prefixes is None else max(map(len, prefixes))
        slots = self._slots(sources, options) * beam + longest  # a prefix is scored in the first pass
        rows = max(1, _LOG_PROBS // (slots * self.pieces))
        if len(sources) > rows:
            parts = [slice(start, start + rows) for start in range(0, len(sources), rows)]
            return [
                found
                for part in parts
                for found in self._generate(sources[part], options, None if prefixes is None else prefixes[part], keys[part])
            ]
        prefix = None if prefixes is None else padded(prefixes, self._graphs.specials[0])
        if beam == 1:
            texts = self._texts(self._decoding(sources, options, prefix, keys), options)
            return [self._of_text(text, options) for text in texts]
        least, limit = self._lengths(sources, options)
        session = OnnxSession(self._graphs, sources, OfLogProbs(*self._graphs.specials), Bounds(least, limit, keys))
        blocking = options.no_repeat_ngram_size
        found = search(session, beam, least, limit, self._graphs.specials, options.len_penalty, blocking, prefix)
        if not all(found):
            raise UserError(f"{self._graphs.folder}: {NO_NUMBERS}")
        return [ranked([_of_beam(hypothesis) for hypothesis in best[: options.nbest]]) for best in found]

    def stream(self, source: np.ndarray, options: Options, prefix: np.ndarray | None = None) -> Iterator[Hypothesis]:
        """See `engine.Engine`."""
        given = None if prefix is None else prefix[None]
        for text in self._decoding([source], options, given, draw_keys([source], 1)).stream():
            yield self._of_text(text, options)

    def _of_text(self, text: loop.Text, options: Options) -> Hypothesis:
        score, eos = _score(text.scores, options), self._graphs.specials[2]
        return hypothesis(text.tokens.tolist(), score, text.scores, text.passes, eos, text.path_score)

    def _lengths(self, sources: list[np.ndarray], options: Options) -> tuple[np.ndarray, np.ndarray]:
        """Tokens before which each text must not end, and after which it must."""
        mode = MODES[options.mode]
        limit = length_limits(np.array([len(ids) for ids in sources]), options.max_len_a, options.max_len, self._max_len)
        least = least_length(options.min_len, mode.strategy(options).anchored, mode.value(options, "eos_penalty"))
        return np.minimum(least, limit), limit

    def _slots(self, sources: list[np.ndarray], options: Options) -> int:
        """Most slots of a pass of a row."""
        strategy, limit = MODES[options.mode].strategy(options), self._lengths(sources, options)[1]
        drafts = min(strategy.drafts, int(limit.max()))
        return sum(strategy.block_sizes(drafts, 1 + drafts if strategy.verify else 1))

    def _decoding(
        self, sources: list[np.ndarray], options: Options, prefix: np.ndarray | None, keys: np.ndarray
    ) -> loop.Decoding:
        """The decoding of a batch by the loop, whose encoder has run."""
        specials, mode = self._graphs.specials, MODES[options.mode]
        strategy, (least, limit) = mode.strategy(options), self._lengths(sources, options)
        chooser = OfLogProbs(
            *specials,
            eos_penalty=mode.value(options, "eos_penalty"),
            temperature=options.temperature,
            sampling=options.sampling,
            topk=options.sampling_topk,
            topp=options.sampling_topp,
            seed=options.seed,
        )
        session = OnnxSession(self._graphs, sources, chooser, Bounds(least, limit, keys))
        blocking = mode.value(options, "no_repeat_ngram_size")
        linked = None
        if self.link is not None and options.link is not False and mode.may_link(options):
            rescore, ahead = self._rescored(options), slots_ahead([self.blocks], 1 + strategy.drafts)
            linked = Linked(self.link, session.source, chooser, max(rescore, 1), ahead)
        return loop.Decoding(session, strategy, least, limit, specials[0], specials[2], prefix, blocking, linked)

    def _texts(self, decoding: loop.Decoding, options: Options) -> list[loop.Text]:
        if not self._rescored(options):
            return decoding.run()
        pad, _, eos = self._graphs.specials
        scorer = decoding.session.fork()  # before anything is decoded
        return best_for_ar(scorer, decoding.candidates(), pad, eos, lambda scores: _score(scores, options))

    def _rescored(self, options: Options) -> int:
        """How many paths AR chooses from; 0: it does not."""
        return MODES[options.mode].value(options, "rescore")

    def canvas(self, sources: list[np.ndarray], slots: int, count: int) -> Slots:
        """See `engine.Engine`."""
        bounds = Bounds(*[np.zeros(len(sources), dtype=np.int64)] * 3)  # no rule is asked for
        session = OnnxSession(self._graphs, sources, OfLogProbs(*self._graphs.specials), bounds)
        return session.likeliest(canvas(len(sources), min(slots, self._max_len + 1)), count)


def _score(of_tokens: np.ndarray, options: Options) -> float:
    """Of a text, from the log-probabilities of its tokens."""
    return float(of_tokens.sum() / len(of_tokens) ** options.len_penalty)


def _of_beam(found: Found) -> Hypothesis:
    passes = list(range(1, 1 + len(found.tokens)))
    return Hypothesis(found.tokens[:-1].tolist(), float(found.score), found.scores.tolist(), passes)


def _device(name: str | None) -> tuple[str, int]:
    """Kind and number of a device, which this onnxruntime was built for."""
    kind, _, number = (name or "cpu").partition(":")
    have = [kind for kind, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    if kind not in have:
        raise UserError(f"device {name!r}: this onnxruntime has {', '.join(have)} alone")
    if number and not number.isdecimal():
        raise UserError(f"device {name!r}: give {kind}, or its number too, as in {kind}:0")
    return kind, int(number or 0)


def _session(path: Path, kind: str, number: int, threads: int | None) -> InferenceSession:
    options = SessionOptions()
    options.log_severity_level = 3
    # a thread that waits sleeps soon: where other work shares the cores, spinning on makes a text several times as slow
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.intra_op_num_threads = threads or cpu.count()
    # batches have ever new shapes: plans that are kept for each are of no use, and an arena keeps the most that any batch took
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    on_cpu, provider = kind == "cpu", _PROVIDERS[kind]
    # fused they take six times and 1.3 times as long as their two parts
    slow = ["SkipLayerNormFusion", "BiasGeluFusion"] if on_cpu else []
    choice = [provider if on_cpu else (provider, {"device_id": number})]
    try:
        session = InferenceSession(path, options, providers=choice, disabled_optimizers=slow, enable_fallback=False)
    except Exception as error:  # onnxruntime's own kinds of error have no common base but this
        why = "truncated, or not of bang export" + ("" if on_cpu else f", or there is no {kind}:{number}")
        raise UserError(f"{path}: cannot be loaded; {why} ({_first_line(error)})") from None
    if provider not in session.get_providers():
        raise UserError(
            f"device {kind}:{number}: onnxruntime cannot use it and would compute on the CPU; install the libraries that it "
            "needs (CUDA and cuDNN), or choose cpu"
        )
    return session


_INPUTS = {"main_tokens", "main_positions", "slot_positions", "sees", "bucket", "source_real", "count"}
_OUTPUTS = ["log_probs", "specials"]


def _check_graphs(folder: StrPath, encoder: InferenceSession, decoder: InferenceSession) -> None:
    """Refuses graphs that take or give something else than `deploy.export` writes."""
    kinds = [output.name.removeprefix("source.") for output in encoder.get_outputs()]
    inputs = {value.name for value in decoder.get_inputs()}
    outputs = [value.name for value in decoder.get_outputs()]
    columns = {f"{place}.{kind}" for place in ("cache", "source") for kind in kinds}
    wanted = [*_OUTPUTS, *(f"new.{kind}" for kind in kinds), "scores", "tokens"]
    shapes = [value.shape for value in (*encoder.get_outputs(), *decoder.get_outputs()[:1])]
    fits = [value.name for value in encoder.get_inputs()] == ["source"] and inputs == _INPUTS | columns and outputs == wanted
    if not fits or any(len(shape) < 3 or type(shape[-1]) is not int for shape in shapes):
        raise UserError(f"{folder}: its graphs take or give something else than those of bang export; export the model again")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def load(
    folder: StrPath,
    config: dict[str, Any],
    link: StrPath | None = None,
    casing: StrPath | None = None,
    device: str | None = None,
    dtype: str = "float32",
    threads: int | None = None,
) -> Loaded:
    """See `load.load_model`. The precision is the export's own: `dtype` must be its default."""
    if dtype not in ("float32", config["precision"]):
        raise UserError(f"dtype {dtype!r}: {folder} is exported as {config['precision']}; export it again to change that")
    pieces = read_pieces(folder)
    with damaged(folder):
        engine = OnnxEngine(folder, config, device, threads, find_link(folder, pieces, link))
    check_vocabulary(folder, len(pieces), engine.pieces)
    specials = [pieces.index(piece) for piece in ("[PAD]", "[UNK]", "[SEP]")]
    if config["specials"] != specials:
        raise UserError(
            f"{folder}: its config.json says that [PAD], [UNK] and [SEP] are pieces {config['specials']}, its vocabulary "
            f"{specials}; copy the folder whole"
        )
    normalization = read_normalization(Path(folder, VOCABULARY))
    return Loaded(engine, pieces, config["generation"], normalization, find_casing(folder, casing))
