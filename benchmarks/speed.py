"""Speed of every way to generate, side by side in one run, on the same sources and sizes.

    python benchmarks/speed.py                                   # base size, texts of 12 tokens, batches of 1, 8, 36
    python benchmarks/speed.py --length 32 --source-length 512 --batches 1 8 --systems torch-float32 plain

Our modes in torch and in onnxruntime; NAR as the reference formulates it (the whole canvas, all logits);
fairseq's Transformer of the same size, and CTranslate2 with that Transformer's weights. Weights are random,
so texts are made to have `--length` tokens; speed does not depend on what they say. Each system runs in a
process of its own, with the same number of threads; in every round all of them take turns, so that other
work on the machine meets all alike. Sentences a second: median and range of the rounds; memory: the most
that a process held. Writes JSON, a table and a picture to --out.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

MODES = {
    "nar": dict(mode="nar"),
    "semi-nar 4": dict(mode="semi-nar", block_size=4),
    "ar greedy": dict(mode="ar", beam=1),
    "ar beam 4": dict(mode="ar", beam=4),
    "speculative 4": dict(mode="speculative", draft_length=4),
}
OURS = ("torch-float32", "torch-bfloat16", "onnx-float32", "onnx-int8")
OTHERS = {
    "plain": ("nar",),
    "fairseq": ("ar greedy", "ar beam 4"),
    "ctranslate2-float32": ("ar greedy",),
    "ctranslate2-int8": ("ar greedy",),
}
VOCAB = REPOSITORY / "vocab.txt"


def trained_model(arch: str):
    """A model with new weights, as a checkpoint would hold it."""
    import torch
    from bang import plugin  # noqa: F401
    from bang.dictionary import BertDictionary
    from bang.network.config import BangConfig
    from bang.network.model import BangModel
    from bang.pack import TrainedModel
    from dataclasses import fields
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    dictionary = BertDictionary.load(VOCAB)
    cfg = MODEL_DATACLASS_REGISTRY[arch](max_source_positions=512, max_target_positions=512)
    torch.manual_seed(1)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    weights = BangModel.build_model(OmegaConf.structured(cfg), task).state_dict()
    training = ("load_from_pretrained_model", "pretrained_encoder_layers", "pretrained_decoder_layers", "load_sep")
    sizes = {f.name: getattr(cfg, f.name) for f in fields(BangConfig)
             if f.name not in training and not f.name.startswith("_")}  # fmt: skip
    return TrainedModel(arch, sizes, weights, dictionary, {}, 0, ["src", "tgt"])


def transformer(arch: str):
    """fairseq's Transformer of the same sizes, with new weights, and its task."""
    import torch
    from bang import plugin  # noqa: F401
    from bang.dictionary import BertDictionary
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.models.transformer import TransformerConfig, TransformerModelBase
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    ours, cfg = MODEL_DATACLASS_REGISTRY[arch](), TransformerConfig()
    for side in ("encoder", "decoder"):
        part = getattr(cfg, side)
        for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads"):
            setattr(part, name, getattr(ours, f"{side}_{name}"))
        part.learned_pos = True
    cfg.decoder.input_dim = cfg.decoder.output_dim = ours.decoder_embed_dim
    cfg.activation_fn, cfg.share_all_embeddings = ours.activation_fn, True
    cfg.layernorm_embedding = cfg.no_scale_embedding = True
    cfg.max_source_positions = cfg.max_target_positions = 512
    dictionary = BertDictionary.load(VOCAB)
    task = TranslationTask(TranslationConfig(data=""), dictionary, dictionary)
    torch.manual_seed(1)
    return TransformerModelBase.build_model(cfg, task).eval(), task


