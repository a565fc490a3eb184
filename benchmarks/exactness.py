"""Is speculative decoding greedy AR, token for token? Over many sentences, batch sizes and draft lengths.

    python benchmarks/exactness.py CHECKPOINT valid.src test.src
    python benchmarks/exactness.py CHECKPOINT valid.src --sentences 500 --batches 36 --drafts 4 --from-source 0 4 --texts greedy.txt

The files hold raw source texts. Greedy AR is decoded token by token, once, at the first batch size; whatever else is
decoded must give its tokens. Prints a row for each way and batch size, with tokens a pass, and ends with status 1 if any
text differed. The encoder, which all ways share, runs once a batch and does not count as time.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bang.generation import loop  # noqa: E402
from bang.inference.trained_model import read_checkpoint  # noqa: E402
from bang.text.cleanup import to_text  # noqa: E402
from bang.text.evaluate import read_texts  # noqa: E402
from bang.text.files import replacing  # noqa: E402
from bang.text.wordpieces import WordPieces  # noqa: E402
from fairseq.dataclass.configs import GenerationConfig  # noqa: E402


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--vocab", help="default: beside the checkpoint, or the published one")
    parser.add_argument("--batches", type=int, nargs="+", default=[36, 8, 1])
    parser.add_argument("--drafts", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], metavar="K")
    parser.add_argument("--from-source", type=float, nargs="+", default=[loop.SOURCE_GAIN], metavar="G",
                        help="values of --draft-from-source (default: its own)")  # fmt: skip
    parser.add_argument("--texts", metavar="FILE", help="to write greedy AR's texts to, for bang evaluate")
    parser.add_argument("--sentences", type=int, help="of each file (default: all)")
    parser.add_argument("--max-len", type=int, default=40)
    parser.add_argument("--random-weights", action="store_true", help="drafts are worthless, the texts the same")
    args = parser.parse_args()
    model = read_checkpoint(args.checkpoint, args.vocab)
    network = model.build()
    if args.random_weights:
        torch.manual_seed(1)
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.data.normal_(std=0.08)
    network.eval()
    network.lay_out()
    pieces, longest = WordPieces(model.dictionary.symbols), model.sizes["max_source_positions"]
    texts = [text for path in args.sources for text in read_texts(path)[: args.sentences]]
    sources = [model.dictionary.encode_line(pieces(text), add_if_not_exist=False).long()[-longest:] for text in texts]
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))  # batches of like lengths

    generator = model.task(decoding="speculative").build_generator([network], GenerationConfig(beam=1, max_len_b=args.max_len))
    generator.statistics = None
    greedy, ways = "greedy AR", {
        f"speculative, K = {k}" + f", G = {gain:g}" * (len(args.from_source) > 1): loop.speculative(k, gain)
        for k in args.drafts
        for gain in args.from_source
    }  # fmt: skip
    wanted, wrong = {}, 0
    print("| decoding | batch | texts | texts that differ | tokens a pass | CPU ms a sentence |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in args.batches:
        found, passes, seconds = defaultdict(dict), Counter(), Counter()
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            batch = collate([sources[index] for index in rows], model.dictionary.pad())
            encoded = network.encoder.forward(**batch)
            with mock.patch.object(network.encoder, "forward", lambda *_, **__: encoded):
                for name, way in {**({} if wanted else {greedy: loop.autoregressive()}), **ways}.items():
                    generator.way, start = way, time.process_time()
                    for index, (text,) in zip(rows, generator.generate(None, {"net_input": batch})):
                        found[name][index] = text["tokens"].tolist()
                        passes[name] += len(set(text["passes"].tolist()))
                    seconds[name] += time.process_time() - start
        wanted = wanted or found[greedy]
        for name, texts in found.items():
            differ = [index for index in sorted(texts) if texts[index] != wanted[index]]
            wrong += len(differ)
            a_pass, spent = sum(map(len, texts.values())) / passes[name], 1000 * seconds[name] / len(order)
            print(f"| {name} | {size} | {len(texts)} | {len(differ)} | {a_pass:.2f} | {spent:.1f} |", flush=True)
            if differ:
                print(f"sentences {differ[:9]}", file=sys.stderr)
    if args.texts:
        with replacing(args.texts) as file:
            for index in range(len(sources)):
                line = " ".join(model.dictionary.symbols[token] for token in wanted[index][:-1])
                file.write((to_text(line, keep_repeats=True) + "\n").encode())
    sys.exit(1 if wrong else 0)


def collate(sources: list[torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    """What the encoder takes: sources padded on the left, and their lengths."""
    lengths = torch.tensor([len(source) for source in sources])
    tokens = torch.full((len(sources), int(lengths.max())), pad)
    for row, source in zip(tokens, sources):
        row[-len(source) :] = source
    return {"src_tokens": tokens, "src_lengths": lengths}


if __name__ == "__main__":
    main()
