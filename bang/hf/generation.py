"""`generate` in BANG's modes: the decoding loop of `bang.decoding`, called the way `transformers` calls a decoding method.

Shapes: B rows, T text length, V vocabulary.
"""

import copy
import functools
import logging
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput

from .. import modes
from ..decoding.choice import Chooser
from ..errors import UserError
from ..generation.generator import LoopGenerator
from ..modes import Mode
from ..options import Options
from ..trained_modes import slots_ahead, trained_blocks, trained_modes, warnings_of
from .configuration import OF_MODES

logger = logging.getLogger(__name__)

_OF_AR = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model", "streamer")
"""Arguments of `generate` that the decoding loop does not know."""


class EndAtLimit(LogitsProcessor):
    """Allows only eos at a text's limit, with its own score, as fairseq's search does.

    Args:
        max_length: limit of a text, its start symbol and eos included.
    """

    def __init__(self, max_length: int, eos: int):
        self.max_length, self.eos = max_length, eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.size(1) < self.max_length - 1:
            return scores
        ended = torch.full_like(scores, -torch.inf)
        ended[:, self.eos] = scores[:, self.eos].clamp(min=-1e4)  # the limit wins over min_length, which forbids eos
        return ended


def settle(model, given, arguments: dict[str, Any], custom_generate):
    """Chooses the decoding method of a call.

    Args:
        given: the GenerationConfig of the call, or None. arguments: its other keyword arguments.
        custom_generate: the call's.
    Returns:
        These three, to be passed to `transformers`.
    Raises:
        ValueError: a mode that the model does not have, or an argument that has no effect in it; one line.
    """
    if custom_generate not in (None, decode):
        return given, arguments, custom_generate
    configs = [config for config in (given, model.generation_config) if config is not None]
    mode = modes.find(_setting("mode", arguments, configs) or modes.AR)
    if mode.name not in model.config.decodes:
        raise UserError(f"mode {mode.name!r}: this model has {', '.join(model.config.decodes)}")
    model.check_inference()
    if mode.beam_search and custom_generate is None:
        drafting = [name for name in ("assistant_model", "prompt_lookup_num_tokens") if _setting(name, arguments, configs)]
        if drafting:
            raise UserError(f"{drafting[0]}: the model drafts for itself with mode='speculative'; leave it out")
        return given, arguments, None
    asked = [name for name in _OF_AR if arguments.get(name) is not None]
    asked += ["do_sample"] if _setting("do_sample", arguments, configs) else []
    # a beam among the model's defaults is for AR
    asked += [name for name in ("num_beams", "num_return_sequences") if (_setting(name, arguments, [given]) or 1) > 1]
    if asked:
        raise UserError(f"{', '.join(asked)}: no effect in mode {mode.name}, which is decoded greedily; leave it out")
    single = dict(num_beams=1, num_return_sequences=1)
    if given is None:
        return given, {**arguments, **single}, decode
    given = copy.deepcopy(given)
    given.update(**single)
    return given, arguments, decode


def _setting(name: str, arguments: dict[str, Any], configs: list) -> Any:
    """The first value given, or None."""
    values = [arguments.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in values if value is not None), None)


def decode(model, input_ids: Tensor, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    """Decodes in the mode of `generation_config`; `generate(custom_generate=decode, mode="nar")`, or `mode="nar"` alone.

    Args:
        model: a `BangForConditionalGeneration`.
        input_ids: what the texts begin with, the start symbol first, (B, any); in NAR the start symbol alone.
        logits_processor, stopping_criteria: ignored; the lengths and the mode's options come from `generation_config`.
        model_kwargs: `encoder_outputs` of the model's encoder.

    Returns:
        Ids: the start symbol, a text, eos, then pads, (B, T); with `return_dict_in_generate` also
        `sequences_scores`, log-probabilities normalised by length, (B).
    """
    config, encoder_outputs = model.config, model_kwargs["encoder_outputs"]
    mode, options = _options(generation_config)
    source = getattr(encoder_outputs, "source", None)
    if source is None:
        raise UserError(f"mode {mode.name}: the encoder's outputs lack the source; give input_ids, or outputs of get_encoder()")
    prefix = None
    if input_ids.size(1) > 1:
        if not mode.strategy(options).anchored:
            raise UserError(f"mode {mode.name}: its texts have no given beginning; leave out decoder_input_ids")
        prefix = input_ids[:, 1:]
    link = model.link if options.link is not False and mode.may_link(options) else None
    if options.link and link is None:
        raise UserError(f"link=True: this model has none, or mode {mode.name} has no use for one; leave it out")
    rescore = mode.value(options, "rescore")
    if rescore and link is None:
        raise UserError(f"rescore={rescore}: the candidates are a link's paths, and there is none; leave it out")
    _warn_untrained(model, mode, options)
    strategy = mode.strategy(options)
    generator = LoopGenerator(
        [model],
        strategy,
        Chooser(
            config.pad_token_id, config.unk_token_id, config.eos_token_id,
            eos_penalty=mode.value(options, "eos_penalty"),
        ),
        max_len_b=options.max_len,
        min_len=options.min_len,
        no_repeat_ngram=mode.value(options, "no_repeat_ngram_size"),
        len_penalty=options.len_penalty,
        link=link,
        rescore=rescore,
        ahead=slots_ahead([trained_blocks(config.run)], 1 + strategy.drafts),
    )  # fmt: skip
    encoded = {"encoder_out": [encoder_outputs[0].transpose(0, 1)], "encoder_padding_mask": [source.eq(config.pad_token_id)]}
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(config.pad_token_id).sum(1)}}
    found = [hypotheses[0] for hypotheses in generator.generate([model], sample, prefix, encoded=[encoded])]
    texts = [torch.cat([input_ids[row, :1].cpu(), hypothesis["tokens"]]) for row, hypothesis in enumerate(found)]
    sequences = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=config.pad_token_id).to(input_ids.device)
    if not generation_config.return_dict_in_generate:
        return sequences
    scores = torch.stack([hypothesis["score"] for hypothesis in found])
    return GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores.to(input_ids.device))


def _options(config) -> tuple[Mode, Options]:
    """The mode and its options; lengths there count the start symbol and the eos."""
    given = {name: getattr(config, name) for name in OF_MODES if getattr(config, name, None) is not None}
    options = Options(
        **given, beam=1, max_len=max(1, config.max_length - 2), min_len=max(0, min(config.min_length, config.max_length - 1) - 1),
        len_penalty=config.length_penalty, no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
    )  # fmt: skip
    return modes.find(options.mode), options


def _warn_untrained(model, mode: Mode, options: Options) -> None:
    run = model.config.run
    for warning in warnings_of(trained_modes(run), trained_blocks(run), mode, options):
        _warn_once(warning)


@functools.cache
def _warn_once(warning: str) -> None:
    logger.warning("%s", warning)
