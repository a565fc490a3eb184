"""docs/options.md is what the code says."""

import re

from conftest import ROOT

from bang.network.config import BangConfig
from bang.plugin.criterion import MixedLossConfig
from bang.plugin.options_page import page
from bang.plugin.task import BangTranslationConfig


def test_the_page_is_current():
    current = page()
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == current, (
        "docs/options.md is not what the code says; write it anew: python -m bang options > docs/options.md"
    )


def test_every_option_of_ours_is_there():
    listed = set(re.findall(r"`--([a-z-]+)`", page()))
    for config in (BangConfig, MixedLossConfig, BangTranslationConfig):
        ours = {
            name.replace("_", "-")
            for cls in config.__mro__ if cls.__module__.startswith("bang.")
            for name in cls.__annotations__ if cls.__dataclass_fields__[name].metadata.get("help")
        }  # fmt: skip
        assert ours and ours <= listed
    assert "source-lang" not in listed  # fairseq's own
    assert {"min-lr", "mask-length", "tokens-per-sample"} <= listed
