"""A session of torch: a batch being decoded by one model or an ensemble (`passes.Session`).

Shapes: B rows, N queries of a pass, G blocks, D drafts read, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from .. import visibility
from ..decoding.candidates import Slots
from ..decoding.choice import Bounds, Chooser
from ..decoding.passes import Pass
from ..decoding.session import BaseSession
from ..network.stepping import Cache, PassMasks, make_pass_masks, plain_pass_masks, send

AT_ONCE = 64
"""So few slots go through the output layer together: on a CPU reading its weights a second time costs more."""


def encode(models: list, src_tokens: Tensor, src_lengths: Tensor) -> list[dict]:
    """What each model's encoder returns for sources (B, S)."""
    return [model.encoder(src_tokens, src_lengths=src_lengths) for model in models]


class TorchSession(BaseSession):
    """Encodes a batch and runs the passes of the decoding loop over it.

    On a CPU tokens are chosen by numpy, on the same memory: its arg-max is many times as fast.

    Args:
        models: ensemble of `BangModel`, in evaluation mode.
        src_tokens, src_lengths: sources, (B, S) and (B).
        chooser: which token a slot gives.
        bounds: of the rows, numpy.
        encoded: what `encode` gave for these sources; None: encode them now.
    """

    def __init__(
        self,
        models: list,
        src_tokens: Tensor,
        src_lengths: Tensor,
        chooser: Chooser,
        bounds: Bounds,
        encoded: list[dict] | None = None,
    ):
        self.decoders = [model.decoder for model in models]
        encoded = encoded or encode(models, src_tokens, src_lengths)
        self.caches = [Cache(decoder, out, len(src_tokens)) for decoder, out in zip(self.decoders, encoded)]
        self.device = src_tokens.device
        self.xp = np if self.device.type == "cpu" else torch
        self.chooser = chooser
        self.source = src_tokens.numpy() if self.xp is np else src_tokens
        self.bounds = Bounds(*map(self.send, bounds))

    def forward(self, step: Pass) -> list[Tensor]:
        """Features of each model, (B, N, D)."""
        tokens = send(step.tokens, self.device)
        return [
            decoder.step(tokens, self._masks(step, decoder.buckets), cache)[0]
            for decoder, cache in zip(self.decoders, self.caches)
        ]

    def read(self, tokens, scores) -> tuple[np.ndarray, np.ndarray]:
        """What a pass gave, on the host: the one host sync of a pass."""
        if self.xp is np:
            return tokens, scores
        both = torch.stack([tokens.int(), scores.float().view(torch.int32)]).cpu().numpy()
        return both[0].astype(np.int64), both[1].view(np.float32)

    def read_slots(self, tokens, log_probs, end) -> Slots:
        """The candidates of a pass, on the host: one host sync."""
        if self.xp is np:
            return Slots(tokens, log_probs, end)
        scores = torch.cat([log_probs, end[..., None]], -1).float().view(torch.int32)
        both, count = torch.cat([tokens.int(), scores], -1).cpu().numpy(), tokens.shape[-1]
        return Slots(both[..., :count].astype(np.int64), both[..., count:-1].view(np.float32), both[..., -1].view(np.float32))

    def prepare(self, slots: list) -> list:
        """On a CPU the output layer runs once a pass where the slots are few: reading its weights is what costs."""
        few = self.xp is np and slots[0].shape[0] * slots[0].shape[1] <= AT_ONCE
        return self.logits(slots) if few else slots

    def choose(self, slots: list, target, forced, banned, ends: bool):
        """Tokens and log-probabilities of slots.

        Args:
            slots: features of each model, (B, n, D); or logits already, (B, n, V), numpy.
        """
        forced = None if forced is None else self.send(forced)
        banned = None if banned is None else tuple(map(self.send, banned))
        return self.chooser(self.xp, self.logits(slots), target, self.rules(ends), forced, banned)

    def logits(self, slots: list) -> list:
        """(B, n, D) of each model to (B, n, V), where the tokens are chosen; logits already stay as they are."""
        if isinstance(slots[0], np.ndarray):
            return slots
        logits = [decoder.output_layer(x).float() for decoder, x in zip(self.decoders, slots)]
        return [x.numpy() for x in logits] if self.xp is np else logits

    def _masks(self, step: Pass, buckets) -> PassMasks:
        first, anchor = step.first, step.anchor
        if len(first) == 1 or ((first == first[0]).all() and (anchor == anchor[0]).all()):
            anchors = tuple(anchor[0].tolist()) if step.main else None
            return plain_pass_masks(int(first[0]), step.cached, anchors, step.block_sizes, buckets, self.device)
        _, position, last = step.queries()
        key_position = visibility.main_position if step.main else visibility.slot_position
        blocks = step.block_sizes if step.main else ()
        return make_pass_masks(position, last, first, step.cached, blocks, key_position, buckets, self.device)

    def forget(self) -> None:
        """As `BaseSession.forget`."""
        self.caches = [cache.forked() for cache in self.caches]

    def keep(self, rows: np.ndarray) -> None:
        """As `passes.Session.keep`."""
        rows = self.send(rows)
        self.bounds = Bounds(*(x[rows] for x in self.bounds))
        self.source = self.source[rows]
        for cache in self.caches:
            cache.keep(torch.as_tensor(rows))

    def send(self, x: np.ndarray):
        """An array of the loop's where the tokens are chosen."""
        return x if self.xp is np else send(x, self.device)
