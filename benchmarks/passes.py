"""CPU time of a sentence and tokens a pass, one sentence at a time: greedy AR and speculative decoding.

    python benchmarks/passes.py CHECKPOINT PIECES [--vocab dict.src.txt] [--sentences 40] [--threads 1]

PIECES holds source sentences in word pieces. CPU time of the process is told, which other work on the
machine disturbs less than time by the clock; with --threads 1 the two are the same on an idle machine.
"""

import argparse
import time

import torch
from bang.generation import loop
from bang.pack import read_checkpoint
from fairseq.dataclass.configs import GenerationConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("pieces")
    parser.add_argument("--vocab", help="default: beside the checkpoint, or the published one")
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = read_checkpoint(args.checkpoint, args.vocab)
    network = model.build().eval()
    with open(args.pieces, encoding="utf-8") as lines:
        sources = [model.dictionary.encode_line(line, add_if_not_exist=False).long() for _, line in zip(range(args.sentences), lines)]
    batches = [{"net_input": {"src_tokens": ids[None], "src_lengths": torch.tensor([len(ids)])}} for ids in sources]

    def measure(name, way, decoding="speculative"):
        generator = model.task(decoding=decoding).build_generator([network], GenerationConfig(beam=1))
        if way is not None:
            generator.way = way
        generator.generate(None, batches[0])
        start, texts = time.process_time(), []
        for batch in batches:
            texts.append(generator.generate(None, batch)[0][0]["tokens"].tolist())
        seconds = time.process_time() - start
        a_pass = generator.statistics.summary()["tokens_a_pass"] if way is not None else 1.0
        print(f"| {name} | {1000 * seconds / len(batches):.1f} | {a_pass:.2f} |", flush=True)
        return texts

    print("| decoding | ms a sentence | tokens a pass |\n| --- | --- | --- |")
    greedy = measure("AR, fairseq's search, beam 1", None, "ar")
    measure("AR, the loop", loop.autoregressive())
    for draft_length in (1, 2, 4):
        for worth in (0, 0.1, 0.2):
            texts = measure(f"speculative, K = {draft_length}, worth {worth}", loop.speculative(draft_length, worth))
            assert texts == greedy, "not AR's words"


if __name__ == "__main__":
    main()
