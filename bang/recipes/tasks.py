"""From a folder of text to results: tokenize, binarize, fine-tune, generate, evaluate."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .. import modes
from ..decoding.link import LINK_FILE
from ..errors import UserError
from ..text.casing import CASING_FILE
from ..text.files import StrPath, read_lines
from ..text.training_log import for_terminal
from ..text.vocabulary import VOCAB, read_normalization, read_vocabulary, vocabulary_files
from ..trained_modes import DECISIVE
from .binarize import PACKAGE, SIDES, SPLITS, binarize_words
from .gpus import gpu_count
from .steps import Command, Plan, Step

PACKAGES = ("rouge_score", "sacrebleu", "nltk", "matplotlib")
"""What evaluation and learning curves import, the last steps of a recipe."""

EVALUATED_IN = {
    "ar": ("ar",),
    "nar": ("nar",),
    "semi-nar": ("semi-nar",),
    "n-stream": ("ar", "semi-nar"),
    "all": ("ar", "semi-nar", "nar"),
}
"""--mode, as `bang finetune` takes it, and the modes that its checkpoint is evaluated in."""

DECIDING = {"--mode", "--arch", "--criterion", *(f"--{name.replace('_', '-')}" for name in DECISIVE)}
"""Options of `bang finetune` that say which modes a checkpoint is trained for; no run goes on with others."""

NO_LINK_BESIDE = {"--link", "--commit-threshold"}
"""Options of fairseq-generate with which no link is tried: it is given, or does not go with them."""


@dataclass(frozen=True)
class Preset:
    """What a task of the paper asks for. Training is the same for all: `training` has the published options."""

    metrics: Sequence[str] = ()  # none: all groups
    tokenizer: str = "13a"
    as_words: bool = False  # blanks around every mark, `cook .`, in texts and references; else texts for people


PRESETS = {
    "squad": Preset(["questions", "meteor", "faults"], "ptb"),
    "xsum": Preset(["rouge", "faults"]),
    "persona-chat": Preset(["dialogue", "distinct", "faults"], "none", as_words=True),
    "none": Preset(),
}
"""Question generation on SQuAD 1.1, XSum and PersonaChat with the variants that are published for them."""


@dataclass(frozen=True)
class TaskOptions:
    """What a recipe is asked for.

    Attributes:
        mode: of EVALUATED_IN.
        start: what `--load-from-pretrained-model` takes; None: new weights.
        preset: of PRESETS.
        vocab: the vocabulary, one `piece count` a line.
        block_size: tokens that semi-NAR predicts at once.
        beam, lenpen: of AR.
        batch_size: sentences that are decoded together.
        train, generate: further options of fairseq-train and fairseq-generate; they win.
        workers: processes that tokenize and binarize.
    """

    mode: str = modes.NAR
    start: str | None = None
    preset: str = "none"
    vocab: StrPath = VOCAB
    block_size: int = 4
    beam: int = 4
    lenpen: float = 1.2
    batch_size: int = 36
    train: Sequence[str] = field(default=())
    generate: Sequence[str] = field(default=())
    workers: int = 1

    def __post_init__(self) -> None:
        for name, known in (("mode", EVALUATED_IN), ("preset", PRESETS)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name} {getattr(self, name)}: choose {', '.join(known)}")


def find_pairs(data: StrPath) -> dict[str, Path]:
    """Finds a folder's pairs: {"train.src": its path, …}; GLGE's `dev` is `valid`.

    Raises:
        ValueError: a file is missing or empty, or the two sides of a split differ in their number of lines.
    """
    data, found = Path(data), {}
    for split in SPLITS:
        for side in SIDES:
            names = [f"{split}.{side}"] + ([f"dev.{side}"] if split == "valid" else [])
            path = next((data / name for name in names if (data / name).is_file()), None)
            if path is None:
                raise UserError(
                    f"{data} has no {' or '.join(names)}: a task is a folder with {{train,valid,test}}.{{src,tgt}}, a text a line"
                )
            found[f"{split}.{side}"] = path
        lines = [sum(1 for _ in read_lines(found[f"{split}.{side}"])) for side in SIDES]
        if 0 in lines or lines[0] != lines[1]:
            raise UserError(
                f"{found[f'{split}.src']} has {lines[0]} lines, {found[f'{split}.tgt']} {lines[1]}: give one target for each "
                "source"
            )
    return found


def task_plan(data: StrPath, out: StrPath, options: TaskOptions) -> Plan:
    """The whole way, from raw pairs to scores.

    Args:
        data: folder with {train,valid,test}.{src,tgt}, raw text.
        out: folder for everything that is made.
    """
    check_installation()
    read_vocabulary(options.vocab)
    plan, pairs, out = Plan(out), find_pairs(data), Path(out)
    tokenized = add_tokenization(plan, pairs, out / "tokenized", options)
    binarized = add_binarization(plan, "binarize", tokenized, out / "data", options)
    checkpoint = add_training(plan, binarized, out, options, has_separator(pairs["train.src"]))
    add_results(plan, binarized, tokenized["test.src"], pairs, checkpoint, out, options)
    return plan


def add_tokenization(plan: Plan, pairs: dict[str, Path], folder: Path, options: TaskOptions) -> dict[str, Path]:
    """Adds the step that makes word pieces; returns their files, named as the pairs."""
    raw = list(pairs.values())
    words = ["python", "-m", "bang", "tokenize", "--out-dir", folder, "--vocab", options.vocab]
    tokenized = {name: folder / path.name for name, path in pairs.items()}
    command = Command([*words, *raw], neutral=["--workers", options.workers])
    plan.add(Step("tokenize", [command], [*raw, *vocabulary_files(options.vocab)], list(tokenized.values())))
    return tokenized


def add_binarization(plan: Plan, name: str, tokenized: dict[str, Path], folder: Path, options: TaskOptions) -> Path:
    """Adds the step that makes fairseq's data; returns their folder."""
    words = binarize_words({split: tokenized[f"{split}.src"].with_suffix("") for split in SPLITS}, folder, options.vocab)
    log = folder.with_name(f"{folder.name}.log")
    command = Command(words, neutral=["--workers", options.workers], stdout=log, environment=quiet())
    plan.add(Step(name, [command], [*tokenized.values(), *vocabulary_files(options.vocab)], [folder]))
    return folder


