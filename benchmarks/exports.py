"""What an export writes against the model it comes from: texts that agree, and ROUGE-L of float32 and int8.

    python benchmarks/exports.py models/debian-synopsis/checkpoint.pt test.src test.tgt

SOURCES and REFERENCES are raw text, a line each. Every mode, AR by beam search and greedily; texts of at most
--max-len word pieces, sources cut to what the model takes. Prints a table; agreement is of word pieces.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

from bang.inference.api import Bang
from bang.deploy.export import export
from bang.inference.trained_model import read_model
from bang.text.evaluate import evaluate
from bang.text.files import read_lines
from bang.inference.torch_engine import TorchEngine
from systems import MODES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("sources")
    parser.add_argument("references")
    parser.add_argument("--sentences", type=int, help="the first ones (default: all)")
    parser.add_argument("--max-len", type=int, default=40, help="word pieces of a text (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="default: the libraries' choice")
    args = parser.parse_args()
    sources, references = (
        list(itertools.islice(read_lines(path), args.sentences)) for path in (args.sources, args.references)
    )
    model = read_model(args.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        systems = {"torch": Bang(TorchEngine(model, "cpu", threads=args.threads), model.dictionary.symbols)}
        for precision in ("float32", "int8"):
            export(model, Path(scratch, precision), precision)
            systems[precision] = Bang.load(Path(scratch, precision), threads=args.threads)
        print(f"{len(sources)} sentences\n")
        print("| mode | float32 as torch | int8 as torch | ROUGE-L, torch | float32 | int8 | int8 against float32 |")
        print("| --- " * 7 + "|")
        for name, way in MODES.items():
            found = {
                system: bang.generate(sources, max_len=args.max_len, truncate=True, details=True, **way)
                for system, bang in systems.items()
            }
            texts = {system: [generation.text for generation in of_system] for system, of_system in found.items()}
            scores = evaluate(texts, references, ["rouge"])["systems"]
            rouge = [scores[system]["ROUGE-L"] for system in systems]
            agree = [
                sum(a.pieces == b.pieces for a, b in zip(found["torch"], found[system])) for system in ("float32", "int8")
            ]
            cells = [name, *map(str, agree), *(f"{score:.2f}" for score in rouge), f"{rouge[2] - rouge[1]:+.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
