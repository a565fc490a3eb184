"""Is speculative decoding greedy AR, token for token? Over many sentences, batch sizes and draft lengths.

    python benchmarks/exactness.py CHECKPOINT valid.src test.src
    python benchmarks/exactness.py CHECKPOINT valid.src --sentences 500 --batches 36 --drafts 4 --from-source 0 4 \\
        --texts greedy.txt

The files hold raw source texts, cut as --truncate-source cuts them. Greedy AR is what `--decoding ar --beam 1` decodes,
token by token, once, at the first batch size; whatever else is decoded must give its tokens, and its scores to 1e-4. Prints
a row for each way and batch size, with tokens a pass and the largest difference of a score, and ends with status 1 if any
text or score differed. The encoder, which all ways share, runs once a batch and does not count as time.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fairseq.dataclass.configs import GenerationConfig  # noqa: E402

from bang import modes  # noqa: E402
from bang.inference.trained_model import read_checkpoint  # noqa: E402
from bang.options import SOURCE_GAIN  # noqa: E402
from bang.text.cleanup import to_text  # noqa: E402
from bang.text.evaluate import read_texts  # noqa: E402
from bang.text.files import replacing  # noqa: E402
from bang.text.wordpieces import WordPieces  # noqa: E402


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--vocab", help="default: beside the checkpoint, or the published one")
    parser.add_argument("--batches", type=int, nargs="+", default=[36, 8, 1])
    parser.add_argument("--drafts", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], metavar="K")
    parser.add_argument("--from-source", type=float, nargs="+", default=[SOURCE_GAIN], metavar="G",
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
    pieces, longest = WordPieces(model.dictionary.symbols, model.dictionary.normalization), model.sizes["max_source_positions"]
    texts = [text for path in args.sources for text in read_texts(path)[: args.sentences]]
    encoded = [model.dictionary.encode_line(pieces(text), add_if_not_exist=False).long() for text in texts]
    sources = [torch.cat([tokens[:-1][: longest - 1], tokens[-1:]]) for tokens in encoded]  # eos stays
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))  # batches of like lengths

    generation = GenerationConfig(beam=1, max_len_b=args.max_len)
    generator = model.task(decoding="speculative").build_generator([network], generation)
    generator.statistics = None
    autoregressive = model.task(decoding="ar").build_generator([network], generation)
    greedy, systems = "greedy AR", {
        f"speculative, K = {k}" + f", G = {gain:g}" * (len(args.from_source) > 1): modes.strategy(
            "speculative", draft_length=k, draft_from_source=gain
        )
        for k in args.drafts
        for gain in args.from_source
    }  # fmt: skip
    wanted, wrong = {}, 0
    print("| decoding | batch | texts | texts that differ | scores differ by | tokens a pass | CPU ms a sentence |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for size in args.batches:
        found, passes, seconds = defaultdict(dict), Counter(), Counter()
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            batch = collate([sources[index] for index in rows], model.dictionary.pad())
            encoding = network.encoder.forward(**batch)
            with mock.patch.object(network.encoder, "forward", lambda *_, encoding=encoding, **__: encoding):
                for name in [*([] if wanted else [greedy]), *systems]:
                    start = time.process_time()
                    if name == greedy:
                        texts = autoregressive.generate([network], {"net_input": batch, "id": torch.tensor(rows)})
                    else:
                        generator.strategy = systems[name]
                        texts = generator.generate(None, {"net_input": batch})
                    seconds[name] += time.process_time() - start
                    for index, (text, *_) in zip(rows, texts):
                        found[name][index] = text["tokens"].tolist(), text["positional_scores"]
                        passes[name] += len(set(text["passes"].tolist())) if "passes" in text else len(text["tokens"])
        wanted = wanted or found[greedy]
        for name, texts in found.items():
            differ = [index for index in sorted(texts) if texts[index][0] != wanted[index][0]]
            by = max(
                (float((scores - wanted[i][1]).abs().max()) for i, (tokens, scores) in texts.items() if i not in differ),
                default=0.0,
            )
            wrong += len(differ) + (by > 1e-4)
            a_pass = sum(len(tokens) for tokens, _ in texts.values()) / passes[name]
            spent = 1000 * seconds[name] / len(order)
            print(f"| {name} | {size} | {len(texts)} | {len(differ)} | {by:.1e} | {a_pass:.2f} | {spent:.1f} |", flush=True)
            if differ:
                print(f"sentences {differ[:9]}", file=sys.stderr)
    if args.texts:
        with replacing(args.texts) as file:
            for index in range(len(sources)):
                line = " ".join(model.dictionary.symbols[token] for token in wanted[index][0][:-1])
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
