"""The pages that people read."""

import re

from conftest import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"


def blocks(page, section=None, language="bash"):
    """The fenced blocks of a page, or of one of its sections."""
    text = page.read_text(encoding="utf-8")
    if section is not None:
        text = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)[1]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)
