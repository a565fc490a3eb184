"""How fairseq makes its configuration, with a memory: that is half the time of a test that reads a checkpoint.

For each command line and each old checkpoint hydra parses some 300 options, nearly all of them alike, and composes them.
"""

import copy
import functools

from fairseq import options
from fairseq.dataclass import utils
from hydra.core.override_parser.overrides_parser import OverridesParser

COMPOSE = utils.compose
"""fairseq's own, for the tests of what it leaves behind."""


def remember_configurations() -> None:
    """In this process each option is parsed once, and the same options are composed once."""
    parse, parsed = OverridesParser.parse_rule, {}

    def parse_once(self, text, rule):
        if (text, rule) not in parsed:
            parsed[text, rule] = parse(self, text, rule)
        return copy.copy(parsed[text, rule])

    @functools.lru_cache(32)
    def composed(name, overrides, strict):
        return COMPOSE(name, overrides=list(overrides), strict=strict)

    OverridesParser.parse_rule = parse_once
    utils.compose = lambda name, overrides, strict: copy.deepcopy(composed(name, tuple(overrides), strict))


def parse_defaults() -> None:
    """Parses the options that fairseq's command lines have in common."""
    for parser, words in ((options.get_generation_parser(), []), (options.get_training_parser(), ["--arch", "transformer"])):
        utils.convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["data", *words]))
