"""The configuration of the model in `transformers`: the network's sizes, and facts of its training."""

from typing import Any

from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from transformers import GenerationConfig, PreTrainedConfig

from .. import modes, plugin  # noqa: F401  (plugin: registers the architectures)
from ..errors import UserError
from ..inference.trained_model import size_options
from ..network.model import BangModel, check_sizes
from ..options import DESCRIBED, Options
from ..safety.folder import HUGGING_FACE, MODEL
from ..trained_modes import best_trained, trained_modes

_LIMITS = {"max_source_positions": 512, "max_target_positions": 512}  # fairseq's defaults are those of the task
_UNDER_OTHER_NAMES = ("beam", "max_len", "max_len_a", "min_len", "len_penalty", "no_repeat_ngram_size")
OF_MODES = tuple(name for name in DESCRIBED if name not in _UNDER_OTHER_NAMES)
"""Options of generation that `transformers` does not know; a `GenerationConfig` has them under the same names."""


class BangConfig(PreTrainedConfig):
    """Sizes and dropout rates of the network, named as in `bang.network.config.BangConfig`, and more.

    Args:
        architecture: a name that `--arch` takes; the sizes have its defaults.
        vocab_size: word pieces; sources and targets share the vocabulary.
        criterion, updates, languages: facts of the training, see `TrainedModel`.
        generation_defaults: values of `bang.options.Options` that differ from its defaults.

    Raises:
        ValueError: impossible sizes; one line.
    """

    model_type = HUGGING_FACE
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "decoder_embed_dim",
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "decoder_attention_heads",
    }

    architecture: str = "bang_ar_nar_mixed"
    vocab_size: int = 30522
    pad_token_id: int = 0
    unk_token_id: int = 100
    bos_token_id: int = 101
    eos_token_id: int = 102
    decoder_start_token_id: int = 102
    is_encoder_decoder: bool = True
    use_cache: bool = True
    criterion: dict | None = None
    updates: int = 0
    languages: list | None = None
    generation_defaults: dict | None = None

    def __post_init__(self, **kwargs):
        if kwargs.get("format") == MODEL:
            raise UserError("this is a folder of bang pack: make one for transformers with bang pack --format hf")
        if not issubclass(MODEL_REGISTRY.get(self.architecture, object), BangModel):
            raise UserError(f"architecture={self.architecture!r}: not one of BANG's")
        defaults = MODEL_DATACLASS_REGISTRY[self.architecture](**_LIMITS)
        for name in size_options(self.architecture):
            setattr(self, name, kwargs.pop(name, getattr(defaults, name)))
        self.share_decoder_input_output_embed |= self.share_all_embeddings
        self.decoder_start_token_id = self.eos_token_id  # as fairseq begins a text
        self.criterion, self.generation_defaults = self.criterion or {}, self.generation_defaults or {}
        self.languages = self.languages or [None, None]
        super().__post_init__(**{**kwargs, "tie_word_embeddings": self.share_all_embeddings})
        check_sizes(self.network_options())
        Options(**(self.generation_defaults or {}))  # refuses bad values

    @property
    def sizes(self) -> dict[str, Any]:
        """The network's options."""
        return {name: getattr(self, name) for name in size_options(self.architecture)}

    @property
    def network(self) -> type[BangModel]:
        """The class of fairseq's model."""
        return MODEL_REGISTRY[self.architecture]

    @property
    def decodes(self) -> tuple[str, ...]:
        """Names of the modes that the model can decode in."""
        return modes.decoded(self.network.trains)

    @property
    def run(self) -> dict[str, Any]:
        """The options of the training, as a checkpoint has them."""
        return {"model": {"_name": self.architecture, **self.sizes}, "criterion": self.criterion}

    def network_options(self) -> Any:
        """The options as `bang.network` takes them."""
        return MODEL_DATACLASS_REGISTRY[self.architecture](**self.sizes)

    def to_diff_dict(self) -> dict[str, Any]:
        """The parent's, with all sizes: their defaults depend on the architecture."""
        return {**super().to_diff_dict(), **self.sizes, "architecture": self.architecture}


def generation_config(config: BangConfig) -> GenerationConfig:
    """The configuration with which `generate` writes the texts of `Bang.generate`, by the model's defaults.

    Lengths count the start symbol and the eos here.
    """
    mode = best_trained(trained_modes(config.run), config.decodes)  # as `Bang.load`
    options = Options(**{"mode": mode, **(config.generation_defaults or {})})
    beams: dict[str, Any] = {}
    if options.beam > 1:
        beams = {"early_stopping": True, "length_penalty": options.len_penalty}
    return GenerationConfig(
        num_beams=options.beam, max_length=options.max_len + 2, min_length=options.min_len + 1, **beams,
        no_repeat_ngram_size=options.no_repeat_ngram_size, suppress_tokens=[config.pad_token_id],
        pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        **{name: getattr(options, name) for name in OF_MODES},
    )  # fmt: skip
