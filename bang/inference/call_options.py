"""The options of a call, checked against its mode and the model."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from .. import modes
from ..errors import UserError
from ..options import DESCRIBED, Options, OptionValues
from ..text.vocabulary import Normalization
from .engine import Engine


class CallOptions(OptionValues, total=False):
    """What `Bang.generate` takes beside the texts, their mode and `details`."""

    prefix: str | Iterable[str] | None
    truncate: bool
    drop_repeats: bool | None
    on_error: Literal["raise", "blank"]
    batch_tokens: int
    read_ahead: int
    first: int
    progress: bool


def choose_options(
    mode: str | None, given: dict, defaults: Options, engine: Engine, pieces: Sequence[str], normalization: Normalization
) -> Options:
    """The options of a call: those that are given, and the model's defaults.

    Args:
        mode, given: of the call. The rest is of the model.
    Raises:
        ValueError: an option that is none, or that the mode or the model does not serve; one line.
    """
    unknown = given.keys() - DESCRIBED.keys()
    if unknown:
        near = _nearest(min(unknown), [*DESCRIBED, "mode", "details", *CallOptions.__annotations__])
        meant = f", maybe {near} is meant" if near else ""
        raise UserError(f"{min(unknown)}: no such option{meant}; there are {', '.join(DESCRIBED)}")
    options = replace(_defaults_of(mode, given, defaults), **(given if mode is None else {"mode": mode, **given}))
    if options.mode not in engine.modes:
        raise UserError(f"mode {options.mode!r}: this model has {', '.join(engine.modes)}")
    if options.link:
        _check_link(options, engine)
    if options.rescore:
        _check_rescoring(options, bool(given.get("rescore")), engine)
    if options.case == "source" and not normalization.do_lower_case:
        raise UserError("case='source': this model's vocabulary has capitals of its own; leave it out")
    _check_several(options, given)
    beam_search = modes.find(options.mode).beam_search
    if not beam_search and given.get("beam", 1) > 1:
        raise UserError(f"beam={options.beam}: mode {options.mode} has no beam search, which is AR's; leave it out, or give 1")
    if beam_search and 2 * options.beam >= len(pieces):  # a search looks at twice as many candidates
        most = (len(pieces) - 1) // 2
        raise UserError(f"beam={options.beam}: the vocabulary of {len(pieces)} pieces holds one of {most} at most")
    return options


def _defaults_of(mode: str | None, given: dict, defaults: Options) -> Options:
    """The model's defaults; without draws, and with one text, in a mode that has no others and where none are asked for."""
    chosen = modes.MODES.get(defaults.mode if mode is None else mode) if mode is None or isinstance(mode, str) else None
    if chosen is None or "sampling" in chosen.options or given.keys() & {"sampling", "nbest"}:
        return defaults
    return replace(defaults, nbest=1, sampling=False, sampling_topk=0, sampling_topp=0.0, temperature=1.0)


def _check_several(options: Options, given: dict) -> None:
    """Refuses draws, and several texts of a source, where the mode has none."""
    mode = modes.find(options.mode)
    if options.sampling and "sampling" not in mode.options:
        have = ", ".join(modes.with_option("sampling"))
        raise UserError(f"sampling=True: mode {mode.name} draws nothing; leave it out, or give one of {have}")
    if options.sampling and given.get("beam", 1) > 1:
        raise UserError(f"beam={options.beam} with sampling=True: what is drawn has no beam; nbest gives several draws")
    if options.nbest > 1 and not options.sampling:
        if not mode.beam_search:
            raise UserError(f"nbest={options.nbest}: mode {mode.name} has one text; several come of AR's beam, or of sampling")
        if options.nbest > options.beam:
            raise UserError(f"nbest={options.nbest}, beam={options.beam}: a beam search has as many texts as its beam; raise it")


def _check_link(options: Options, engine: Engine) -> None:
    """Refuses a link that is asked for where there can be none."""
    mode = modes.find(options.mode)
    if "link" not in mode.options:
        have = ", ".join(modes.with_option("link"))
        raise UserError(f"mode {mode.name} has no link, which is of {have}: leave it out, or give another mode")
    if not mode.may_link(options):
        raise UserError(f"a link in mode {mode.name} chooses whole blocks: {modes.WITHOUT_THRESHOLD}")
    if engine.link is None:
        raise UserError("link=True: this model has no link; make one with bang link, and give it to Bang.load")


def _check_rescoring(options: Options, given: bool, engine: Engine) -> None:
    """Refuses a choice by AR where there is nothing to choose from, or no AR; `given`: it is no default of the model."""
    mode, asked = modes.find(options.mode), f"rescore={options.rescore}"
    if "rescore" not in mode.options:
        if given:
            have = " or ".join(modes.with_option("rescore"))
            raise UserError(f"{asked}: mode {mode.name} has no candidates, which are {have}'s: leave it out, or give mode {have}")
        return
    if engine.link is None or options.link is False:
        raise UserError(
            f"{asked}: the candidates are a link's paths, and there is none; make one with bang link, or leave it out"
        )
    if modes.AR not in engine.modes:
        raise UserError(f"{asked}: AR chooses the text, and this model has {', '.join(engine.modes)} alone; leave it out")


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a wrong one may stand for; None: none is near."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return found[0] if found else None
