"""Quality against time for every way of decoding, from one checkpoint, in one run.

    python benchmarks/frontier.py CHECKPOINT examples/debian                         # torch
    python benchmarks/frontier.py CHECKPOINT examples/debian --engine onnx-int8 --sentences 100 --threads 1
    python benchmarks/frontier.py CHECKPOINT examples/debian --systems "AR greedy" speculative

DATA holds raw texts, test.src and test.tgt. AR by beam search and greedily, speculative decoding (greedy AR's words), the
dial (blocks kept as far as the model is sure of them), semi-NAR and NAR, these two also with the model's link if it has
one, write texts of the same sentences through `Bang`.
ROUGE-L is told against milliseconds a sentence at batch 1 and against sentences a second at the best batch. In every round
all systems take turns, so that other work on the machine meets all alike; times are medians of the rounds. Writes
frontier.json, a table (frontier.md) and two pictures (frontier.png of times, frontier-passes.png) into --out.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from report import cpu_name, versions, write_results  # noqa: E402

from bang.errors import UserError, exit_on_mistakes  # noqa: E402
from bang.inference.api import Bang, Generation  # noqa: E402
from bang.safety.folder import EXPORT, MODEL, read_config  # noqa: E402
from bang.text.evaluate import evaluate, read_texts  # noqa: E402
from bang.text.files import replacing  # noqa: E402

DRAFTS = (1, 2, 3, 4, 5, 6)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BLOCKS = (2, 3, 4, 5, 6, 7, 8)
GREEDY, DIAL = "AR greedy", "dial"
LINKED = ("semi-NAR + link", "NAR + link")
FAMILIES = ("AR beam", GREEDY, "speculative", DIAL, "semi-NAR", "NAR", *LINKED)


class System(NamedTuple):
    """A way of decoding.

    Attributes:
        family: one of `FAMILIES`. label: which of the family, maybe empty. options: of `Bang.generate`.
    """

    family: str
    label: str
    options: dict

    @property
    def name(self) -> str:
        return f"{self.family} {self.label}".strip()


def systems(dial_block: int) -> list[System]:
    """Greedy AR is semi-NAR with blocks of 1: the loop that the others run too, quicker than fairseq's search."""
    return [
        System("AR beam", "4", dict(mode="ar", beam=4, len_penalty=1.2)),
        System(GREEDY, "", dict(mode="semi-nar", block_size=1, drop_repeats=False)),
        *(System("speculative", f"K={k}", dict(mode="speculative", draft_length=k)) for k in DRAFTS),
        *(System(DIAL, f"τ={t:g}", dict(mode="semi-nar", block_size=dial_block, commit_threshold=t)) for t in THRESHOLDS),
        *(System("semi-NAR", f"K={k}", dict(mode="semi-nar", block_size=k, link=False)) for k in BLOCKS),
        System("NAR", "", dict(mode="nar", link=False)),
        *(System(LINKED[0], f"K={k}", dict(mode="semi-nar", block_size=k)) for k in BLOCKS),
        System(LINKED[1], "", dict(mode="nar")),
        System(LINKED[1], "rescore 4", dict(mode="nar", rescore=4)),
    ]


def chosen_systems(bang: Bang, args: argparse.Namespace) -> list[System]:
    """Those of the families that are asked for and that the model can run."""
    found = [one for one in systems(args.dial_block) if one.family in args.systems and one.options["mode"] in bang.modes]
    return [one for one in found if one.family not in LINKED or bang.engine.link is not None and _can_choose(bang, one)]


def _can_choose(bang: Bang, system: System) -> bool:
    return not system.options.get("rescore") or "ar" in bang.modes


