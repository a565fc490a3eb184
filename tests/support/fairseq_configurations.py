"""How fairseq makes its configuration, with a memory: that is half the time of a test that reads a checkpoint.

For each command line and each old checkpoint hydra parses some 300 options, nearly all of them alike, and composes them.
"""

import copy

from fairseq import options
from fairseq.dataclass import utils
from hydra.core.override_parser.overrides_parser import OverridesParser

COMPOSE = utils.compose
"""fairseq's own, for the tests of what it leaves behind."""


def remember_configurations() -> None:
    """In this process each option is parsed once, and the same options are composed once."""
    parse, parsed, composed = OverridesParser.parse_rule, {}, {}

    def parse_once(self, text, rule):
        if (text, rule) not in parsed:
            parsed[text, rule] = parse(self, text, rule)
        return copy.copy(parsed[text, rule])

    def compose_once(name, overrides, strict):
        key = (name, *overrides, strict)
        if key not in composed:
            composed[key] = COMPOSE(name, overrides=overrides, strict=strict)
        return copy.deepcopy(composed[key])

    OverridesParser.parse_rule, utils.compose = parse_once, compose_once


def parse_defaults() -> None:
    """Parses the options that fairseq's command lines have in common."""
    for parser, words in ((options.get_generation_parser(), []), (options.get_training_parser(), ["--arch", "transformer"])):
        utils.convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["data", *words]))
