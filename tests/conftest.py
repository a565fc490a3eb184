"""What the tests share: the golden files, models built from them, and the real command lines."""

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq_cli.preprocess import main as fairseq_preprocess
from fairseq_cli.train import main as fairseq_train
from fairseq_cli.train import should_stop_early
from filelock import FileLock
from omegaconf import OmegaConf
from support.fairseq_configurations import remember_configurations
from support.foreign_models import randomize
from support.forked_commands import ForkedCommands

import bang  # noqa: F401  (registers; also shows that it may be imported beside --user-dir)
from bang.__main__ import main as bang_main
from bang.decoding.counting import make_link
from bang.decoding.link import Link, Weights
from bang.inference.api import Bang
from bang.inference.torch_engine import TorchEngine
from bang.inference.trained_model import read_checkpoint
from bang.plugin.dictionary import BertDictionary
from bang.plugin.task import BangTranslationConfig, BangTranslationTask

remember_configurations()

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
VOCAB_SMALL = GOLDEN / "data" / "vocab_small.txt"
CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
DEBIAN = ROOT / "examples" / "debian"


def debian(name):
    """The lines of a file of raw pairs, test.src for instance."""
    return (DEBIAN / name).read_text(encoding="utf-8").splitlines()


def copy_pairs(folder, count, **counts):
    """The first raw pairs of each split, in a folder that is made; `test=4`: of this split so many."""
    folder.mkdir(exist_ok=True)
    for path in DEBIAN.glob("*.???"):
        lines = debian(path.name)[: counts.get(path.stem, count)]
        (folder / path.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


TEXTS, REFERENCES = debian("test.src")[:12], debian("test.tgt")[:12]

SPECIAL = ["extra [PAD] pep monitor[PAD]", "[SEP] python library", "a [MASK] for [CLS] files [SEP]", "[UNK] [X_SEP] tool"]
"""Special pieces, spelled by a user."""

TINY = (
    "--encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 48 --decoder-embed-dim 48 --encoder-ffn-embed-dim 96 "
    "--decoder-ffn-embed-dim 96 --encoder-attention-heads 4 --decoder-attention-heads 4 --share-all-embeddings"
).split()
"""The golden models' size."""


def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def logging_of_its_own():
    """A script's main that switches logging off does so for its own test alone."""
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)


@pytest.fixture(autouse=True)
def signals_of_its_own():
    """A training or a command that runs in this process takes the signals for its own test alone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)


@pytest.fixture(scope="session")
def dictionary():
    return BertDictionary.load(VOCAB_SMALL)


@pytest.fixture
def make_task(dictionary):
    """A translation task on the small dictionary, without data."""

    def make(**options):
        cfg = BangTranslationConfig(max_source_positions=512, max_target_positions=512, data="data-bin")
        cfg.restore_file = cfg.save_dir = cfg.checkpoint_paths = None
        cfg.skip_invalid_size_inputs_valid_test = False
        for name, value in options.items():
            setattr(cfg, name, value)
        return BangTranslationTask(cfg, dictionary, dictionary)

    return make


@pytest.fixture
def make_model(make_task):
    """A new model of the golden size, in evaluation mode."""

    def make(name="bang_ar_nar_mixed", **options):
        cfg = MODEL_DATACLASS_REGISTRY[name](
            encoder_layers=2, decoder_layers=2, encoder_embed_dim=48, decoder_embed_dim=48, encoder_ffn_embed_dim=96,
            decoder_ffn_embed_dim=96, encoder_attention_heads=4, decoder_attention_heads=4, share_all_embeddings=True,
            dropout=0.0, max_source_positions=512, max_target_positions=512,
        )  # fmt: skip
        cfg._name = name
        for option, value in options.items():
            setattr(cfg, option, value)
        torch.manual_seed(7)
        return make_task().build_model(OmegaConf.structured(cfg)).eval()

    return make


@pytest.fixture(scope="session")
def golden_states():
    """The golden checkpoints, through fairseq's own loader."""
    return {name: checkpoint_utils.load_checkpoint_to_cpu(str(GOLDEN / name / "checkpoint.pt")) for name in ("mixed", "nar")}