def measure(bang: Bang, chosen: list[System], sources: list[str], references: list[str], args: argparse.Namespace) -> list[dict]:
    """A row of results for each system."""
    written, alone, together = {}, defaultdict(list), defaultdict(lambda: defaultdict(list))

    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]

    def generate(system: System, texts: list[str], batch_tokens: int) -> tuple[list[Generation], float]:
        start = clock()
        found = bang.generate(
            texts, details=True, truncate=True, max_len=args.max_len, batch_tokens=batch_tokens, **system.options
        )
        return found, (clock() - start) / len(texts)

    few = spread(sources, args.timed)
    for turn in range(args.rounds):
        for system in chosen:
            generate(system, few[:1], 1)  # warm
            alone[system.name].append(generate(system, few, 1)[1])  # a batch takes one text at least
            for batch in args.batch_tokens:
                written[system.name], seconds = generate(system, sources, batch)
                together[system.name][batch].append(seconds)
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
    texts = {system.name: [generation.text for generation in written[system.name]] for system in chosen}
    quality = evaluate(texts, references, ["rouge"])["systems"]
    return [
        {
            "family": system.family, "label": system.label, "name": system.name,
            **{name: round(score, 2) for name, score in quality[system.name].items()},
            "milliseconds": 1000 * statistics.median(alone[system.name]),
            "milliseconds_of_rounds": [1000 * seconds for seconds in alone[system.name]],
            **_best(together[system.name]),
            **_passes(written[system.name], more=int("rescore" in system.options)),
        }
        for system in chosen
    ]  # fmt: skip


def _best(seconds: dict[int, list[float]]) -> dict:
    medians = {batch: statistics.median(of_rounds) for batch, of_rounds in seconds.items()}
    best = min(medians, key=medians.get)
    return {"sentences_per_second": 1 / medians[best], "batch_tokens": best,
            "sentences_per_second_of_rounds": [1 / one for one in seconds[best]]}  # fmt: skip


def _passes(written: list[Generation], more: int = 0) -> dict:
    """Passes and tokens, ends counted, of a sentence; a beam's passes are those of its best hypothesis.

    Args:
        more: passes that gave no token: that of AR which chooses among candidates.
    """
    passes = statistics.mean(len(set(generation.passes)) + more for generation in written)
    tokens = statistics.mean(len(generation.passes) for generation in written)
    return {"passes": passes, "tokens": tokens, "tokens_a_pass": tokens / passes}


def verdicts(rows: list[dict]) -> dict:
    """What the rows say of speculative decoding and the dial, against greedy AR."""
    found = {}
    greedy = next((row for row in rows if row["family"] == GREEDY), None)
    if greedy is None:
        return found
    drafting = [row for row in rows if row["family"] == "speculative"]
    if drafting:
        best = min(drafting, key=lambda row: row["milliseconds"])
        found["speculative"] = {
            "best": best["label"], "times_greedy_at_batch_1": greedy["milliseconds"] / best["milliseconds"],
            "tokens_a_pass": best["tokens_a_pass"],
        }  # fmt: skip
    cheap = [row for row in rows if row["family"] == DIAL and row["passes"] <= greedy["passes"] / 2]
    if any(row["family"] == DIAL for row in rows):
        best = max(cheap, key=lambda row: row["ROUGE-L"], default=None)
        found["dial"] = {
            "wanted": greedy["ROUGE-L"] - 1, "within_passes": greedy["passes"] / 2,
            "best": best and best["label"], "found": best and best["ROUGE-L"],
            "reached": best is not None and best["ROUGE-L"] >= greedy["ROUGE-L"] - 1,
        }  # fmt: skip
    return found


