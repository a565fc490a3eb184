"""Does pretraining help, and how many streams should it have? The paper's comparison at a size that a CPU can run.

A small model, new or with a public BERT's weights, is pretrained on running text with --ngram 9 and with --ngram 1; these and the
model as it was are fine-tuned on pairs in each mode (nar, ar, semi-nar) for equally many updates; each generates the test part in
its own mode. A step whose inputs and options are what they were is skipped, and a training goes on from its last checkpoint, so
the command can be stopped and given again. When a step fails, those beside it end, and no other begins.
"""

import argparse
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from evidence_text import find_text

from bang.errors import UserError, user_error_message
from bang.recipes.binarize import PACKAGE, SIDES, SPLITS
from bang.recipes.precision import training_option
from bang.recipes.steps import Command, Plan, Step
from bang.recipes.tasks import quiet, start_options
from bang.text.evaluate import evaluate, read_texts
from bang.text.files import replacing
from bang.text.training_log import for_terminal

ARGUMENTS = """
  DATA  text.txt or text.txt.gz (documents separated by blank lines, the last 2 % are held out) and
        pairs, raw text a line each: train.src train.tgt valid.src valid.tgt test.src test.tgt
  OUT   folder for everything that is made; OUT/results.tsv is the table, OUT/means.tsv its means over SEEDS, OUT/*.png are
        the learning curves. Data that were prepared elsewhere, OUT/text and OUT/pairs, are used as they are
  --gpu other defaults, behind the semicolons: for a GPU; it needs BERT

environment (defaults)            what
  SEEDS (1; 1 2 3)                --seed values, separated by blanks; each seed is a whole comparison
  BERT ()                         folder of a public BERT; its sizes take the place of WIDTH and LAYERS
  STARTS (ngram9 ngram1 scratch)  what to fine-tune: a pretrained model by its --ngram, or a new one; with BERT
                                  (bert+ngram9 bert+ngram1 bert scratch) the same, and BERT with and without them
  MODES (nar ar semi-nar)         modes to fine-tune
  WIDTH (128) LAYERS (2)          size of the model; heads are 32 wide, feed-forward 4 WIDTH
  DECODER_LAYERS (LAYERS, or 3)   with BERT 3 of its layers, evenly spread
  MIN_COUNT (60; 0)               the vocabulary is vocab.txt less the pieces that the text has more seldom,
                                  single characters kept; 0: all of it. The output layer is most of the cost
  LENGTH (128; 512)               word pieces of a block of text, and limit of sources and targets
  PRETRAIN_UPDATES (2400; 1000)   updates of pretraining, PRETRAIN_BATCH (16) blocks each
  FINETUNE_UPDATES (700; 600)     updates of fine-tuning, FINETUNE_BATCH (32; 48) pairs each
  LR (0.001, or 0.0004)           learning rate of fine-tuning, the second with BERT; it rises over the first sixteenth
                                  of the updates and falls to zero at the last
  PRETRAIN_LR (LR, or 0.0001)     learning rate of pretraining, the second with BERT, whose weights a higher one destroys
  CLIP (1.0) DROPOUT (0)          limit of the gradient's norm, and dropout, of both
  TRAIN ()                        further options of every fairseq-train, as "--fp16"
  BLOCK_SIZE (4)                  tokens that semi-NAR predicts at once
  BEAM (4)                        beam of AR
  JOBS (1; 12)                    trainings, or generations, at once: small ones leave a GPU mostly idle. More than one
                                  share the cores, unless OMP_NUM_THREADS is set
"""
MODES = {"nar": ["--nar-ratio", 1], "ar": ["--nar-ratio", 0], "semi-nar": ["--semi-nar-ratio", 1]}
"""Modes, and the options of fairseq-train that train each."""

ON_A_GPU = {
    "SEEDS": "1 2 3", "MIN_COUNT": "0", "LENGTH": "512", "PRETRAIN_UPDATES": "1000", "FINETUNE_UPDATES": "600",
    "FINETUNE_BATCH": "48", "JOBS": "12",
}  # fmt: skip
COLUMNS = ("seed", "mode", "start", "valid loss", "valid nll", "ROUGE-1", "ROUGE-2", "ROUGE-L", "distinct texts")