@pytest.fixture
def golden_model(golden_states, make_task):
    """A golden model by name, in evaluation mode."""

    def make(name):
        state = golden_states[name]
        model = make_task().build_model(state["cfg"].model, from_checkpoint=True)
        model.load_state_dict(dict(state["model"]))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def forward_arrays():
    """The golden batches and outputs, by model."""
    return {
        name: {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / name / "forward.npz").items()}
        for name in ("mixed", "nar")
    }


@pytest.fixture(scope="session")
def forked_commands():
    """The process of ForkedCommands; started by the first command that needs it."""
    started = []
    yield lambda: started[0] if started else started.append(ForkedCommands()) or started[0]
    for commands in started:
        commands.close()


@pytest.fixture(scope="session")
def run(forked_commands):
    """Runs a command line in a process of its own; a CLI of fairseq by its name. Returns what it printed to stdout.

    It is forked from one that has imported torch, if it is Python's, and so are those that a script starts.
    """

    def call(*command, cwd=None, fails=False, env=None):
        program, *arguments = (str(part) for part in command)
        environment = {**os.environ, **forked_commands().environment(), **(env or {})}
        if program.startswith("fairseq-"):
            main = {"fairseq-hydra-train": "hydra_train"}.get(program, program.removeprefix("fairseq-"))
            done = forked_commands().run("-m", f"fairseq_cli.{main}", *arguments, cwd=cwd, env=environment)
        elif program == sys.executable and arguments[0] == "-m":
            done = forked_commands().run(*arguments, cwd=cwd, env=environment)
        else:
            done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
        if fails:
            assert done.returncode != 0, done.stdout[-2000:]
            return done.stdout + done.stderr
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return call


