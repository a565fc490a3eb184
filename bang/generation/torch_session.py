"""A session of torch: a batch being decoded by one model or an ensemble (`passes.Session`).

Shapes: B rows, N queries of a pass, G blocks, D drafts read, V vocabulary.
"""

from typing import List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from .. import visibility
from ..network.stepping import Cache, Sight, make_sight, plain_sight, send
from .choice import Bounds, Chooser
from .passes import Pass, drafting_slots


AT_ONCE = 64
"""So few slots go through the output layer together: on a CPU reading its weights a second time costs more."""


def encode(models: List, src_tokens: Tensor, src_lengths: Tensor) -> List[dict]:
    """What each model's encoder returns for sources (B, S)."""
    return [model.encoder(src_tokens, src_lengths=src_lengths) for model in models]


class TorchSession:
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
        models: List,
        src_tokens: Tensor,
        src_lengths: Tensor,
        chooser: Chooser,
        bounds: Bounds,
        encoded: Optional[List[dict]] = None,
    ):
        self.decoders = [model.decoder for model in models]
        encoded = encoded or encode(models, src_tokens, src_lengths)
        self.caches = [Cache(decoder, out, len(src_tokens)) for decoder, out in zip(self.decoders, encoded)]
        self.device = src_tokens.device
        self.xp = np if self.device.type == "cpu" else torch
        self.chooser = chooser
        self.source = src_tokens.numpy() if self.xp is np else src_tokens
        self.bounds = Bounds(*map(self._send, bounds))

    def run(self, step: Pass) -> Tuple[np.ndarray, np.ndarray]:
        """As `passes.Session.run`."""
        tokens = send(step.tokens, self.device)
        features = [
            decoder.step(tokens, self._sight(step, decoder.buckets), cache)[0]
            for decoder, cache in zip(self.decoders, self.caches)
        ]
        first_target = self._send(step.anchor if step.main else step.first[:, None])  # (B, G)
        if step.blocks == 1 and step.source_gain is None:
            forced = step.forced
            if forced is not None and step.drafts:
                forced = np.concatenate([forced, np.full((len(forced), step.drafts), -1)], axis=1)
            target = first_target + self._send(np.arange(1 + step.drafts))
            found = self._choose(features, target, forced, step.banned, step.ends)
        else:
            found = self._verify_and_draft(step, features, first_target)
        return found if self.xp is np else self._read(*found)

    def _read(self, tokens: Tensor, scores: Tensor) -> Tuple[np.ndarray, np.ndarray]:
        """What a pass gave, on the host: the one time in a pass that the host waits for a GPU."""
        both = torch.stack([tokens.int(), scores.float().view(torch.int32)]).cpu().numpy()
        return both[0].astype(np.int64), both[1].view(np.float32)

    def _verify_and_draft(self, step: Pass, features: List[Tensor], first_target):
        """Reads the first slot of each block, then the drafts of the block behind the last accepted token."""
        xp = self.xp
        starts = self._send(np.cumsum([0, *step.block_sizes[:-1]]))
        if xp is np and features[0].shape[0] * features[0].shape[1] <= AT_ONCE:
            features = self._logits(features)
        given, scores = self._choose([x[:, starts] for x in features], first_target, step.forced, step.banned, step.ends)
        if not step.drafts:
            return given, scores
        before, slot, target, missing = drafting_slots(step, given, self._send)
        behind = [x[self._send(np.arange(len(given)))[:, None], slot] for x in features]
        if step.source_gain is None:
            drafts, draft_scores = self._choose(behind, target, None, None, step.ends)
            drafts = xp.where(missing, self.chooser.pad, drafts)
        else:
            bounds = self._rules(step.ends)
            drafts, draft_scores = self.chooser.draft(
                xp, self._logits(behind), target, bounds, before, self.source, step.source_gain, missing, step.sure
            )
        return xp.concatenate([given, drafts], 1), xp.concatenate([scores, draft_scores], 1)

    def _choose(self, features: List[Tensor], target, forced, banned, ends: bool):
        """Tokens and log-probabilities of slots.

        Args:
            features: of each model, (B, n, D); or logits already, (B, n, V), numpy.
        """
        forced = None if forced is None else self._send(forced)
        banned = None if banned is None else tuple(map(self._send, banned))
        return self.chooser(self.xp, self._logits(features), target, self._rules(ends), forced, banned)

    def _rules(self, ends: bool):
        """The bounds, if a slot may be near one or the rows' random numbers are asked for."""
        return self.bounds if ends or self.chooser.sampling else None

    def _logits(self, features: List) -> List:
        """(B, n, D) of each model to (B, n, V), where the tokens are chosen; logits already stay as they are."""
        if isinstance(features[0], np.ndarray):
            return features
        logits = [decoder.output_layer(x).float() for decoder, x in zip(self.decoders, features)]
        return [x.numpy() for x in logits] if self.xp is np else logits

    def _sight(self, step: Pass, buckets) -> Sight:
        first, anchor = step.first, step.anchor
        if len(first) == 1 or ((first == first[0]).all() and (anchor == anchor[0]).all()):
            anchors = tuple(anchor[0].tolist()) if step.main else None
            return plain_sight(int(first[0]), step.cached, anchors, step.block_sizes, buckets, self.device)
        _, position, last = step.queries()
        key_position = visibility.main_position if step.main else visibility.slot_position
        blocks = step.block_sizes if step.main else ()
        return make_sight(position, last, first, step.cached, blocks, key_position, buckets, self.device)

    def keep(self, rows: np.ndarray) -> None:
        """As `passes.Session.keep`."""
        rows = self._send(rows)
        self.bounds = Bounds(*(x[rows] for x in self.bounds))
        self.source = self.source[rows]
        for cache in self.caches:
            cache.keep(torch.as_tensor(rows))

    def _send(self, x: np.ndarray):
        """An array of the loop's where the tokens are chosen."""
        return x if self.xp is np else send(x, self.device)