def table(report: dict) -> str:
    lines = ["| decoding | ROUGE-L | ms a sentence, batch 1 | sentences/s, best batch | passes | tokens a pass |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in report["rows"]:
        lines.append(
            f"| {row['name']} | {row['ROUGE-L']:.2f} | {row['milliseconds']:.1f} | {row['sentences_per_second']:.1f} "
            f"| {row['passes']:.2f} | {row['tokens_a_pass']:.2f} |"
        )
    lines.append("")
    if drafting := report["verdicts"].get("speculative"):
        lines.append(
            f"Speculative decoding is at best ({drafting['best']}) {drafting['times_greedy_at_batch_1']:.2f} times as fast as "
            f"greedy AR at batch 1, with {drafting['tokens_a_pass']:.2f} tokens a pass."
        )
    if dial := report["verdicts"].get("dial"):
        wanted = f"greedy AR's ROUGE-L less 1 ({dial['wanted']:.2f}) in half of its passes ({dial['within_passes']:.2f})"
        best = f"its best there is {dial['found']:.2f}, at {dial['best']}" if dial["best"] else "no threshold is as quick"
        lines.append(f"The dial {'reaches' if dial['reached'] else 'does not reach'} {wanted}: {best}.")
    settings = report["settings"]
    lines.append(
        f"{settings['sentences']} sentences, {settings['timed']} of them one by one; {settings['engine']}, {settings['threads']} "
        f"threads, {settings['rounds']} rounds; {report['machine']}."
    )
    return "\n".join(lines) + "\n"


TIMES = {
    "milliseconds": "ms a sentence at batch 1 (quicker to the left)",
    "sentences_per_second": "sentences a second at the best batch (quicker to the right)",
}
PASSES = {"passes": "passes a sentence, whatever the machine (fewer to the left)"}
"""Labels of pictures' panels, by the number of a row that they show against its ROUGE-L."""


def draw(report: dict, path: Path, panels: dict[str, str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, drawn = pyplot.subplots(
        1, len(panels), figsize=(7 * len(panels), 6.5), sharey=True, squeeze=False, layout="constrained"
    )
    marks = dict(zip(FAMILIES, "*DosP^Xv"))
    for axes, (key, label) in zip(drawn[0], panels.items()):
        for family in FAMILIES:
            rows = [row for row in report["rows"] if row["family"] == family]
            if not rows:
                continue
            x, y = [row[key] for row in rows], [row["ROUGE-L"] for row in rows]
            style = dict(marker=marks[family], color=f"C{FAMILIES.index(family)}", markersize=9 if len(rows) == 1 else 6)
            axes.plot(x, y, linewidth=1, label=family, **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.margins(0.08, 0.12)
    drawn[0, 0].set_ylabel("ROUGE-L")
    drawn[0, 0].legend()
    settings = report["settings"]
    title = [Path(settings["model"]).name, f"{settings['sentences']} sentences"]
    if panels is TIMES:
        title += [settings["engine"], f"{settings['threads']} threads"]
    figure.suptitle(", ".join(title))
    figure.draw_without_rendering()  # settles what is where
    for axes, key in zip(drawn[0], panels):
        _label(axes, key, report["rows"])
    with replacing(path) as file:
        figure.savefig(file, dpi=130, format="png")
    pyplot.close(figure)


def _label(axes, key: str, rows: list[dict]) -> None:
    """Writes the labels of points beside them, the ends of each family first, as long as there is room."""
    taken = [axes.transData.transform((row[key], row["ROUGE-L"])) for row in rows]
    labelled = [row for row in rows if row["label"]]
    families = [[row for row in labelled if row["family"] == family] for family in FAMILIES]
    ends = [row for of in families for row in of[:1] + of[1:][-1:]]
    for row in [*ends, *(row for row in labelled if row not in ends)]:
        point = row[key], row["ROUGE-L"]
        for offset in ((0, 9), (0, -10), (19, 0), (-19, 0)):  # points, of which an inch has 72
            place = axes.transData.transform(point) + [part * axes.figure.dpi / 72 for part in offset]
            if all(abs(place - other)[0] > 32 or abs(place - other)[1] > 11 for other in taken):
                axes.annotate(row["label"], point, offset, textcoords="offset points", fontsize=7.5, ha="center", va="center")
                taken.append(place)
                break


def load(model: str, vocab: str | None, engine: str, threads: int, folder: str) -> Bang:
    """Loads the model for an engine, and exports it into `folder` if the engine is onnxruntime and it is no export yet.

    Raises:
        FileNotFoundError, ValueError: one line.
    """
    config = read_config(model, MODEL, EXPORT) if Path(model).is_dir() else {"format": MODEL}
    if config["format"] == EXPORT:
        if engine != f"onnx-{config['precision']}":
            raise UserError(f"{model}: an export in {config['precision']}; give --engine onnx-{config['precision']}")
    elif engine != "torch":
        from bang.deploy.export import export
        from bang.inference.trained_model import read_model

        export(read_model(model, vocab), folder, engine.removeprefix("onnx-"))
        model, vocab = folder, None
    return Bang.load(model, vocab=vocab, device=None if engine == "torch" else "cpu", threads=threads)


def parts(data: Path, count: int | None) -> Iterator[list[str]]:
    """Sources and references of the test part, `count` of them from all over it."""
    found = [read_texts(data / f"test.{side}") for side in ("src", "tgt")]
    if len(found[0]) != len(found[1]):
        raise UserError(f"{data}: test.src has {len(found[0])} lines, test.tgt {len(found[1])}")
    return (spread(part, count or len(part)) for part in found)


def spread(texts: list[str], count: int) -> list[str]:
    """So many of the texts at most, from all over."""
    count = min(count, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="CHECKPOINT", help="checkpoint, or folder of bang pack; of bang export for onnx")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with test.src and test.tgt, raw texts")
    parser.add_argument("--vocab", metavar="FILE", help="the checkpoint's; default: beside it, or the published one")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--engine", default="torch", choices=["torch", "onnx-float32", "onnx-int8"])
    parser.add_argument("--sentences", type=int, metavar="N", help="of the test part (default: all)")
    parser.add_argument("--timed", type=int, default=40, metavar="N", help="of them, one by one (default: %(default)s)")
    parser.add_argument(
        "--batch-tokens",
        type=int,
        nargs="+",
        default=[512, 2048, 8192],
        metavar="N",
        help="batches to try, in source tokens (default: 512 2048 8192)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="cpu: time that the process computes; with 1 thread a busy machine disturbs it less",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--max-len", type=int, default=40, help="longest text, in word pieces (default: %(default)s)")
    parser.add_argument("--dial-block", type=int, default=5, metavar="K", help="largest block of the dial (default: %(default)s)")
    parser.add_argument("--systems", nargs="+", default=FAMILIES, choices=FAMILIES, metavar="FAMILY",
                        help="of " + ", ".join(FAMILIES) + " (default: all)")  # fmt: skip
    args = parser.parse_args()
    for name in ("sentences", "timed", "rounds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: give 1 or more")
    logging.disable(logging.INFO)  # of the libraries
    with exit_on_mistakes(parser.prog):
        sources, references = parts(args.data, args.sentences)
        with tempfile.TemporaryDirectory() as scratch:
            bang = load(args.model, args.vocab, args.engine, args.threads, str(Path(scratch, "exported")))
            rows = measure(bang, chosen_systems(bang, args), sources, references, args)
    settings = {
        **{name: value for name, value in vars(args).items() if name not in ("out", "data", "vocab")},
        "sentences": len(sources),
    }
    settings["timed"] = min(args.timed, len(sources))
    report = {
        "settings": settings, "machine": f"{cpu_name()}, {os.cpu_count()} cores", "load": os.getloadavg(),
        "versions": versions("torch", "onnxruntime", "onnxruntime-gpu", "numpy"), "rows": rows, "verdicts": verdicts(rows),
    }  # fmt: skip
    write_results(args.out, "frontier", report, table(report))
    draw(report, args.out / "frontier.png", TIMES)
    draw(report, args.out / "frontier-passes.png", PASSES)


if __name__ == "__main__":
    main()