@pytest.fixture(scope="session")
def data_bin(tmp_path_factory):
    """The golden pairs, binarized by the published command with the small dictionary."""
    folder = tmp_path_factory.mktemp("data")
    for side in ("src", "tgt"):
        shutil.copy(GOLDEN / "data" / f"tokenized_train.{side}", folder / f"train.{side}")
        shutil.copy(GOLDEN / "data" / f"tokenized_test.{side}", folder / f"test.{side}")
        lines = (folder / f"train.{side}").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"valid.{side}").write_text("".join(lines[:12]), encoding="utf-8")
    command = [
        "--user-dir", ROOT / "bang", "--task", "translation_bang", "--source-lang", "src", "--target-lang", "tgt",
        "--trainpref", folder / "train", "--validpref", folder / "valid", "--testpref", folder / "test",
        "--destdir", folder / "bin", "--srcdict", VOCAB_SMALL, "--tgtdict", VOCAB_SMALL,
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # in this process: it is needed by most files
        fairseq_preprocess(options.get_preprocessing_parser().parse_args(list(map(str, command))))
    return folder / "bin"


TRAINING = (
    "--task translation_bang --arch bang_ar_nar_mixed --criterion ngram_language_loss_NAR_mixed --optimizer adam --lr 0.004 "
    "--lr-scheduler inverse_sqrt --warmup-updates 2 --batch-size 16 --max-source-positions 512 --max-target-positions 512 "
    "--num-workers 0 --cpu"
).split()


@pytest.fixture
def train_here(data_bin, tmp_path):
    """fairseq-train in this process on the golden pairs, 3 updates an epoch; the folder of its checkpoints by default."""

    def call(*arguments, validate=False, data=data_bin):
        for function in (checkpoint_utils.save_checkpoint, should_stop_early):  # what an earlier run left
            vars(function).clear()
        command = [data, *TRAINING, *TINY, "--save-dir", tmp_path / "checkpoints", *arguments]
        command += [] if validate else ["--disable-validation"]
        arguments = options.parse_args_and_arch(options.get_training_parser(), [str(part) for part in command])
        fairseq_train(convert_namespace_to_omegaconf(arguments))
        return tmp_path / "checkpoints"

    return call


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command line of fairseq in this process, with --user-dir; what it prints to stdout."""

    def call(program, *arguments):
        main = importlib.import_module("fairseq_cli." + program.removeprefix("fairseq-")).cli_main
        command = [program, *arguments, "--user-dir", ROOT / "bang"]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        capsys.readouterr()
        handlers = logging.root.handlers[:]
        try:
            main()
        finally:  # fairseq-validate replaces them
            logging.root.handlers[:] = handlers
        return capsys.readouterr().out

    return call


@pytest.fixture
def pairs(make_task, data_bin):
    """Batches of a split of the golden pairs: pairs('test', batch_size=7)."""

    def batches(split="test", batch_size=36, permute=None, **options):
        task = make_task(data=str(data_bin), source_lang="src", target_lang="tgt", **options)
        task.cfg.dataset_impl, task.cfg.train_subset, task.cfg.required_seq_len_multiple = None, "train", 1
        task.load_dataset(split)
        dataset = task.dataset(split)
        indices = dataset.ordered_indices()
        if permute is not None:
            indices = np.random.default_rng(permute).permutation(indices)
        return [dataset.collater([dataset[i] for i in batch]) for batch in dataset.batch_by_size(indices, None, batch_size)]

    return batches


def hypotheses(log: str, base: float = 2.0):
    """{sentence: (score in nats, text)} from H lines whose scores are in `base`."""
    found = {}
    for sentence, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", log, flags=re.M):
        found[int(sentence)] = (float(score) * math.log(base), text)
    return found


def last_line(output: str) -> str:
    """The line that a failed command ends with, and no traceback above it."""
    assert "Traceback" not in output
    return output.strip().splitlines()[-1]


def train_log(log: str, kind: str = "train_inner"):
    """The JSON records that fairseq-train --log-format json printed."""
    return [json.loads(line) for line in re.findall(rf"\| {kind} \| (\{{.*\}})$", log, flags=re.M)]


@pytest.fixture
def little_bert(tmp_path):
    """A random BERT of the public vocabulary, 6 layers of width 32, as Hugging Face saves it."""
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(tmp_path / "bert")
    pieces = [line.rsplit(" ", 1)[0] for line in (ROOT / "vocab.txt").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return tmp_path / "bert"


@pytest.fixture(scope="session")
def pieces():
    """The small vocabulary."""
    return [line.rsplit(" ", 1)[0] for line in VOCAB_SMALL.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def trained():
    """A golden checkpoint, read for inference."""
    return read_checkpoint(CHECKPOINT, VOCAB_SMALL)


@pytest.fixture(scope="module")
def model():
    """The same, ready to generate."""
    return Bang.load(CHECKPOINT, vocab=VOCAB_SMALL)


@pytest.fixture(scope="module")
def texts():
    """30 raw descriptions."""
    return debian("test.src")[:30]


@pytest.fixture(scope="session")
def link_file(trained, tmp_path_factory):
    """A link of the golden training targets; heavy weights, so that it changes most texts of the little model."""
    pieces, unk = trained.dictionary.symbols, trained.dictionary.unk()
    ids = {piece: index for index, piece in enumerate(pieces)}
    lines = (GOLDEN / "data" / "tokenized_train.tgt").read_text(encoding="utf-8").splitlines()
    texts = [[ids.get(piece, unk) for piece in line.split()] for line in lines]
    weights = Weights(0.6, 3.0, 0.8, candidates=12, width=2)
    path = tmp_path_factory.mktemp("link") / "link.bin"
    make_link(texts, pieces, trained.dictionary.eos(), weights=weights).save(path)
    return path


@pytest.fixture(scope="session")
def link(link_file):
    return Link.load(link_file)


@pytest.fixture(scope="session")
def linked(trained, link):
    """The golden checkpoint with the link, and as if it had been trained with blocks of 5."""
    criterion = {**trained.criterion, "semi_nar_ratio": 0.1, "block_size": 5}
    return TorchEngine(dataclasses.replace(trained, link=link, criterion=criterion), device="cpu")


@pytest.fixture(scope="session")
def linked_runtime(exported, link_file, linked):
    """Its export."""
    model = Bang.load(exported, link=link_file, threads=1)
    model.engine.blocks = linked.blocks
    return model


@pytest.fixture(scope="session")
def export_command(tmp_path_factory):
    """The folder of `bang export`, float32, and what the command said; made once for all workers of a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    new, said = folder / "exported", folder / "exported.said"
    with FileLock(folder / "exported.lock"):
        if not said.exists():
            (folder / "texts").write_text("\n".join(["", *TEXTS[:3]]) + "\n", encoding="utf-8")
            (folder / "wanted").write_text("\n".join(["", *REFERENCES[:3]]) + "\n", encoding="utf-8")
            arguments = ["export", GOLDEN / "mixed" / "checkpoint.pt", new, "--vocab", VOCAB_SMALL]
            arguments += ["--check", folder / "texts", "--reference", folder / "wanted"]
            with contextlib.redirect_stderr(io.StringIO()) as stderr:
                bang_main(list(map(str, arguments)))
            said.write_text(stderr.getvalue(), encoding="utf-8")
    return new, said.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def exported(export_command):
    return export_command[0]


@pytest.fixture(scope="session")
def plugin(trained):
    return TorchEngine(trained, device="cpu")


@pytest.fixture(scope="session")
def runtime(exported):
    return Bang.load(exported, threads=1)


@pytest.fixture(scope="session")
def sources(trained):
    """The golden test sources, as ids, in the order of the file."""
    ids = {piece: index for index, piece in enumerate(trained.dictionary.symbols)}
    lines = (GOLDEN / "data" / "tokenized_test.src").read_text(encoding="utf-8").splitlines()
    unk, eos = trained.dictionary.unk(), trained.dictionary.eos()
    return [np.array([ids.get(piece, unk) for piece in line.split()] + [eos]) for line in lines]


def without_sums(folder):
    """Makes a folder one of older versions, which told no checksums: it may be changed."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def quantized(exported, trained, tmp_path_factory):
    """The same graphs in int8, of the full 8 bits and of 7."""
    from bang.deploy import export

    folders = []
    for reduce_range in (False, True):
        folder = tmp_path_factory.mktemp("export") / "int8"
        without_sums(shutil.copytree(exported, folder))
        for name in (export.ENCODER, export.DECODER):
            export.quantize(folder / name, reduce_range)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def bert(pieces):
    """A random BERT of the small vocabulary, 3 layers of width 48."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(pieces), hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        layer_norm_eps=1e-5, attn_implementation="eager",
    )  # fmt: skip
    return randomize(BertModel(config))


@pytest.fixture
def bert_folder(bert, pieces, tmp_path):
    """As Hugging Face saves it."""
    bert.save_pretrained(tmp_path / "bert")
    vocabulary = ["[unused1]" if number == 2 else piece for number, piece in enumerate(pieces)]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return tmp_path / "bert"


@pytest.fixture(scope="module")
def prophetnet(pieces):
    """A random ProphetNet of the small vocabulary, 2 layers of width 48 on either side."""
    from transformers import ProphetNetConfig, ProphetNetForConditionalGeneration

    config = ProphetNetConfig(
        vocab_size=len(pieces), hidden_size=48, encoder_ffn_dim=96, decoder_ffn_dim=96, num_encoder_layers=2,
        num_decoder_layers=2, num_encoder_attention_heads=4, num_decoder_attention_heads=4,
    )  # fmt: skip
    return randomize(ProphetNetForConditionalGeneration(config))


@pytest.fixture
def prophetnet_folder(prophetnet, pieces, tmp_path):
    """As Hugging Face saves it."""
    prophetnet.save_pretrained(tmp_path / "prophetnet")
    (tmp_path / "prophetnet" / "prophetnet.tokenizer").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return tmp_path / "prophetnet"
