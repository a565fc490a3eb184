"""Is speculative decoding greedy AR, token for token? Over many sentences, batch sizes and draft lengths.

    python benchmarks/exactness.py CHECKPOINT valid.src test.src --batches 1 8 36 --drafts 1 2 3 4 5 6

The files hold raw source texts. Greedy AR is decoded token by token at the first batch size; whatever else is decoded
must give its tokens. Prints a row for each way and batch size, with tokens a pass, and ends with status 1 if any text differed.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bang.generation import loop  # noqa: E402
from bang.inference.trained_model import read_checkpoint  # noqa: E402
from bang.text.evaluate import read_texts  # noqa: E402
from bang.text.wordpieces import WordPieces  # noqa: E402
from fairseq.dataclass.configs import GenerationConfig  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--vocab", help="default: beside the checkpoint, or the published one")
    parser.add_argument("--batches", type=int, nargs="+", default=[36, 8, 1])
    parser.add_argument("--drafts", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], metavar="K")
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
    network.lay_out()
    pieces, longest = WordPieces(model.dictionary.symbols), model.sizes["max_source_positions"]
    texts = [text for path in args.sources for text in read_texts(path)[: args.sentences]]
    sources = [model.dictionary.encode_line(pieces(text), add_if_not_exist=False).long()[-longest:] for text in texts]
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))  # batches of like lengths

    def decode(way: loop.Way, size: int) -> tuple[dict, float, float]:
        """Texts by sentence, tokens a pass, and milliseconds a sentence of CPU time."""
        generator = model.task(decoding="speculative").build_generator([network], GenerationConfig(beam=1, max_len_b=args.max_len))
        generator.way, generator.statistics = way, None
        start, texts, passes = time.process_time(), {}, 0
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            tokens = torch.full((len(rows), len(sources[rows[-1]])), model.dictionary.pad())
            for row, index in enumerate(rows):
                tokens[row, -len(sources[index]) :] = sources[index]
            lengths = torch.tensor([len(sources[index]) for index in rows])
            found = generator.generate(None, {"net_input": {"src_tokens": tokens, "src_lengths": lengths}})
            for index, (text,) in zip(rows, found):
                texts[index] = text["tokens"].tolist()
                passes += len(set(text["passes"].tolist()))
        return texts, sum(map(len, texts.values())) / passes, 1000 * (time.process_time() - start) / len(order)

    print("| decoding | batch | texts | texts that differ | tokens a pass | CPU ms a sentence |")
    print("| --- | --- | --- | --- | --- | --- |")
    greedy, wrong = None, 0
    ways = [("greedy AR", loop.autoregressive())] + [(f"speculative, K = {k}", loop.speculative(k)) for k in args.drafts]
    for size in args.batches:
        for name, way in ways:
            texts, a_pass, spent = decode(way, size)
            greedy = greedy or texts
            differ = [index for index in texts if texts[index] != greedy[index]]
            wrong += len(differ)
            print(f"| {name} | {size} | {len(texts)} | {len(differ)} | {a_pass:.2f} | {spent:.1f} |", flush=True)
            if differ:
                print(f"sentences {differ[:9]}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
