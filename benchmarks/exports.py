"""What an export writes against the model it comes from: texts that agree, and ROUGE-L of float32 and int8.

    python benchmarks/exports.py models/debian-synopsis/checkpoint.pt DATA

DATA holds raw texts, test.src and test.tgt. Every mode, AR by beam search and greedily, and with the model's link if it
has one; texts of at most --max-len word pieces, sources cut to what the model takes; agreement is of word pieces. The
model is exported anew. Writes exports.json and a table, exports.md, into --out.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from frontier import parts  # noqa: E402
from report import cpu_name, versions, write_results  # noqa: E402
from systems import LINKED, MODES  # noqa: E402

from bang import Bang  # noqa: E402
from bang.errors import exit_on_mistakes  # noqa: E402
from bang.text.evaluate import evaluate  # noqa: E402

MOST_LOST = 0.3
"""ROUGE-L that int8 may lose against float32, the target."""


def compare(systems: dict[str, Bang], sources: list[str], references: list[str], max_len: int) -> list[dict]:
    """A row for each mode of the model: texts that agree with torch's, and each system's ROUGE-L."""
    rows = []
    for name, way in MODES.items():
        torch = systems["torch"]
        if way["mode"] not in torch.modes or name in LINKED and torch.engine.link is None:
            continue
        found = {system: bang.generate(sources, max_len=max_len, truncate=True, details=True, **way)
                 for system, bang in systems.items()}  # fmt: skip
        scores = evaluate({system: [one.text for one in texts] for system, texts in found.items()}, references, ["rouge"])
        agree = {system: sum(a.pieces == b.pieces for a, b in zip(found["torch"], texts)) for system, texts in found.items()}
        rouge = {system: scores["systems"][system]["ROUGE-L"] for system in systems}
        rows.append({"mode": name, "agree": agree, "ROUGE-L": rouge})
        print(f"{name}: {agree} as torch's, ROUGE-L {rouge}", file=sys.stderr)
    return rows


def table(report: dict) -> str:
    """Markdown, and whether the targets are reached."""
    lines = [
        "| mode | float32 as torch | int8 as torch | ROUGE-L, torch | float32 | int8 | int8 against float32 |",
        "| --- " * 7 + "|",
    ]
    for row in report["rows"]:
        rouge, agree = row["ROUGE-L"], row["agree"]
        scores = " | ".join(f"{score:.2f}" for score in rouge.values())
        lines.append(
            f"| {row['mode']} | {agree['float32']} | {agree['int8']} | {scores} | {rouge['int8'] - rouge['float32']:+.2f} |"
        )
    differ = {row["mode"]: report["sentences"] - row["agree"]["float32"] for row in report["rows"]}
    same = not any(differ.values())
    lost, mode = max((round(row["ROUGE-L"]["float32"] - row["ROUGE-L"]["int8"], 2), row["mode"]) for row in report["rows"])
    told = "every text is torch's" if same else "not torch's: " + ", ".join(f"{n} of {m}" for m, n in differ.items() if n)
    lines += [
        "",
        f"{report['sentences']} sentences. float32, every text as torch's: {'reached' if same else 'missed'} ({told}).",
        f"int8, ROUGE-L at most {MOST_LOST} lower in every mode: {'reached' if lost <= MOST_LOST else 'missed'} "
        f"({mode} changes most for the worse, by {-lost:+.2f}).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of fairseq-train, or a folder of bang pack")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--vocab", metavar="FILE", help="the checkpoint's; default: beside it, or the published one")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--sentences", type=int, metavar="N", help="of the test part, from all over (default: all)")
    parser.add_argument("--max-len", type=int, default=40, help="word pieces of a text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if args.sentences is not None and args.sentences < 1:
        parser.error(f"--sentences {args.sentences}: give 1 or more")
    logging.disable(logging.INFO)  # of the libraries
    from bang.deploy.export import export
    from bang.inference.torch_engine import TorchEngine
    from bang.inference.trained_model import read_model

    with exit_on_mistakes(parser.prog):
        sources, references = parts(args.data, args.sentences)
        model = read_model(args.checkpoint, args.vocab)
        with tempfile.TemporaryDirectory() as scratch:
            systems = {"torch": Bang(TorchEngine(model, "cpu", threads=args.threads), model.dictionary.symbols)}
            for precision in ("float32", "int8"):
                export(model, Path(scratch, precision), precision)
                systems[precision] = Bang.load(Path(scratch, precision), threads=args.threads)
            rows = compare(systems, sources, references, args.max_len)
    report = {
        "checkpoint": args.checkpoint, "updates": model.updates, "sentences": len(sources), "max_len": args.max_len,
        "machine": f"{cpu_name()}, {os.cpu_count()} cores", "rows": rows,
        "versions": versions("torch", "onnxruntime", "onnxruntime-gpu", "numpy"),
    }  # fmt: skip
    write_results(args.out, "exports", report, table(report))


if __name__ == "__main__":
    main()
