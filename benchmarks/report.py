"""What benchmarks make of their measurements: files; of `speed.py` ratios, targets reached and missed, a table, a picture."""

import json
import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from bang.text.files import replacing, write_whole

PAIRS = [(f"onnx-{precision}", mode, f"ctranslate2-{precision}", "ar greedy")
         for precision in ("int8", "float32") for mode in ("nar", "nar link", "ar greedy", "speculative 4")]  # fmt: skip
PAIRS += [("torch-float32", "nar", "plain", "nar"), ("torch-float32", "nar", "ctranslate2-float32", "ar greedy"),
          ("torch-float32", "ar greedy", "fairseq", "ar greedy")]  # fmt: skip
PAIRS += [(system, f"{mode} link", system, mode) for system in ("onnx-int8", "onnx-float32", "torch-float32")
          for mode in ("nar", "semi-nar 4")]  # fmt: skip
"""Our system and mode, and those that they are to be compared with."""


class Target(NamedTuple):
    """How many times as fast as another system one of ours is to be, on `base` sizes.

    Attributes:
        ours, other: as `ratios` names them.
        batch: sentences, or "best".
        length: tokens of a text; None: any. source_length: of joined sources; None: as they are.
        least: times as fast.
    """

    ours: str
    other: str
    batch: int | str
    length: int | None
    source_length: int | None
    least: float


_INT8, _FLOAT32 = "ctranslate2-int8 ar greedy", "ctranslate2-float32 ar greedy"
TARGETS = (
    Target("onnx-int8 nar", _INT8, 1, 12, None, 6),
    Target("onnx-int8 nar", _INT8, "best", 12, None, 1.8),
    Target("onnx-int8 nar", _INT8, 1, 32, None, 12),
    Target("onnx-int8 nar", _INT8, "best", 32, None, 3),
    Target("onnx-float32 nar", _FLOAT32, 1, 12, None, 6),
    Target("onnx-float32 nar", _FLOAT32, "best", 12, None, 1.4),
    Target("onnx-int8 nar link", _INT8, 1, 12, None, 6),
    *(
        Target(f"{system} nar link", f"{system} nar", batch, 12, None, 1 / (1 + share))  # what a link may add to NAR's time
        for system in ("onnx-int8", "onnx-float32")
        for batch, share in ((1, 0.1), (36, 0.15))
    ),
    Target("onnx-int8 ar greedy", _INT8, 1, None, None, 0.8),  # 1.25 times its time
    Target("onnx-float32 ar greedy", _FLOAT32, 1, None, None, 0.8),
    Target("torch-float32 nar", "plain nar", 36, 12, None, 2.2),
    Target("torch-float32 nar", _FLOAT32, 36, 12, None, 1),
    Target("torch-float32 nar", "plain nar", 1, 32, 512, 5),
    Target("torch-float32 nar", "plain nar", "best", 32, 512, 5),
)

GPU_MILLISECONDS, GPU_SPEED = 1.5, 6000
"""NAR with sources of 512 on an H100, the best half-precision system: a sentence at batch 1, and sentences a second."""


def cpu_name() -> str:
    """The processor's name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def write_results(folder: Path, name: str, report: dict, table: str) -> None:
    """Writes a report and its table in Markdown into a folder, and prints the table."""
    folder.mkdir(exist_ok=True, parents=True)
    write_whole(folder / f"{name}.json", json.dumps(report, indent=2) + "\n")
    write_whole(folder / f"{name}.md", table)
    print(table, end="")


def versions(*distributions: str) -> dict[str, str]:
    """{distribution: version} of those that are installed: no system needs them all, and some have a twin for GPUs."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def ratios(rows: list[dict]) -> list[dict]:
    """Ours against another system, by the clock and by CPU time: at each batch size, and each at its best."""
    of = {}
    for row in rows:
        of.setdefault((row["system"], row["mode"]), {})[row["batch"]] = row
    found = []
    for *ours, other, other_mode in PAIRS:
        a, b = of.get(tuple(ours)), of.get((other, other_mode))
        if not a or not b:
            continue
        speed, cpu = ({size: (a[size][key], b[size][key]) for size in a} for key in
                      ("sentences_per_second", "cpu_milliseconds_per_sentence"))  # fmt: skip
        speed["best"] = tuple(map(max, zip(*speed.values())))
        cpu["best"] = tuple(map(min, zip(*cpu.values())))
        found += [
            {"ours": " ".join(ours), "other": f"{other} {other_mode}", "batch": size,
             "times_as_fast": speed[size][0] / speed[size][1], "by_cpu_time": cpu[size][1] / cpu[size][0]}
            for size in speed
        ]  # fmt: skip
    return found