def write_ctranslate2(arch: str, folder: Path) -> None:
    """That Transformer for CTranslate2, float32."""
    from ctranslate2.converters import fairseq as converter
    from ctranslate2.specs import common_spec, transformer_spec

    model, task = transformer(arch)
    encoder, decoder = model.encoder, model.decoder
    activation = {"gelu": common_spec.Activation.GELU, "relu": common_spec.Activation.RELU}[model.cfg.activation_fn]
    spec = transformer_spec.TransformerSpec.from_config(
        (len(encoder.layers), len(decoder.layers)), model.cfg.encoder.attention_heads, pre_norm=False,
        activation=activation, layernorm_embedding=True,
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    converter.set_transformer_encoder(spec.encoder, encoder)
    converter.set_transformer_decoder(spec.decoder, decoder)
    pieces = list(task.target_dictionary.symbols)
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = "[UNK]", "[CLS]", "[SEP]"
    spec.config.decoder_start_token, spec.config.add_source_eos = "[SEP]", False
    spec.validate()
    folder.mkdir()
    spec.save(str(folder))


def make_system(name: str, arch: str, folder: Path, threads: int, device: str):
    """A function of a mode that gives a function of a batch of sources and a length."""
    kind, _, precision = name.partition("-")
    if kind == "ctranslate2":
        import ctranslate2

        pieces = [line.rsplit(" ", 1)[0] for line in VOCAB.read_text(encoding="utf-8").splitlines()]
        translator = ctranslate2.Translator(
            str(folder / "ctranslate2"), device=device, compute_type=precision, inter_threads=1, intra_threads=threads
        )

        def translate(batch, length):
            found = translator.translate_batch(
                [[pieces[token] for token in ids] for ids in batch], beam_size=1, min_decoding_length=length,
                max_decoding_length=length, max_batch_size=0,
            )  # fmt: skip
            return [len(one.hypotheses[0]) for one in found]

        return lambda mode: translate
    if kind == "onnx":
        from bang.deploy.engine import load
        from bang.model_folder import EXPORT, read_config

        engine = load(folder / name, read_config(folder / name, EXPORT), device=device, threads=threads)[0]
    else:
        import torch

        torch.set_num_threads(threads)
        if kind in ("plain", "fairseq"):
            return _torch_baseline(kind, arch, device)
        from bang.torch_engine import TorchEngine

        engine = TorchEngine(trained_model(arch), device, precision, threads)
    from bang.api import Options

    def of_mode(mode):
        def generate(batch, length):
            found = engine.generate(batch, Options(**MODES[mode], min_len=length, max_len=length))
            return [len(one.tokens) for one in found]

        return generate

    return of_mode


def _torch_baseline(kind: str, arch: str, device: str):
    import torch
    from fairseq.data import data_utils

    def sample(batch, pad, eos):
        tokens = data_utils.collate_tokens([torch.from_numpy(ids) for ids in batch], pad, eos).to(device)
        return {"src_tokens": tokens, "src_lengths": torch.tensor([len(ids) for ids in batch], device=device)}

    if kind == "plain":
        from bang import visibility

        network = trained_model(arch).build().to(device)
        dictionary = network.decoder.dictionary

        @torch.inference_mode()
        def canvas(batch, length):
            inputs = sample(batch, dictionary.pad(), dictionary.eos())
            previous = inputs["src_tokens"].new_full((len(batch), length + 1), dictionary.eos())
            layout = visibility.non_autoregressive(length + 1)
            logits = network(**inputs, prev_output_tokens=previous, layout=layout)[0]
            scores, tokens = logits.float().log_softmax(-1).max(-1)
            return [len(row) - 1 for row in tokens.tolist()]

        return lambda mode: canvas
    from fairseq.sequence_generator import SequenceGenerator

    network, task = transformer(arch)
    network.to(device)

    def of_mode(mode):
        dictionary = task.target_dictionary

        def generate(batch, length):
            generator = SequenceGenerator(
                [network], dictionary, beam_size=MODES[mode]["beam"], max_len_b=length, min_len=length
            )
            inputs = sample(batch, dictionary.pad(), dictionary.eos())
            found = generator.generate([network], {"net_input": inputs})
            return [len(one[0]["tokens"]) - 1 for one in found]

        return generate

    return of_mode


def work(pipe, name: str, args: argparse.Namespace, folder: Path, sources: list) -> None:
    """A process of one system: for each (mode, batch size, sentences) that it is sent, seconds."""
    if name.startswith("ctranslate2"):
        os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    system, modes = make_system(name, args.arch, folder, args.threads, args.device), {}
    pipe.send("ready")
    for mode, size, count in iter(pipe.recv, None):
        generate = modes.setdefault(mode, system(mode))
        chosen = sources[:: len(sources) // count][:count]  # of all lengths
        start = time.perf_counter()
        for first in range(0, count, size):
            lengths = generate(chosen[first : first + size], args.length)
            assert set(lengths) == {args.length}, f"{name}, {mode}: texts of {sorted(set(lengths))} tokens"
        seconds = time.perf_counter() - start
        pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def read_sources(path: Path, count: int, length: int | None) -> list:
    """Ids of the first sources, eos last, longest first; joined one after another up to `length` if given."""
    import numpy as np
    from bang.text.wordpieces import load_word_pieces
    from bang.text.vocabulary import read_vocabulary

    pieces, ids = load_word_pieces(), {piece: index for index, piece in enumerate(read_vocabulary(VOCAB))}
    lines = path.read_text(encoding="utf-8").splitlines()
    tokenized = [[ids[piece] for piece in pieces(line).split()] for line in lines]
    if length is not None:
        stream = [token for line in tokenized for token in line]
        tokenized = [stream[i * (length - 1) : (i + 1) * (length - 1)] for i in range(count)]
    sources = [np.array(line[:511] + [ids["[SEP]"]]) for line in tokenized[:count]]
    if len(sources) < count or len(sources[-1]) < 2:
        raise ValueError(f"{path}: too short for {count} sources" + (f" of {length}" if length else ""))
    return sorted(sources, key=len, reverse=True)


def measure(args: argparse.Namespace, folder: Path, sources: list) -> list[dict]:
    context = multiprocessing.get_context("spawn")
    workers = {}
    cases = [(name, mode, size) for name in args.systems for mode in OTHERS.get(name, args.modes) for size in args.batches
             if mode in args.modes]  # fmt: skip
    for name in dict.fromkeys(name for name, _, _ in cases):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, name, args, folder, sources), daemon=True)
        process.start()
        there.close()
        assert here.recv() == "ready"
        workers[name] = (here, process)
        print(f"{name} is ready", file=sys.stderr)
    found = {case: [] for case in cases}
    memory = {}
    for turn in range(-1, args.rounds):  # the first is a warm-up
        for case in cases:
            name, mode, size = case
            count = max(size, args.sentences if size > 1 else args.sentences // 3) if turn >= 0 else size
            pipe = workers[name][0]
            pipe.send((mode, size, count))
            seconds, memory[name] = pipe.recv()
            if turn >= 0:
                found[case].append(count / seconds)
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
    for pipe, process in workers.values():
        pipe.send(None)
        process.join()
    passes = {"nar": 1 if args.length < 32 else -(-(args.length + 1) // 32), "semi-nar 4": -(-(args.length + 1) // 4)}
    return [
        {
            "system": name, "mode": mode, "batch": size, "sentences_per_second": statistics.median(speeds),
            "lowest": min(speeds), "highest": max(speeds), "milliseconds_per_sentence": 1000 / statistics.median(speeds),
            "passes": passes.get(mode), "peak_memory_gib": memory[name],
        }
        for (name, mode, size), speeds in found.items()
    ]  # fmt: skip


def ratios(rows: list[dict], batches: list[int]) -> list[dict]:
    """Ours against another system: at batch 1, and each at its best batch."""
    best = {}
    for row in rows:
        for key in (row["batch"], "best"):
            place = (row["system"], row["mode"], key)
            best[place] = max(best.get(place, 0), row["sentences_per_second"])
    found = []
    for precision in ("int8", "float32"):
        for mode in ("nar", "ar greedy", "speculative 4"):
            for key in (1, "best"):
                ours, other = (f"onnx-{precision}", mode, key), (f"ctranslate2-{precision}", "ar greedy", key)
                if ours in best and other in best:
                    found.append({"ours": f"onnx-{precision} {mode}", "other": f"ctranslate2-{precision} ar greedy",
                                  "batch": key, "times_as_fast": best[ours] / best[other]})  # fmt: skip
    for key in (*batches, "best"):
        ours, other = ("torch-float32", "nar", key), ("plain", "nar", key)
        if ours in best and other in best:
            found.append({"ours": "torch-float32 nar", "other": "plain nar", "batch": key,
                          "times_as_fast": best[ours] / best[other]})  # fmt: skip
    return found


def table(report: dict) -> str:
    rows, batches = report["rows"], report["settings"]["batches"]
    speeds = {(row["system"], row["mode"], row["batch"]): row for row in rows}
    lines = ["| system | mode | " + " | ".join(f"batch {size}" for size in batches) + " | GiB |",
             "| --- " * (len(batches) + 3) + "|"]  # fmt: skip
    for name, mode in dict.fromkeys((row["system"], row["mode"]) for row in rows):
        of = [speeds[name, mode, size] for size in batches]
        cells = [f"{x['sentences_per_second']:.1f} ({x['lowest']:.1f}–{x['highest']:.1f})" for x in of]
        lines.append(f"| {name} | {mode} | " + " | ".join(cells) + f" | {of[0]['peak_memory_gib']:.1f} |")
    lines += ["", "| | against | batch | times as fast |", "| --- | --- | --- | --- |"]
    lines += [f"| {x['ours']} | {x['other']} | {x['batch']} | {x['times_as_fast']:.2f} |" for x in report["ratios"]]
    return "\n".join(lines) + "\n"


def draw(report: dict, path: Path) -> None:
    import matplotlib

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
    axes.set_yticks([place + height * (len(batches) - 1) / 2 for place in range(len(names))], [" · ".join(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("sentences a second (median and range of the rounds)")
    settings = report["settings"]
    source = f"of {settings['source_length']}" if settings["source_length"] else "as they are"
    axes.set_title(f"{settings['arch']}, texts of {settings['length']} tokens, sources {source}, {settings['threads']} threads")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="bang_ar_nar_mixed_base", help="sizes (default: %(default)s)")
    parser.add_argument("--systems", nargs="+", default=[*OURS, *OTHERS], choices=[*OURS, *OTHERS], metavar="SYSTEM",
                        help="of " + ", ".join([*OURS, *OTHERS]) + " (default: all)")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES), metavar="MODE",
                        help="of " + ", ".join(MODES) + " (default: all)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 36], metavar="N")
    parser.add_argument("--length", type=int, default=12, help="tokens of a text (default: %(default)s)")
    parser.add_argument("--source-length", type=int, metavar="S", help="join sources to this length (default: as they are)")
    parser.add_argument("--sources", type=Path, default=REPOSITORY / "examples" / "debian" / "test.src", metavar="FILE")
    parser.add_argument("--sentences", type=int, default=72, help="of a round; at batch 1 a third (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--name", default="speed", help="of the files in DIR (default: %(default)s)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the exported models here for the next run")
    args = parser.parse_args()
    if args.source_length is not None and not 2 <= args.source_length <= 512:
        parser.error(f"--source-length {args.source_length}: from 2 to 512")

    sources = read_sources(args.sources, max(args.sentences, *args.batches), args.source_length)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(exist_ok=True)
        prepare(args, folder)
        rows = measure(args, folder, sources)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "cache", "sources", "name")}
    packages = ("torch", "ve-fairseq", "onnxruntime", "ctranslate2", "numpy")
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    report = {
        "settings": settings,
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()},
        "versions": {name: version(name) for name in packages},
        "source_tokens": {"mean": statistics.mean(map(len, sources)), "longest": len(sources[0])},
        "rows": rows,
        "ratios": ratios(rows, args.batches),
    }
    args.out.mkdir(exist_ok=True, parents=True)
    (args.out / f"{args.name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (args.out / f"{args.name}.md").write_text(table(report), encoding="utf-8")
    draw(report, args.out / f"{args.name}.png")
    print(table(report), end="")


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Exports what the systems need, where it is not there yet."""
    for name in args.systems:
        if name.startswith("onnx-") and not (folder / name).exists():
            from bang.deploy import export

            export.export(trained_model(args.arch), folder / name, name.removeprefix("onnx-"))
        if name.startswith("ctranslate2-") and not (folder / "ctranslate2").exists():
            write_ctranslate2(args.arch, folder / "ctranslate2")


if __name__ == "__main__":
    main()
