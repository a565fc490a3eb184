"""What `--load-from-pretrained-model START` needs, as fairseq-train's options; or START as a fairseq checkpoint.

    fairseq-train processed --user-dir bang --task translation_bang $(bang starts minilm/) …
    eval "options=($(bang starts 'a folder/'))"   # in bash, for a path with a blank: then "${options[@]}"
    bang starts minilm/ --save start.pt --decoder-layers 3

START is a checkpoint of BANG or ProphetNet, a folder of `bang pack`, or BERT's or ProphetNet's weights in the Hugging
Face layout: the folder with config.json and model.safetensors (or a weights-only pytorch_model.bin), or a .safetensors file.
"""

import argparse
import sys

from ..errors import UserError
from ..inference.load import import_heavy
from ..text.vocabulary import VOCAB

HELP = "the options that a pretrained start needs, or the start as a checkpoint"

_MODEL = ("encoder_layers", "decoder_layers", "pretrained_encoder_layers", "pretrained_decoder_layers",
          "max_source_positions", "max_target_positions")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("start", metavar="START", help="a checkpoint, a folder, or a .safetensors file")
    parser.add_argument("--save", metavar="FILE", help="write START as a checkpoint, for fairseq-train and -generate")
    saving = parser.add_argument_group("with --save")
    for side in ("encoder", "decoder"):
        saving.add_argument(f"--{side}-layers", type=int, metavar="N", help="layers of the model (default: all of START's)")
        saving.add_argument(
            f"--pretrained-{side}-layers",
            metavar="LIST",
            help=f"START's layers that start the {side}'s: numbers from 0 with commas between them (default: evenly spread)",
        )
    saving.add_argument("--max-source-positions", type=int, metavar="N", help="length of the encoder's positions (default 512)")
    saving.add_argument("--max-target-positions", type=int, metavar="N", help="length of the decoder's (default 512)")
    saving.add_argument(
        "--vocab", default=VOCAB, metavar="FILE", help="vocabulary, one 'piece count' a line (default: the published vocab.txt)"
    )


def run(args: argparse.Namespace) -> None:
    convert = import_heavy("bang.deploy.convert")
    import_heavy("bang.plugin")  # registers the architectures
    from .. import starts
    from ..deploy.pack import write_checkpoint
    from ..plugin.dictionary import BertDictionary

    options = {name: getattr(args, name) for name in _MODEL}
    given = [name for name, value in options.items() if value is not None]
    if given and args.save is None:
        raise UserError(f"--{given[0].replace('_', '-')} goes with --save FILE; without it give it to fairseq-train")
    start = starts.read(args.start)
    if args.save is None:
        print(convert.train_options(start))
        return
    model = convert.to_model(start, BertDictionary.load(args.vocab), **options)
    write_checkpoint(model, args.save)
    sizes = model.sizes
    print(
        f"{args.save}: {start.family}, {sizes['encoder_layers']} + {sizes['decoder_layers']} layers of "
        f"{sizes['encoder_embed_dim']}, {len(model.dictionary):,} word pieces",
        file=sys.stderr,
    )
