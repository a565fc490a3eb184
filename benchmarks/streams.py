"""Time and memory of training the decoder in N streams: a forward and a backward pass against N.

    python benchmarks/streams.py
    python benchmarks/streams.py --streams 1 9 --batch 8 --targets 72 --runs 5

The decoder of a named architecture (default: base) on a pretraining batch: every span of 9 targets,
attention on a source of 512 pieces, the output layer at the slots that count. Memory is what the forward
pass keeps for the backward pass, each storage counted once, and on a GPU also the most that was
allocated, weights and gradients included. Encoder and optimizer do not depend on N; the last line adds
them up for the largest N.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from bang import visibility  # noqa: E402
from bang.network.config import ARCHITECTURES, with_defaults  # noqa: E402
from bang.network.decoder import BangDecoder  # noqa: E402
from bang.network.encoder import BangEncoder  # noqa: E402
from bang.plugin.dictionary import BertDictionary  # noqa: E402
from bang.plugin.loss import linear_nll  # noqa: E402

GIB = 2**30
SPAN = 9  # word pieces of a hidden span, one in every 64


def make_network(arch: str):
    """A new encoder and decoder with vocab.txt, one embedding for both."""
    sizes = with_defaults(arch, ARCHITECTURES[arch])
    cfg = OmegaConf.structured(sizes(max_source_positions=1024, max_target_positions=1024))
    dictionary = BertDictionary.load(REPOSITORY / "vocab.txt")
    embedding = torch.nn.Embedding(len(dictionary), cfg.decoder_embed_dim, dictionary.pad())
    torch.nn.init.normal_(embedding.weight, std=0.02)
    cfg.share_decoder_input_output_embed = True
    return BangEncoder(cfg, dictionary, embedding).train(), BangDecoder(cfg, dictionary, embedding).train()


def update(decoder: BangDecoder, batch: int, targets: int, source: int, ngram: int, device: str) -> None:
    """One forward and backward pass over `batch` blocks of `targets` hidden pieces, in `ngram` streams."""
    tokens = torch.randint(1000, 30000, (batch, targets), device=device)
    width = decoder.embed_tokens.embedding_dim
    encoder_out = {"encoder_out": [torch.randn(source, batch, width, device=device)], "encoder_padding_mask": []}
    index = torch.arange(targets, device=device)
    positions = (index // SPAN * 64 + index % SPAN + 1).expand(batch, -1)
    layout = visibility.streams(targets, ngram)
    slot_target = torch.as_tensor(layout.target, device=device)
    # stream i counts from index i of its span on, as in the criterion
    counts = (slot_target < targets) & (slot_target % SPAN >= torch.arange(ngram, device=device))
    index = counts.flatten().expand(batch, -1).flatten().nonzero().flatten()
    target = tokens[:, slot_target.clamp(max=targets - 1)].flatten()[index]
    features, _ = decoder.extract_features(tokens, encoder_out, None, layout=layout, positions=positions)
    ones = torch.ones(len(index), device=device)
    loss, _, _ = linear_nll(features.flatten(0, 1)[index], decoder.output_weight, target, ones, 0.0)
    loss.backward()
    decoder.zero_grad(set_to_none=False)


def kept_bytes(run) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def measure(run, runs: int, device: str):
    """Seconds (the median), kept bytes and, on a GPU, most bytes allocated, of an update."""
    kept, seconds, peak = kept_bytes(run), [], float("nan")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(runs):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return float(np.median(seconds)), kept, peak


def fit(streams, values) -> str:
    """The straight line through values over N, and how far a value lies off it at most."""
    slope, constant = np.polyfit(streams, values, 1)
    off = np.max(np.abs(np.polyval([slope, constant], streams) / values - 1))
    return f"{constant:.2f} + {slope:.2f} N, at most {100 * off:.0f} % off"


def whole_update(encoder, decoder, batch: int, source: int, kept: int, device: str) -> str:
    """Adds up the memory of training both sides; `kept` is the decoder's, in bytes."""
    tokens = torch.randint(1000, 30000, (batch, source), device=device)
    of_encoder = kept_bytes(lambda: encoder(tokens, src_lengths=torch.full((batch,), source, device=device)))
    weights = {id(weight): weight.numel() for side in (encoder, decoder) for weight in side.parameters()}
    states = 16 * sum(weights.values())  # float32: weight, gradient, two moments of Adam
    return (
        f"whole update: decoder {kept / GIB:.2f} + encoder {of_encoder / GIB:.2f} + weights, gradients and Adam "
        f"{states / GIB:.2f} = {(kept + of_encoder + states) / GIB:.2f} GiB, and temporaries"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 3, 6, 9], help="values of N")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="_base", help="suffix of the architecture")
    parser.add_argument("--batch", type=int, default=8, help="blocks")
    parser.add_argument("--targets", type=int, default=72, help="hidden pieces of a block")
    parser.add_argument("--source", type=int, default=512, help="pieces of a block")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, decoder = (side.to(device) for side in make_network(args.arch))
    rows = []
    print("streams   seconds   kept GiB   GPU peak GiB   scores of a layer and head")
    for ngram in args.streams:

        def run(ngram=ngram):
            update(decoder, args.batch, args.targets, args.source, ngram, device)

        seconds, kept, peak = measure(run, args.runs, device)
        rows.append((seconds, kept / GIB))
        scores = args.batch * (args.targets**2 * (1 + ngram) + ngram**2 * args.targets)
        print(f"{ngram:7}{seconds:10.2f}{kept / GIB:11.2f}{peak / GIB:15.2f}{scores:29,}", flush=True)
    if len(args.streams) > 2:
        for name, values in zip(("seconds", "kept GiB"), zip(*rows)):
            print(f"{name}: {fit(args.streams, np.array(values))}")
    print(whole_update(encoder, decoder, args.batch, args.source, kept, device))


if __name__ == "__main__":
    main()
