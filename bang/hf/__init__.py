"""BANG in Hugging Face's `transformers`: `import bang.hf` registers the model with its Auto classes.

    import bang.hf
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

`bang pack --format hf` makes the folder. The network and its weights are those of `bang.network`, under the same names.
"""

from importlib import metadata

from ..errors import UserError
from ..inference.load import import_heavy
from ..packages import install_command

LEAST_VERSION = 5


def check_version() -> None:
    """Refuses a `transformers` that is missing or too old.

    Raises:
        ValueError: one line that says what to install.
    """
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        version = "none"
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < LEAST_VERSION:
        found = "which is not installed" if version == "none" else f"{version} is installed"
        command = install_command(f"transformers>={LEAST_VERSION}", "hf")
        raise UserError(f"bang.hf needs transformers {LEAST_VERSION} or later, {found}: {command}")


check_version()

import_heavy("bang.inference.trained_model")  # fairseq, without what its import does to logging

from transformers import AutoConfig, AutoModelForSeq2SeqLM  # noqa: E402

from .configuration import BangConfig  # noqa: E402
from .generation import decode  # noqa: E402
from .modeling import BangForConditionalGeneration  # noqa: E402

__all__ = ["BangConfig", "BangForConditionalGeneration", "decode"]

AutoConfig.register(BangConfig.model_type, BangConfig)
AutoModelForSeq2SeqLM.register(BangConfig, BangForConditionalGeneration)