def data_files(folder: Path, *splits: str) -> list[Path]:
    """The files of these splits that fairseq reads: not the log beside them, which holds paths and process ids."""
    files = [f"{split}.src-tgt.{side}.{kind}" for split in splits for side in SIDES for kind in ("bin", "idx")]
    return [folder / name for name in (*files, *(f"dict.{side}.txt" for side in SIDES))]


def add_training(plan: Plan, data: Path, out: Path, options: TaskOptions, has_separator: bool = False) -> Path:
    """Adds the fine-tuning; returns its best checkpoint."""
    inputs = data_files(data, "train", "valid")
    words = ["python", "-m", "bang", "finetune", "--mode", options.mode, data, out / "checkpoints"]
    words += ["--tensorboard-logdir", out / "tensorboard", "--log-format", "json", "--log-interval", "50"]
    if _has_option(options.mode, "block_size"):  # "all" is trained for blocks of many sizes
        words += ["--block-size", options.block_size]
    if options.start is not None:
        inputs.append(Path(options.start))
        words += start_options(options.start)
        words += ["--load-sep"] if has_separator else []
    words += options.train  # half precision, on a GPU or a CPU, is the choice of `bang finetune`
    log, picture, folder = out / "train.log", out / "curves.png", out / "checkpoints"
    best, last = folder / "checkpoint_best.pt", folder / "checkpoint_last.pt"
    command, settings = Command(words, log=log, shown=for_terminal), deciding_options(words)
    plan.add(Step("fine-tune", [command], inputs, [best, log], resumes=last, settings=settings))
    plan.add(Step("curves", [Command(["python", "-m", "bang", "curves", log, picture])], [log], [picture]))
    return best


def deciding_options(words: Sequence) -> str:
    """The options among a training's words that say which modes it trains; of one given twice the last, as fairseq reads them."""
    found: dict[str, str] = {}
    name = ""
    for word in map(str, words):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found |= {name: value} if name in DECIDING else {}
        elif found.get(name) == "":
            found[name] = word
    return " ".join(f"{name} {found[name]}".strip() for name in sorted(found))


def add_results(
    plan: Plan, data: Path, tokenized_source: Path, pairs: dict[str, Path], checkpoint: Path, out: Path, options: TaskOptions
) -> None:
    """Adds generation by each of the mode's decodings, with a link too where one may serve, and the evaluation of them all."""
    preset, reference, texts = PRESETS[options.preset], pairs["test.tgt"], []
    if read_normalization(options.vocab).do_lower_case:
        add_casing(plan, pairs, checkpoint)
    clean = ["python", "-m", "bang", "clean-up", *([] if preset.as_words else ["--detokenize"])]
    runs: list[tuple[str, Path | None]] = [(decoding, None) for decoding in EVALUATED_IN[options.mode]]
    linked = _linked(options)
    if linked:
        link = add_link(plan, pairs, checkpoint, options)
        runs += [(decoding, link) for decoding in linked]
    for decoding, used in runs:
        name = decoding if used is None else f"{decoding}-link"
        log, hypotheses, text = (out / f"{name}.{suffix}" for suffix in ("log", "hypo", "txt"))
        collected = ["python", "-m", "bang", "collect", log, hypotheses, "--source", tokenized_source]
        cleaned = [*clean, *([] if modes.find(decoding).drops_repeats else ["--keep-repeats"]), hypotheses, text]
        commands = [
            Command(
                [*generate_words(data, "test", checkpoint, decoding, options), *(["--link", used] if used else [])],
                neutral=precision_words(),
                stdout=log,
                environment=quiet(),
            ),
            Command(collected),
            Command(cleaned),
        ]
        inputs = [*data_files(data, "test"), checkpoint, tokenized_source, *([used] if used else [])]
        plan.add(Step(f"generate-{name}", commands, inputs, [log, text]))
        texts.append(text)
    answers, commands, outputs = reference, [], [out / "scores.txt", out / "scores.json"]
    if preset.as_words:  # made as the texts are, whatever blanks the raw references have
        answers, reference = tokenized_source.with_suffix(".tgt"), out / "reference.txt"
        commands.append(Command([*clean, "--keep-repeats", answers, reference]))
        outputs.append(reference)
    words = ["python", "-m", "bang", "evaluate", *texts, "--reference", reference, "--json", outputs[1]]
    words += ["--tokenize", preset.tokenizer, *(["--metrics", *preset.metrics] if preset.metrics else [])]
    words += ["--bootstrap", "1000"] if len(texts) > 1 else []
    plan.add(Step("evaluate", [*commands, Command(words, stdout=outputs[0])], [*texts, answers], outputs))


