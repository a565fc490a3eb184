"""Trains a student on what an AR teacher writes for the sources of the train part, and evaluates it.

    bang distill DATA --teacher ar/checkpoint_best.pt --mode nar --out OUT
    bang distill DATA --teacher ar/checkpoint_best.pt --mode all --start ar/checkpoint_best.pt --out OUT --shards 64

The steps: tokenize and binarize DATA; decode its train part with the teacher in shards (fairseq's --num-shards), each in a
process, each on its own GPU if there are several; merge them in order, one line for each source, with the reference where the
teacher gave nothing (OUT/distilled/count.txt counts these); binarize again; fine-tune the student; generate and evaluate.
Sources of --more-sources, which have no reference, are decoded after those of the train part. Given again, the command
continues with the shard at which it was stopped. See also bang run-task.
"""

import argparse

from ..modes import NAR
from ..recipes.distill import distillation_plan
from ..recipes.tasks import EVALUATED_IN, PRESETS
from .run_task import add_recipe_arguments, recipe_options, run_plan

HELP = "a student learns from what an AR teacher writes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder with {train,valid,test}.{src,tgt}, raw text")
    parser.add_argument("--teacher", required=True, metavar="CHECKPOINT", help="trained for AR, of the same vocabulary")
    parser.add_argument("--mode", default=NAR, metavar="MODE", help=f"of the student: {', '.join(EVALUATED_IN)} (default: {NAR})")
    parser.add_argument("--preset", default="none", metavar="TASK", help=f"the metrics of a task: {', '.join(PRESETS)}")
    parser.add_argument(
        "--shards",
        type=int,
        default=8,
        metavar="N",
        help="parts that the teacher decodes, each of them resumable (default %(default)s)",
    )
    parser.add_argument(
        "--at-once", type=int, metavar="N", help="shards that run at the same time (default: one on each GPU, or one)"
    )
    parser.add_argument(
        "--keep-references",
        action="store_true",
        help="the student learns from the references too, each source with both; for a student that also decodes AR (--mode all)",
    )
    parser.add_argument(
        "--closest",
        action="store_true",
        help="of the texts in the teacher's beam take the one closest to the reference by BLEU, not the most probable "
        "(sequence-level interpolation)",
    )
    parser.add_argument(
        "--more-sources",
        metavar="FILE",
        help="raw sources without targets, one text a line: the teacher writes these targets too",
    )
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> None:
    options, choice = recipe_options(args, mode=args.mode, preset=args.preset)
    plan = distillation_plan(
        args.data, args.teacher, args.out, options, args.shards, args.at_once, args.keep_references, args.closest,
        args.more_sources,
    )  # fmt: skip
    run_plan(plan, choice, args)
