"""A trained model written to a folder for `transformers`, and read back from one."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from transformers.utils import logging as hf_logging

from ..decoding.link import find_link
from ..deploy.pack import FolderFormat
from ..errors import UserError, damaged
from ..inference.trained_model import DECODER_TABLE, DTYPES, ENCODER_TABLE, TrainedModel
from ..network.model import BangModel
from ..plugin.dictionary import BertDictionary
from ..safety import checkpoints
from ..safety.folder import WEIGHTS
from ..safety.tensors import read_safetensors
from ..text.casing import CASING_FILE, find_casing
from ..text.files import StrPath
from ..text.vocabulary import read_normalization
from .configuration import BangConfig
from .modeling import BangForConditionalGeneration
from .tokenizer import TOKENIZER, build_tokenizer, read_pieces

_OF_TRAINING = ("architecture", "criterion", "updates", "languages")


def to_transformers(model: TrainedModel) -> BangForConditionalGeneration:
    """The model in `transformers`, in evaluation mode, float32; its weights are copies."""
    special = model.dictionary
    config = BangConfig(
        **model.sizes, **{name: getattr(model, name) for name in _OF_TRAINING}, generation_defaults=model.generation,
        vocab_size=len(special), pad_token_id=special.pad(), unk_token_id=special.unk(), bos_token_id=special.bos(),
        eos_token_id=special.eos(),
    )  # fmt: skip
    network = BangForConditionalGeneration(config)
    network.load_state_dict(model.build().state_dict())
    network.link = model.link
    return network.eval()


def _fill(model: TrainedModel, network: BangModel, folder: Path, dtype: str) -> None:
    """What `AutoModelForSeq2SeqLM` and `AutoTokenizer` load."""
    with _without_progress_bar():
        to_transformers(model).to(DTYPES[dtype]).save_pretrained(folder)
    special = model.dictionary
    build_tokenizer(special.symbols, model.sizes["max_source_positions"], special.normalization).save_pretrained(folder)
    if model.casing is not None:
        model.casing.save(folder / CASING_FILE)


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Saving takes a second, and `transformers` shows its progress bar in pipes too."""
    enabled = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            hf_logging.enable_progress_bar()


def read_folder(folder: StrPath, link: StrPath | None = None, casing: StrPath | None = None) -> TrainedModel:
    """Reads a folder for `transformers`: one of `bang pack --format hf`, or what `save_pretrained` made of model and tokenizer.

    Args:
        link, casing: see `find_link` and `find_casing`.

    Raises:
        FileNotFoundError, ValueError: it is incomplete or damaged; one line.
    """
    with damaged(folder):
        return _read_folder(folder, link, casing)


def _read_folder(folder: StrPath, link: StrPath | None, casing: StrPath | None) -> TrainedModel:
    pieces, config = read_pieces(folder), BangConfig.from_pretrained(folder, local_files_only=True)
    if len(pieces) != config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has {len(pieces)} word pieces, and the weights are of {config.vocab_size}")
    weights = _read_weights(folder)
    if config.share_all_embeddings and DECODER_TABLE in weights:
        weights[ENCODER_TABLE] = weights[DECODER_TABLE]
    checkpoints.check_fits(weights, BangForConditionalGeneration(config).state_dict(), str(folder))
    dictionary = BertDictionary.load(io.StringIO("".join(f"{piece} 1\n" for piece in pieces)))
    dictionary.normalization = read_normalization(Path(folder, TOKENIZER))
    return TrainedModel(
        sizes=config.sizes,
        weights=weights,
        dictionary=dictionary,
        generation=config.generation_defaults,
        link=find_link(folder, pieces, link),
        casing=find_casing(folder, casing),
        **{name: getattr(config, name) for name in _OF_TRAINING},
    )


def _read_weights(folder: StrPath) -> dict[str, Tensor]:
    """The weights of all its files: `transformers` splits large models."""
    paths = sorted(Path(folder).glob("model*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder}: lacks {WEIGHTS}; copy the complete folder")
    weights: dict[str, Tensor] = {}
    for path in paths:
        weights |= read_safetensors(path)
    return weights


_HEAD = """---
library_name: transformers
tags:
- bang
- text2text-generation
---

"""


def _usage(name: str, mode: str) -> str:
    return f"""```python
import bang.hf
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSeq2SeqLM.from_pretrained("{name}")
inputs = tokenizer(["some text"], return_tensors="pt", padding=True, truncation=True)
print(tokenizer.batch_decode(model.generate(**inputs, mode="{mode}"), skip_special_tokens=True))
```

`bang pack {name} FOLDER` turns it into a folder for `bang generate` and `Bang.load`."""


TRANSFORMERS = FolderFormat(_fill, _usage, _HEAD)
"""A folder for `transformers`: see `deploy.pack.write_folder`."""