def _linked(options: TaskOptions) -> list[str]:
    """The decodings that are tried with a link too: none without NAR, whose texts choose its weights."""
    given = {word.partition("=")[0] for word in options.generate}
    if modes.NAR not in EVALUATED_IN[options.mode] or given & NO_LINK_BESIDE:
        return []
    asked = {name: modes.Options(mode=name, block_size=options.block_size) for name in EVALUATED_IN[options.mode]}
    return [name for name, of_mode in asked.items() if modes.find(name).may_link(of_mode)]


def add_link(plan: Plan, pairs: dict[str, Path], checkpoint: Path, options: TaskOptions) -> Path:
    """Adds the step that makes a link of the training targets, beside the checkpoint; returns its file."""
    link = checkpoint.with_name(LINK_FILE)
    words = ["python", "-m", "bang", "link", pairs["train.tgt"], "--out", link, "--vocab", options.vocab]
    words += ["--tune", pairs["valid.src"], pairs["valid.tgt"], "--model", checkpoint]
    inputs = [pairs[name] for name in ("train.tgt", "valid.src", "valid.tgt")]
    said = link.with_suffix(".txt")  # the weights that were chosen
    plan.add(Step("link", [Command(words, stdout=said, environment=quiet())], [*inputs, checkpoint], [link, said]))
    return link


def add_casing(plan: Plan, pairs: dict[str, Path], checkpoint: Path) -> None:
    """Adds the step that makes the table by which `bang generate` writes capitals, beside the checkpoint."""
    table, targets, sources = checkpoint.with_name(CASING_FILE), pairs["train.tgt"], pairs["train.src"]
    words = ["python", "-m", "bang", "casing", targets, "--sources", sources, "--out", table]
    plan.add(Step("casing", [Command(words)], [targets, sources], [table]))


def generate_words(data: Path, split: str, checkpoint: StrPath, decoding: str, options: TaskOptions) -> list:
    """fairseq-generate's command line for one decoding."""
    words = ["fairseq-generate", data, "--user-dir", PACKAGE, "--task", "translation_bang", "--path", checkpoint]
    words += ["--gen-subset", split, "--batch-size", options.batch_size, "--truncate-source", "--decoding", decoding]
    words += ["--beam", options.beam, "--lenpen", options.lenpen] if modes.find(decoding).beam_search else ["--beam", "1"]
    words += ["--block-size", options.block_size] if _has_option(decoding, "block_size") else []
    return [*words, *options.generate]


def _has_option(mode: str, option: str) -> bool:
    """Whether a mode has a generation option; a training of several modes has none of its own."""
    return mode in modes.with_option(option)


def precision_words() -> list[str]:
    """What fairseq-generate takes on this machine: float16 on a GPU. What is done stays done on another one."""
    return ["--fp16"] if gpu_count() else []


def quiet() -> dict[str, str]:
    """Makes fairseq log warnings only, unless the user has set LOGLEVEL."""
    return {"LOGLEVEL": os.environ.get("LOGLEVEL", "WARNING")}


def has_separator(source: StrPath) -> bool:
    """Whether a source separates passages with [X_SEP], whose embedding then begins as that of [SEP]."""
    return any("[X_SEP]" in line for line in read_lines(source))


def start_options(start: str) -> list[str]:
    """fairseq-train's options for a model that starts from `start`: the sizes are read from it."""
    from .. import plugin, starts  # noqa: F401  (registers the architectures, which brings torch and fairseq)
    from ..deploy import convert

    return shlex.split(convert.train_options(starts.read(start)))


def check_installation() -> None:
    """Checks, before hours of training, that the packages are there that a recipe ends with.

    Raises:
        ValueError: some are missing; one line.
    """
    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"recipes need {', '.join(missing)} too: pip install {' '.join(missing)}")
