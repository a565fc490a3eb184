"""Sequence-level distillation (Kim and Rush 2016): a student learns from what an AR teacher writes for the sources.

Its targets are more regular than people's, which is what a model needs that writes all tokens at once.
"""

from pathlib import Path

from ..errors import UserError, damaged
from ..modes import AR
from ..text.files import StrPath, read_lines
from ..text.vocabulary import fingerprint, read_normalization, read_vocabulary
from ..trained_modes import stored_options, trained_modes
from .gpus import gpu_devices
from .steps import Command, Plan, Step
from .tasks import (
    TaskOptions,
    add_binarization,
    add_results,
    add_tokenization,
    add_training,
    check_installation,
    data_files,
    find_pairs,
    generate_words,
    has_separator,
    precision_words,
    quiet,
)


def distillation_plan(
    data: StrPath,
    teacher: StrPath,
    out: StrPath,
    options: TaskOptions,
    shards: int,
    at_once: int | None = None,
    keep_references: bool = False,
    closest: bool = False,
    more_sources: StrPath | None = None,
) -> Plan:
    """The whole way: the teacher decodes the train part, the student learns from it and is evaluated.

    Args:
        data: folder with {train,valid,test}.{src,tgt}, raw text.
        teacher: a checkpoint trained for AR, of the same vocabulary.
        out: folder for everything that is made.
        options: the student's; beam and length penalty are the teacher's too.
        shards: parts of the train part, each decoded by a process of its own and never again once it is done.
        at_once: how many of them run at the same time; None: one on each GPU, or one.
        keep_references: the student learns from the references too; every source stands there twice.
        closest: the student learns the text of the teacher's beam that is nearest to the reference, not the likeliest
            (sequence-level interpolation, section 3.3 of Kim and Rush).
        more_sources: raw sources without a target, a text a line: the teacher writes theirs too, and one for which it
            writes nothing is left out.

    Raises:
        ValueError: see `find_pairs` and `check_teacher`; fewer than one shard; `closest` of a beam of one; no line in
            `more_sources`.
    """
    check_installation()
    gpus = gpu_devices()
    at_once = at_once or max(len(gpus), 1)
    if shards < 1 or at_once < 1:
        raise UserError(f"--shards {shards} --at-once {at_once}: give 1 or more")
    if closest and options.beam < 2:
        raise UserError(f"--closest --beam {options.beam}: there is nothing to choose from; give a beam of 2 or more")
    pairs, out = find_pairs(data), Path(out)
    check_teacher(teacher, options.vocab)
    sources = sum(1 for path in (pairs["train.src"], more_sources) if path is not None for _ in read_lines(path))
    shards = min(shards, -(-sources // options.batch_size))  # fairseq-generate fails on a part without a batch
    plan = Plan(out)
    tokenized = add_tokenization(plan, pairs, out / "tokenized", options)
    taught = tokenized
    if more_sources is not None:
        taught = tokenized | add_sources(plan, tokenized, Path(more_sources), out / "sources", options)
    binarized = add_binarization(plan, "binarize", taught, out / "data", options)

    logs = []
    # sentences over a length limit are left out here, and filled from the references below
    words = generate_words(binarized, "train", teacher, AR, options) + ["--skip-invalid-size-inputs-valid-test"]
    words += ["--nbest", options.beam] if closest else []
    for shard in range(shards):
        log = out / "teacher" / f"{shard}.log"
        environment = quiet() | ({"CUDA_VISIBLE_DEVICES": gpus[shard % len(gpus)]} if gpus else {})
        shard_words = [*words, "--num-shards", shards, "--shard-id", shard]
        command = Command(shard_words, neutral=precision_words(), stdout=log, environment=environment)
        plan.add(
            Step(
                f"teacher-{shard}",
                [command],
                [*data_files(binarized, "train"), Path(teacher)],
                [log],
                group="teacher",
                at_once=at_once,
            )
        )
        logs.append(log)

    distilled = {name: out / "distilled" / f"train.{name[-3:]}" for name in ("train.src", "train.tgt")}
    source, target = taught["train.src"], taught["train.tgt"]
    written = [out / "teacher" / name for name in distilled]
    references = [tokenized[name] for name in distilled] if keep_references else []
    count = out / "distilled" / "count.txt"
    merged = ["python", "-m", "bang", "collect", out / "teacher.log", written[1], "--source", source, "--fill", target]
    merged += ["--pairs", written[0], *(["--closest-to", target] if closest else [])]
    commands = [Command(["cat", *logs], stdout=out / "teacher.log"), Command(merged, log=count)]
    for side, path in enumerate(distilled.values()):
        commands.append(Command(["cat", written[side], *references[side : side + 1]], stdout=path))
    inputs, outputs = [*logs, source, target, *references], [*distilled.values(), *written, count, out / "teacher.log"]
    plan.add(Step("merge", commands, inputs, outputs))
    student = add_binarization(plan, "binarize-distilled", tokenized | distilled, out / "distilled-data", options)
    checkpoint = add_training(plan, student, out, options, has_separator(pairs["train.src"]))
    add_results(plan, student, tokenized["test.src"], pairs, checkpoint, out, options)
    return plan


def add_sources(plan: Plan, tokenized: dict[str, Path], more: Path, folder: Path, options: TaskOptions) -> dict[str, Path]:
    """Adds the step that puts further sources behind those of the train part, and empty lines behind its targets.

    Args:
        tokenized: the pairs' word pieces.
        more: raw sources, a text a line.
        folder: for what is made.

    Returns:
        The two files, by name.

    Raises:
        ValueError: `more` is empty.
    """
    if not any(read_lines(more)):
        raise UserError(f"--more-sources {more}: no text in it: give a file of raw sources, one a line")
    pieces, empty = folder / "more" / more.name, folder / "empty"
    longer = {name: folder / name for name in ("train.src", "train.tgt")}
    words = ["python", "-m", "bang", "tokenize", "--out-dir", pieces.parent, "--vocab", options.vocab]
    commands = [
        Command([*words, more], neutral=["--workers", options.workers]),
        Command(["sed", "s/.*//", pieces], stdout=empty),
        Command(["cat", tokenized["train.src"], pieces], stdout=longer["train.src"]),
        Command(["cat", tokenized["train.tgt"], empty], stdout=longer["train.tgt"]),
    ]
    inputs = [more, tokenized["train.src"], tokenized["train.tgt"], options.vocab]
    plan.add(Step("more-sources", commands, inputs, list(longer.values())))
    return longer


def check_teacher(teacher: StrPath, vocab: StrPath) -> None:
    """Checks that a checkpoint can be the teacher, before hours of decoding.

    Raises:
        ValueError: it cannot be read, has another vocabulary, or was never trained for AR. One line.
    """
    from ..safety.files import read  # brings torch

    with damaged(f"teacher {teacher}"):
        _check_teacher(read(str(teacher), mmap=True), teacher, vocab)


def _check_teacher(state: dict, teacher: StrPath, vocab: StrPath) -> None:
    from ..safety.description import check_options

    weights = state.get("model")
    table = weights.get("decoder.embed_tokens.weight") if isinstance(weights, dict) else None
    if table is None or len(getattr(table, "shape", ())) != 2:
        raise UserError(f"teacher {teacher}: no decoder's embeddings in it: give a fairseq checkpoint of an AR model")
    pieces = list(read_vocabulary(vocab))
    if len(table) != len(pieces):
        raise UserError(
            f"teacher {teacher}: it has {len(table)} entries of a vocabulary, {vocab} {len(pieces)}: give the --vocab it was "
            "trained with"
        )
    task_state = state.get("task_state")
    saved = task_state.get("dictionaries") if isinstance(task_state, dict) else None
    beside = [list(read_vocabulary(path)) for path in Path(teacher).parent.glob("dict.*.txt")] if saved is None else []
    if (saved is not None and saved != fingerprint(pieces, pieces, read_normalization(vocab))) or any(
        theirs != pieces for theirs in beside
    ):
        raise UserError(
            f"teacher {teacher}: it has as many word pieces as {vocab}, but others: give the --vocab it was trained with"
        )
    settings = state.get("cfg") or state.get("args") or {}
    check_options(stored_options(settings), f"teacher {teacher}")
    modes = trained_modes(settings)
    if modes and AR not in modes:
        raise UserError(f"teacher {teacher}: trained for {', '.join(modes)} only: give a checkpoint that was trained for {AR}")
