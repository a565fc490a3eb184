"""The model in `transformers`, with the encoder and the decoder of `bang.network`.

Shapes: B rows, S source length, T target length, D width, V vocabulary.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .. import modes
from ..decoding.link import LINK_FILE, Link, find_link
from ..errors import UserError
from ..network.attention import NgramSelfAttention
from ..network.decoder import BangDecoder
from ..network.encoder import BangEncoder
from ..network.stepping import Cache, plain_pass_masks
from ..options import Options
from .configuration import BangConfig, generation_config
from .generation import EndAtLimit, settle
from .tokenizer import read_pieces

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass
class EncoderOutput(BaseModelOutput):
    """What the encoder returns.

    Attributes:
        last_hidden_state: (B, S, D).
        source: ids, with pad where the mask is 0, (B, S).
    """

    source: Tensor | None = None


class SourceEncoder(BangEncoder):
    """The encoder, which also takes the arguments of `transformers`."""

    main_input_name = "input_ids"

    def forward(
        self,
        src_tokens: Tensor | None = None,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **unused,
    ):
        """Called by keyword, as `transformers` does, it returns an `EncoderOutput`; otherwise it is the parent's.

        Args:
            input_ids: (B, S), eos last. attention_mask: 0 at pads, (B, S); None: wherever ids are pad.
        """
        if input_ids is None:
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        source = input_ids if attention_mask is None else input_ids.masked_fill(attention_mask == 0, self.padding_idx)
        if source.size(1) > self.max_source_positions:
            longest = int(source.ne(self.padding_idx).sum(1).max())
            if longest > self.max_source_positions:
                raise UserError(
                    f"a source has {longest} word pieces, over the model's limit of {self.max_source_positions}: "
                    "tokenize with truncation=True"
                )
        call_projections(self.layers)
        encoded = super().forward(source)
        return EncoderOutput(last_hidden_state=encoded["encoder_out"][0].transpose(0, 1), source=source)


def call_projections(layers: Iterable[Any]) -> None:
    """Has fairseq's attention call its projections where an adapter (LoRA) stands in for one of them.

    Its fast path takes their weights alone, and an adapter would have no effect and no gradient.
    """
    for layer in layers:
        attention = layer.self_attn if hasattr(layer, "self_attn") else layer.encoder_attn
        attention.skip_embed_dim_check = any(type(getattr(attention, name)) is not nn.Linear for name in _PROJECTIONS)


class BangCache(EncoderDecoderCache):
    """The decoder's keys and values (`stepping.Cache`) as a cache of `transformers`."""

    def __init__(self, cache: Cache):
        super().__init__(DynamicCache(), DynamicCache())
        self.cache = cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.cache.keep(beam_idx)

    batch_select_indices = reorder_cache

    def crop(self, tokens_to_remove: int) -> None:
        raise UserError("the cache of bang cannot be cut: mode='speculative' drafts and verifies with the model itself")

    def batch_repeat_interleave(self, repeats: int) -> None:
        raise UserError("the cache of bang cannot be repeated: repeat the sources")


class BangForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """BANG for `transformers`; weights have the names and values of `bang.network`'s.

    Attributes:
        link: used by NAR and semi-NAR; None: no link.
    """

    config_class = BangConfig
    base_model_prefix = "bang"
    main_input_name = "input_ids"
    config: BangConfig
    _tied_weights_keys = {"encoder.embed_tokens.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: BangConfig):
        super().__init__(config)
        options = config.network_options()
        dictionary = range(config.vocab_size)  # the network asks a dictionary for its size alone
        target = nn.Embedding(config.vocab_size, config.decoder_embed_dim, config.pad_token_id)
        source = target
        if not config.share_all_embeddings:
            source = nn.Embedding(config.vocab_size, config.encoder_embed_dim, config.pad_token_id)
        self.encoder = SourceEncoder(options, dictionary, source)
        self.encoder.in_parts = True
        self.decoder = BangDecoder(options, dictionary, target, config.network.default_layout)
        self.link: Link | None = None
        self.post_init()
        self.generation_config = generation_config(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Starts weights as `BangModel` does; `init` skips loaded weights."""
        super()._init_weights(module)
        if isinstance(module, NgramSelfAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        if isinstance(module, (BangEncoder, BangDecoder)):
            init.constant_(module.version, 3.0)
        if isinstance(module, BangDecoder) and module.embed_out is not None:
            init.normal_(module.embed_out, std=0.02)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """The parent's; also loads the folder's link."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        folder = pretrained_model_name_or_path
        if folder is not None and os.path.isfile(os.path.join(folder, LINK_FILE)):
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.link = find_link(folder, read_pieces(folder))
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """The parent's; also saves the link."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.link is not None and kwargs.get("is_main_process", True):
            self.link.save(Path(save_directory, LINK_FILE))

    def max_decoder_positions(self) -> int:
        return self.decoder.max_positions()

    def get_encoder(self, modality: str | None = None) -> SourceEncoder:
        return self.encoder

    def get_input_embeddings(self) -> nn.Embedding:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        if not self.config.share_all_embeddings:
            raise UserError("the tables of embeddings are not shared, so the vocabulary cannot be resized")
        self.encoder.embed_tokens = self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> None:
        """None: there is no such layer; the output uses a table of embeddings."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """(B, T), shifted right; -100 becomes pad."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, self.config.pad_token_id)], dim=1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: BangCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        mode: str = modes.AR,
        block_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """
        Args:
            input_ids: source, (B, S), eos last. attention_mask: 0 at pads, (B, S).
            decoder_input_ids: the text so far, the start symbol first, (B, T); with `past_key_values` the new tokens
                alone. None: the labels, shifted right.
            decoder_attention_mask: (B, T); pads only on the right, where nothing sees them.
            labels: (B, T), eos last, -100 where the loss ignores them.
            use_cache: keep keys and values for the next step; in AR, for inference without gradients.
            logits_to_keep: compute the logits of this many last tokens; 0: all.
            mode, block_size: what a prediction sees in scoring and training, see `modes.MODES`.
            num_items_in_batch: divides the sum of the losses; None: the number of labels that are not -100.

        Raises:
            ValueError: an argument that the model does not support; one line.
        """
        self._check_arguments(decoder_attention_mask, kwargs)
        if encoder_outputs is None:
            if input_ids is None and past_key_values is None:
                raise UserError("there is no source: give input_ids or encoder_outputs")
            encoder_outputs = None if input_ids is None else self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        if decoder_input_ids is None:
            if labels is None:
                raise UserError("there is no target: give labels or decoder_input_ids, or call generate")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        layout = self._layout(mode, block_size, decoder_input_ids.size(1))
        call_projections(self.decoder.layers)
        if past_key_values is not None or (use_cache and labels is None):
            if mode != modes.AR:
                raise UserError(f"mode={mode!r}: forward has a cache in AR alone; generate(mode={mode!r}) has one of its own")
            past_key_values = self._cache(past_key_values, encoder_outputs, attention_mask, len(decoder_input_ids))
            features = self._step(decoder_input_ids, past_key_values.cache, logits_to_keep)
        else:
            encoded = encoder_dict(encoder_outputs, attention_mask, self.config.pad_token_id)
            self._check_length(decoder_input_ids.size(1))
            features = self.decoder.extract_features(decoder_input_ids, encoded, layout=layout)[0]
            features = features[:, -logits_to_keep:]
        logits = self.decoder.output_layer(features)
        return Seq2SeqLMOutput(
            loss=None if labels is None else _loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=past_key_values,
            encoder_last_hidden_state=None if encoder_outputs is None else encoder_outputs[0],
        )

    def _layout(self, mode: str, block_size: int | None, length: int):
        if modes.find(mode).name not in self.config.decodes:
            raise UserError(f"mode={mode!r}: this model has {', '.join(self.config.decodes)}")
        options = Options(mode=mode) if block_size is None else Options(mode=mode, block_size=block_size)
        return modes.find(mode).layout(length, options, 0)

    def _check_arguments(self, decoder_attention_mask: Tensor | None, others: dict[str, Any]) -> None:
        for name in ("inputs_embeds", "decoder_inputs_embeds"):
            if others.get(name) is not None:
                raise UserError(f"{name}: the model takes ids alone, as input_ids and decoder_input_ids")
        if decoder_attention_mask is not None and (decoder_attention_mask[:, 1:] > decoder_attention_mask[:, :-1]).any():
            raise UserError("decoder_attention_mask: the decoder takes pads on the right alone; pad targets there")

    def _check_length(self, length: int) -> None:
        limit = self.decoder.max_positions()
        if length > limit:
            raise UserError(
                f"a target of {length} word pieces is over the model's limit of {limit}: shorten it, or lower max_length"
            )

    def check_inference(self) -> None:
        """Refuses a model that cannot decode now: in training mode, or with an adapter in the way.

        Raises:
            ValueError: one line.
        """
        if self.training:
            raise UserError("the model is in training mode: call eval() before you decode")
        if not all(isinstance(layer.ngram_self_attn, NgramSelfAttention) for layer in self.decoder.layers):
            raise UserError(
                "an adapter wraps ngram_self_attn (target_parameters), whose weights the cache needs: "
                "call merge_and_unload() before you decode"
            )

    @torch.no_grad()
    def _cache(self, cache, encoder_outputs, attention_mask: Tensor | None, rows: int) -> BangCache:
        self.check_inference()
        if cache is None:
            encoded = encoder_dict(encoder_outputs, attention_mask, self.config.pad_token_id)
            return BangCache(Cache(self.decoder, encoded, rows))
        if not isinstance(cache, BangCache):
            raise UserError(f"past_key_values of type {type(cache).__name__}: leave it out, the model makes its own")
        return cache

    @torch.no_grad()
    def _step(self, tokens: Tensor, cache: Cache, keep: int) -> Tensor:
        """Features of the slots after the last `keep` of the new tokens, 0: after all, (B, keep, D)."""
        past, new = cache.length, tokens.size(1)
        self._check_length(past + new)
        anchors = tuple(range(past + new - min(keep or new, new), past + new))
        masks = plain_pass_masks(past, new, anchors, (1,) * len(anchors), self.decoder.buckets, tokens.device)
        cache.length = past + new
        return self.decoder.step(tokens, masks, cache)[0]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes a `BangCache`

    def generate(self, inputs=None, generation_config=None, *args, custom_generate=None, **kwargs):
        """The parent's, also with `mode` and the other options of `configuration.OF_MODES`, as `Bang.generate` has them.

        AR is decoded by `transformers`: greedily, by beam search, by sampling. The other modes are decoded by `decode`, greedily.

        Raises:
            ValueError: a mode or an option that the model does not support; one line.
        """
        generation_config, kwargs, custom_generate = settle(self, generation_config, kwargs, custom_generate)
        return super().generate(inputs, generation_config, *args, custom_generate=custom_generate, **kwargs)

    def _get_logits_processor(self, generation_config, *args, **kwargs):
        """The parent's; also ends a text with eos at its limit, as fairseq does."""
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        most = self.decoder.max_positions() + 1  # of a text with its start symbol and eos
        processors.append(EndAtLimit(min(generation_config.max_length, most), self.config.eos_token_id))
        return processors


def encoder_dict(outputs: BaseModelOutput, attention_mask: Tensor | None, pad: int) -> dict[str, list[Tensor]]:
    """What fairseq's encoder returns, for the decoder."""
    hidden, source = outputs[0], getattr(outputs, "source", None)
    if source is not None:
        padding = source.eq(pad)
    elif attention_mask is not None:
        padding = attention_mask == 0
    else:
        padding = hidden.new_zeros(hidden.shape[:2], dtype=torch.bool)
    return {"encoder_out": [hidden.transpose(0, 1)], "encoder_padding_mask": [padding]}


def _loss(logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
    """Mean cross-entropy in float32."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="mean" if items is None else "sum")
    return losses if items is None else losses / items