class Settings:
    """What is compared, and how: the environment variables of the help, under their names in small letters.

    Raises:
        ValueError: a value that makes no comparison; one line.
    """

    def __init__(self, environment: Mapping[str, str], gpu: bool = False) -> None:
        given = (ON_A_GPU if gpu else {}) | {name: value for name, value in environment.items() if value}

        def number(name: str, default: int, least: int = 1) -> int:
            value = given.get(name, str(default))
            if not value.isdecimal() or int(value) < least:
                raise UserError(f"{name} {value}: give a number from {least}")
            return int(value)

        def words(name: str, default: str) -> list[str]:
            return list(dict.fromkeys(given.get(name, default).split()))

        self.bert = bert = given.get("BERT", "")
        if gpu and not bert:
            raise UserError("--gpu: give BERT=FOLDER")
        self.seeds, self.modes = words("SEEDS", "1"), words("MODES", " ".join(MODES))
        for mode in self.modes:  # a misspelt one would train AR
            if mode not in MODES:
                raise UserError(f"MODES {mode}: choose nar, ar or semi-nar")
        self.starts = words("STARTS", "bert+ngram9 bert+ngram1 bert scratch" if bert else "ngram9 ngram1 scratch")
        for start in self.starts:  # a misspelt one would begin from noise
            if not re.fullmatch(r"scratch|bert|(bert\+)?ngram[1-9]\d*", start):
                raise UserError(f"STARTS {start}: choose scratch, ngramN, bert or bert+ngramN")
            if start.startswith("bert") and not bert:
                raise UserError(f"STARTS {start}: give BERT=FOLDER")
        self.width, self.layers = number("WIDTH", 128), number("LAYERS", 2)
        self.decoder_layers = number("DECODER_LAYERS", 3 if bert else self.layers)
        self.min_count, self.length = number("MIN_COUNT", 60, 0), number("LENGTH", 128)
        self.pretrain_updates, self.pretrain_batch = number("PRETRAIN_UPDATES", 2400), number("PRETRAIN_BATCH", 16)
        self.finetune_updates, self.finetune_batch = number("FINETUNE_UPDATES", 700), number("FINETUNE_BATCH", 32)
        self.lr = given.get("LR", "0.0004" if bert else "0.001")
        self.pretrain_lr = given.get("PRETRAIN_LR", "0.0001" if bert else self.lr)
        self.clip, self.dropout, self.train = given.get("CLIP", "1.0"), given.get("DROPOUT", "0"), given.get("TRAIN", "").split()
        self.block_size, self.beam, self.jobs = number("BLOCK_SIZE", 4), number("BEAM", 4), number("JOBS", 1)
        self.precision: list[str] = []  # the same for all runs that are compared

    def sizes(self) -> list:
        """Options of fairseq-train that say how large the model is."""
        if self.bert:
            return [*start_options(self.bert)[:-2], "--decoder-layers", self.decoder_layers]  # less --load-from-pretrained-model
        words: list = ["--arch", "bang_ar_nar_mixed", "--activation-fn", "gelu", "--share-all-embeddings"]
        for part, layers in (("encoder", self.layers), ("decoder", self.decoder_layers)):
            words += [f"--{part}-layers", layers, f"--{part}-embed-dim", self.width, f"--{part}-ffn-embed-dim", 4 * self.width]
            words += [f"--{part}-attention-heads", self.width // 32]
        return words


class Comparison:
    """The plan of a comparison, and its tables."""

    def __init__(self, data: Path, out: Path, settings: Settings) -> None:
        self.data, self.out, self.settings = data, out, settings
        self.plan = Plan(out)
        is_there, is_ours = (out / "pairs" / "test.src-tgt.tgt.idx").exists(), (out / "steps" / "binarize-pairs.begun").exists()
        if is_ours or not is_there:  # else it was prepared elsewhere
            self._add_data()
        self._add_runs()

    def _add_data(self) -> None:
        raw, tokenized, text = self.out / "raw", self.out / "tokenized", find_text(self.data)
        pairs = [self.data / f"{split}.{side}" for split in SPLITS for side in SIDES]
        vocab, texts = self.out / "vocab.txt", [raw / "text.train", raw / "text.valid"]
        split = ["python", Path(__file__).with_name("evidence_text.py"), self.data, self.out, self.settings.min_count]
        self.plan.add(Step("text", [Command(split)], [text], [*texts, vocab]))
        raw_texts = [*texts, *pairs]
        tokenize = ["python", "-m", "bang", "tokenize", "--vocab", vocab, "--out-dir", tokenized, *raw_texts]
        self.plan.add(Step("tokenize", [Command(tokenize)], [*raw_texts, vocab], [tokenized]))
        for name, options in (("text", ["--text"]), ("pairs", [])):
            words = ["python", "-m", "bang", "binarize", tokenized, self.out / name, "--vocab", vocab, *options]
            command = Command(words, stdout=self.out / f"{name}.log", environment=quiet())
            self.plan.add(Step(f"binarize-{name}", [command], [tokenized, vocab], [self.out / name]))

    def _add_runs(self) -> None:
        """Pretrainings and what needs none; what goes on from them; generations; pictures. JOBS of a group at once."""
        own, starts = self.settings, self.settings.starts
        self.sizes = own.sizes()
        pretrained = [start for start in starts if "ngram" in start]
        runs = [(seed, mode, start) for seed in own.seeds for mode in own.modes for start in starts]
        for seed in own.seeds:
            for start in pretrained:
                self._add_pretraining(seed, start)
        for run in sorted(runs, key=lambda run: run[2] in pretrained):  # a stable sort
            self._add_finetuning(*run, group="trainings that go on" if run[2] in pretrained else "trainings")
        for run in runs:
            self._add_generation(*run)
        for seed in own.seeds:
            for mode in own.modes:
                self._add_curves(seed, mode, [f"{mode}-from-{start}" for start in starts])
            if pretrained:
                self._add_curves(seed, "pretraining", pretrained)

    def folder(self, seed: str, name: str) -> Path:
        return self.out / f"seed{seed}" / name

    def _add_pretraining(self, seed: str, start: str) -> None:
        own = self.settings
        words = ["--task", "bang_pretraining", "--criterion", "ngram_language_loss", "--ngram", start.rpartition("ngram")[2]]
        words += ["--load-from-pretrained-model", own.bert] if start.startswith("bert") else []
        words += ["--tokens-per-sample", own.length, "--sample-break-mode", "none", "--batch-size", own.pretrain_batch]
        self._add_training(seed, start, "text", own.pretrain_updates, own.pretrain_lr, words, [], "trainings")

    def _add_finetuning(self, seed: str, mode: str, start: str, group: str) -> None:
        own, inputs = self.settings, []
        words = ["--task", "translation_bang", "--truncate-source", "--skip-invalid-size-inputs-valid-test"]
        words += ["--criterion", "ngram_language_loss_NAR_mixed", "--label-smoothing", "0.1", *MODES[mode]]
        words += ["--block-size", own.block_size] if mode == "semi-nar" else []
        if start == "bert":
            words += ["--load-from-pretrained-model", own.bert]
        elif start != "scratch":
            inputs = [self.folder(seed, start) / "checkpoint_last.pt"]
            words += ["--load-from-pretrained-model", inputs[0]]
        words += ["--length-bucket", "8", "--batch-size", own.finetune_batch]
        self._add_training(seed, f"{mode}-from-{start}", "pairs", own.finetune_updates, own.lr, words, inputs, group)

    def _add_training(
        self, seed: str, name: str, data: str, updates: int, rate: str, words: list, inputs: list[Path], group: str
    ) -> None:
        own, folder = self.settings, self.folder(seed, name)
        command = ["python", "-m", "fairseq_cli.train", self.out / data, *words, "--user-dir", PACKAGE, "--save-dir", folder]
        command += ["--tensorboard-logdir", folder / "tensorboard", "--seed", seed, *self.sizes, "--dropout", own.dropout]
        command += ["--max-source-positions", own.length, "--max-target-positions", own.length]
        command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.999)", "--weight-decay", "0.01", "--clip-norm", own.clip]
        command += ["--lr", rate, "--lr-scheduler", "polynomial_decay", "--warmup-updates", updates // 16]
        command += ["--total-num-update", updates, "--max-update", updates, *own.precision, *own.train]
        command += ["--validate-interval-updates", updates // 4 + 1, "--no-epoch-checkpoints", "--num-workers", "0"]
        command += ["--log-format", "json", "--log-interval", "50"]
        log, last = folder / "train.log", folder / "checkpoint_last.pt"
        batch = command[command.index("--batch-size") + 1]
        settings = f"{updates} updates of {batch}, LR {rate}, LENGTH {own.length}, CLIP {own.clip}, DROPOUT {own.dropout}"
        settings += f", TRAIN {' '.join(own.train)!r}" if own.train else ""
        bert = [Path(own.bert)] if own.bert in command else []
        step = Step(
            f"{name}-seed{seed}", [Command(command, log=log, shown=self._shown(name), environment=self._threads())],
            [self.out / data, *inputs, *bert], [last, log], resumes=last, settings=settings, group=group, at_once=own.jobs,
        )  # fmt: skip
        self.plan.add(step)

    def _shown(self, name: str) -> Callable[[str], str | None]:
        """What the terminal shows of a training's log: which training it is of, where there are several at once."""
        if self.settings.jobs == 1:
            return for_terminal
        return lambda line: f"{name}: {text}" if (text := for_terminal(line)) else None

    def _threads(self) -> dict[str, str]:
        jobs = self.settings.jobs
        if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        return {"OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) // jobs, 1))}

    def _add_generation(self, seed: str, mode: str, start: str) -> None:
        own, folder = self.settings, self.folder(seed, f"{mode}-from-{start}")
        words = ["python", "-m", "fairseq_cli.generate", self.out / "pairs", "--user-dir", PACKAGE, "--task", "translation_bang"]
        words += ["--decoding", mode, "--beam", own.beam if mode == "ar" else 1]
        words += ["--block-size", own.block_size] if mode == "semi-nar" else []
        words += ["--path", folder / "checkpoint_last.pt", "--gen-subset", "test", "--batch-size", "50", "--max-len-b", "40"]
        words += ["--truncate-source", "--max-source-positions", own.length]
        log, hypotheses, texts = (folder / name for name in ("generate.log", "hypo", "hypo.dedup"))
        commands = [
            Command(words, stdout=log, environment={**quiet(), **self._threads()}),
            Command(["python", "-m", "bang", "collect", log, hypotheses, "--source", self.data / "test.src"]),
            Command(["python", "-m", "bang", "clean-up", hypotheses, texts]),
        ]
        inputs = [self.out / "pairs", folder / "checkpoint_last.pt", self.data / "test.src"]
        self.plan.add(
            Step(f"{folder.name}-seed{seed}-texts", commands, inputs, [log, hypotheses, texts], group="texts", at_once=own.jobs)
        )

    def _add_curves(self, seed: str, name: str, runs: list[str]) -> None:
        logs, picture = [self.folder(seed, run) / "train.log" for run in runs], self.out / f"seed{seed}-{name}.png"
        command = Command(["python", "-m", "bang", "curves", *logs, picture, "--names", *runs])
        self.plan.add(Step(f"curves-{name}-seed{seed}", [command], logs, [picture]))

    def row(self, seed: str, mode: str, start: str) -> list[str]:
        """A row of the table: COLUMNS."""
        folder = self.folder(seed, f"{mode}-from-{start}")
        log, texts = (folder / "train.log").read_text(encoding="utf-8"), read_texts(folder / "hypo.dedup")
        losses = [re.findall(rf'\| valid \| .*"valid_{name}": "([^"]*)"', log)[-1] for name in ("loss", "nll_loss")]
        scores = evaluate({"texts": texts}, read_texts(self.data / "test.tgt"), ["rouge"])["systems"]["texts"]
        rouge = [f"{scores[name]:.2f}" for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L")]
        return [seed, mode, start, *losses, *rouge, str(len(set(texts)))]

    def write_tables(self) -> None:
        """Writes results.tsv, a row a run, and means.tsv, its means over the seeds."""
        own = self.settings
        rows = [self.row(seed, mode, start) for seed in own.seeds for mode in own.modes for start in own.starts]
        means = []
        for key in dict.fromkeys(tuple(row[1:3]) for row in rows):
            columns = zip(*(map(float, row[3:]) for row in rows if tuple(row[1:3]) == key), strict=True)
            means.append([str(len(own.seeds)), *key, *(f"{statistics.fmean(column):.3f}" for column in columns)])
        for name, first, table in (("results.tsv", "seed", rows), ("means.tsv", "seeds", means)):
            lines = ["\t".join(cells) for cells in [[first, *COLUMNS[1:]], *table]]
            with replacing(self.out / name) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
        print((self.out / "results.tsv").read_text(encoding="utf-8"), end="")


def precision(out: Path, train: list[str]) -> list[str]:
    """The precision that all runs in OUT are trained in, measured once."""
    path = out / "precision"
    if not path.exists():
        with replacing(path) as file:
            file.write(f"{training_option(train)}\n".encode())
    return path.read_text(encoding="utf-8").split()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="evidence.sh", usage="scripts/evidence.sh [--gpu] DATA OUT", description=__doc__, epilog=ARGUMENTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--gpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("out", type=Path, help=argparse.SUPPRESS)
    args, began = parser.parse_args(), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        settings = Settings(os.environ, args.gpu)
    except ValueError as error:
        print(f"evidence.sh: error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        settings.precision = precision(args.out, settings.train)
        comparison = Comparison(args.data, args.out, settings)
        comparison.plan.run()
        comparison.write_tables()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, UserError) as error:
        sys.exit(f"evidence.sh: error: {user_error_message(error)}")
    print(f"{args.out / 'results.tsv'}, after {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