def verdicts(report: dict) -> list[dict]:
    """The targets that this run measured: what was to be reached, what was, by the clock and by CPU time."""
    settings = report["settings"]
    if not settings["arch"].endswith("_base"):
        return []
    if settings["device"] != "cpu":
        return _on_gpu(report["rows"]) if settings["source_length"] == 512 else []
    found = {(ratio["ours"], ratio["other"], ratio["batch"]): ratio for ratio in report["ratios"]}
    verdicts = []
    for target in TARGETS:
        ratio = found.get(target[:3])
        same_texts = target.length in (None, settings["length"]) and target.source_length == settings["source_length"]
        if ratio is None or not same_texts:
            continue
        verdicts.append({
            "target": f"{target.ours} against {target.other}, batch {target.batch}", "least": target.least,
            "found": ratio["times_as_fast"], "by_cpu_time": ratio["by_cpu_time"],
            "reached": ratio["times_as_fast"] >= target.least,
        })  # fmt: skip
    return verdicts


def _on_gpu(rows: list[dict]) -> list[dict]:
    half = [row for row in rows if row["mode"] == "nar" and row["system"].endswith("float16")]  # bfloat16 too
    alone = [row["sentences_per_second"] for row in half if row["batch"] == 1]
    cases = (
        ("batch 1", alone, 1000 / GPU_MILLISECONDS),
        ("best batch", [row["sentences_per_second"] for row in half], GPU_SPEED),
    )
    return [
        {"target": f"NAR in half precision, {name}, sentences a second", "least": least, "found": max(speeds),
         "by_cpu_time": None, "reached": max(speeds) >= least}
        for name, speeds, least in cases if speeds
    ]  # fmt: skip


def table(report: dict) -> str:
    """Markdown."""
    rows, batches = report["rows"], report["settings"]["batches"]
    of = {(row["system"], row["mode"], row["batch"]): row for row in rows}
    has_gpu = any(row["gpu_memory_gib"] is not None for row in rows)  # torch's systems alone can tell
    head = ["sentences a second", "mode", *(f"batch {size}" for size in batches), "CPU ms a sentence", "passes", "GiB",
            *["GPU GiB"] * has_gpu]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, mode in dict.fromkeys((row["system"], row["mode"]) for row in rows):
        cases = [of[name, mode, size] for size in batches]
        cells = [f"{x['sentences_per_second']:.1f} ({x['lowest']:.1f}–{x['highest']:.1f})" for x in cases]
        cells.append(" / ".join(f"{x['cpu_milliseconds_per_sentence']:.1f}" for x in cases))
        cells += [f"{cases[0]['passes']:.3g}", f"{cases[0]['peak_memory_gib']:.1f}"]
        on_gpu = cases[0]["gpu_memory_gib"]
        cells += ["" if on_gpu is None else f"{on_gpu:.1f}"] * has_gpu
        lines.append(f"| {name} | {mode} | " + " | ".join(cells) + " |")
    lines += ["", "| | against | batch | times as fast | by CPU time |", "| --- " * 5 + "|"]
    lines += [f"| {x['ours']} | {x['other']} | {x['batch']} | {x['times_as_fast']:.2f} | {x['by_cpu_time']:.2f} |"
              for x in report["ratios"]]  # fmt: skip
    if report["targets"]:
        lines += ["", "| target | times as fast | by the clock | by CPU time | |", "| --- " * 5 + "|"]
    for x in report["targets"]:
        cpu = "" if x["by_cpu_time"] is None else f"{x['by_cpu_time']:.2f}"
        lines.append(
            f"| {x['target']} | {x['least']:.4g} | {x['found']:.4g} | {cpu} | {'reached' if x['reached'] else 'missed'} |"
        )
    return "\n".join(lines) + "\n"


def draw(report: dict, path: Path) -> None:
    """A bar for each system, mode and batch size."""
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq lets every library's debug messages through
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, batches = report["rows"], report["settings"]["batches"]
    names = list(dict.fromkeys((row["system"], row["mode"]) for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.27 * len(names) * max(1, len(batches) ** 0.5)), layout="constrained")
    height = 0.8 / len(batches)
    for index, size in enumerate(batches):
        of = {(row["system"], row["mode"]): row for row in rows if row["batch"] == size}
        values = [of[name]["sentences_per_second"] for name in names]
        spread = [[value - of[name]["lowest"] for name, value in zip(names, values)],
                  [of[name]["highest"] - value for name, value in zip(names, values)]]  # fmt: skip
        places = [place + index * height for place in range(len(names))]
        axes.barh(places, values, height, xerr=spread, label=f"batch {size}", error_kw={"elinewidth": 0.7})
    axes.set_yticks(
        [place + height * (len(batches) - 1) / 2 for place in range(len(names))], [" · ".join(name) for name in names]
    )
    axes.invert_yaxis()
    axes.set_xlabel("sentences a second (median and range of the rounds)")
    settings = report["settings"]
    source = f"of {settings['source_length']}" if settings["source_length"] else "as they are"
    axes.set_title(f"{settings['arch']}, texts of {settings['length']} tokens, sources {source}, {settings['threads']} threads")
    axes.legend()
    with replacing(path) as file:
        figure.savefig(file, dpi=130, format="png")
