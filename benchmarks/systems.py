"""What `speed.py` compares: our engines, NAR as the reference formulates it, fairseq's Transformer, CTranslate2.

Weights are random: speed does not depend on what texts say.
"""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from bang.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
VOCAB = REPOSITORY / "vocab.txt"
LINK = REPOSITORY / "models" / "debian-synopsis" / "link.bin"
"""Of the modes that have one: a link of 28,734 target texts, in the models' vocabulary."""

MODES = {
    "nar": dict(mode="nar", link=False),
    "nar link": dict(mode="nar"),
    "nar link rescore 4": dict(mode="nar", rescore=4),
    "semi-nar 4": dict(mode="semi-nar", block_size=4, link=False),
    "semi-nar 4 link": dict(mode="semi-nar", block_size=4),
    "ar greedy": dict(mode="ar", beam=1),
    "ar beam 4": dict(mode="ar", beam=4),
    "speculative 4": dict(mode="speculative", draft_length=4),
}
LINKED = tuple(name for name in MODES if "link" in name)
OURS = ("torch-float32", "torch-bfloat16", "onnx-float32", "onnx-int8")
ON_GPUS = ("torch-float16", "onnx-float16")
OTHERS = {
    "plain": ("nar",),
    "fairseq": ("ar greedy", "ar beam 4"),
    "ctranslate2-float32": ("ar greedy",),
    "ctranslate2-int8": ("ar greedy",),
}
"""Systems, those that are made for GPUs, and the modes that the others have."""

PACKAGES = {"onnx": "onnxruntime", "ctranslate2": "ctranslate2"}
"""What a kind of system needs beside torch and fairseq."""


def check(systems: list[str]) -> None:
    """Checks that what the systems need is installed.

    Raises:
        ValueError: a package is missing; one line.
    """
    for name in systems:
        package = PACKAGES.get(name.partition("-")[0])
        if package is not None and find_spec(package) is None:
            raise UserError(f"{name} needs the package {package}: pip install '.[benchmarks]', or leave it out of --systems")


def prepare(systems: list[str], arch: str, folder: Path) -> None:
    """Exports what the systems need, where it is not there yet."""
    for name in systems:
        if name.startswith("onnx-") and not (folder / name).exists():
            from bang.deploy import export

            export.export(trained_model(arch), folder / name, name.removeprefix("onnx-"))
        if name.startswith("ctranslate2-") and not (folder / "ctranslate2").exists():
            write_ctranslate2(arch, folder / "ctranslate2")


def make_system(name: str, arch: str, folder: Path, threads: int, device: str):
    """A function of a mode that gives a function of a batch of sources and a length.

    That one gives two numbers for each source: the tokens of its text, and the decoder's passes that they took.
    """
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
            tokens = [len(one.hypotheses[0]) for one in found]
            return list(zip(tokens, tokens))  # a text that is cut at its length takes no pass for its end

        return lambda mode: translate
    if kind == "onnx":
        from bang.inference.onnx_engine import load
        from bang.safety.folder import EXPORT, read_config

        engine = load(folder / name, read_config(folder / name, EXPORT), link=LINK, device=device, threads=threads)[0]
    else:
        import torch

        torch.set_num_threads(threads)
        if kind in ("plain", "fairseq"):
            return _torch_baseline(kind, arch, device)
        from bang.inference.torch_engine import TorchEngine

        engine = TorchEngine(trained_model(arch), device, precision, threads)
    from bang.options import Options

    def of_mode(mode):
        def generate(batch, length):
            found = engine.generate(batch, Options(**MODES[mode], min_len=length, max_len=length))
            return [(len(one.tokens), max(one.passes)) for one in found]

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
            width = max(inputs["src_tokens"].size(1), length + 1)
            previous = inputs["src_tokens"].new_full((len(batch), width), dictionary.eos())
            logits = network(**inputs, prev_output_tokens=previous, layout=visibility.non_autoregressive(width))[0]
            scores, tokens = logits.float().log_softmax(-1).max(-1)
            return [(len(row[:length]), 1) for row in tokens.tolist()]

        return lambda mode: canvas
    from fairseq.sequence_generator import SequenceGenerator

    network, task = transformer(arch)
    network.to(device)

    def of_mode(mode):
        dictionary = task.target_dictionary

        def generate(batch, length):
            generator = SequenceGenerator([network], dictionary, beam_size=MODES[mode]["beam"], max_len_b=length, min_len=length)
            inputs = sample(batch, dictionary.pad(), dictionary.eos())
            found = generator.generate([network], {"net_input": inputs})
            return [(len(one[0]["tokens"]) - 1, len(one[0]["tokens"])) for one in found]  # the end is a token

        return generate

    return of_mode


def trained_model(arch: str):
    """A model with new weights, as a checkpoint would hold it."""
    import torch
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    from bang import plugin  # noqa: F401
    from bang.decoding.link import Link
    from bang.inference.trained_model import TrainedModel, size_options
    from bang.network.model import BangModel
    from bang.plugin.dictionary import BertDictionary

    dictionary = BertDictionary.load(VOCAB)
    cfg = MODEL_DATACLASS_REGISTRY[arch](max_source_positions=512, max_target_positions=512)
    torch.manual_seed(1)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    weights = BangModel.build_model(OmegaConf.structured(cfg), task).state_dict()
    # as if trained in all modes, with the shipped model's blocks: a link looks behind its blocks as far as these reach
    trained = {"_name": "ngram_language_loss_NAR_mixed", "nar_ratio": 0.3, "semi_nar_ratio": 0.3, "block_size": 6}
    sizes = {name: getattr(cfg, name) for name in size_options(arch)}
    link = Link.load(LINK, dictionary.symbols)
    return TrainedModel(arch, sizes, weights, dictionary, trained, 0, ["src", "tgt"], link=link)


def transformer(arch: str):
    """fairseq's Transformer of the same sizes, with new weights, and its task."""
    import torch
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.models.transformer import TransformerConfig, TransformerModelBase
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    from bang import plugin  # noqa: F401
    from bang.plugin.dictionary import BertDictionary

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


def read_sources(path: Path, count: int, length: int | None) -> list:
    """Ids of the first sources, eos last, longest first; joined one after another up to `length` if given."""
    import numpy as np

    from bang.text.vocabulary import read_vocabulary
    from bang.text.wordpieces import load_word_pieces

    pieces, ids = load_word_pieces(), {piece: index for index, piece in enumerate(read_vocabulary(VOCAB))}
    lines = path.read_text(encoding="utf-8").splitlines()
    tokenized = [[ids[piece] for piece in pieces(line).split()] for line in lines]
    if length is not None:
        stream = [token for line in tokenized for token in line]
        tokenized = [stream[i * (length - 1) : (i + 1) * (length - 1)] for i in range(count)]
    sources = [np.array(line[:511] + [ids["[SEP]"]]) for line in tokenized[:count]]
    if len(sources) < count or len(sources[-1]) < 2:
        raise UserError(f"{path}: too short for {count} sources" + (f" of {length}" if length else ""))
    return sorted(sources, key=len, reverse=True)
