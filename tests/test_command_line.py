"""Options that today's fairseq reads differently."""

import importlib.util
import multiprocessing
import pickle
import shutil
import sys
from collections import OrderedDict

import pytest
import torch
from conftest import GOLDEN, ROOT
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from bang.errors import user_error_message
from bang.plugin import command_line
from bang.plugin.data import PairDataset
from bang.safety import hooks
from bang.text.vocabulary import read_vocabulary
from bang.trained_modes import split_shares

USER_DIR = ["--user-dir", ROOT / "bang"]
COMMAND = ["data-bin", "--task", "translation_bang", "--arch", "bang_ar_nar_mixed", "--optimizer", "adam", "--max-tokens", "9"]
COMMAND += ["--criterion", "ngram_language_loss_NAR_mixed"]


def parse(*arguments):
    return convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), input_args=[*COMMAND, *arguments])
    )


def test_min_lr_is_stop_min_lr():
    cfg = parse("--lr-scheduler", "inverse_sqrt", "--min-lr", "1e-09", "--warmup-init-lr", "1e-07")
    assert cfg.optimization.stop_min_lr == 1e-09 and cfg.lr_scheduler.warmup_init_lr == 1e-07
    assert parse("--lr-scheduler", "inverse_sqrt").optimization.stop_min_lr == -1
    assert parse("--lr-scheduler", "inverse_sqrt", "--stop-min-lr", "1e-06").optimization.stop_min_lr == 1e-06


def test_min_lr_stays_an_option_of_schedulers_that_have_it():
    cfg = parse("--lr-scheduler", "cosine", "--lr", "0.1", "--min-lr", "0.001")
    assert cfg.lr_scheduler.min_lr == 0.001 and cfg.optimization.stop_min_lr == -1


@pytest.mark.skipif(importlib.util.find_spec("torch_xla") is not None, reason="with torch_xla --bf16 may mean a TPU")
def test_bf16_is_no_tpu():
    cfg = parse("--bf16")
    assert cfg.common.bf16 and not cfg.common.tpu


def test_published_and_dashed_spelling():
    for arguments in (
        ["--num_buckets", "16", "--relative_max_distance", "64"],
        ["--num-buckets", "16", "--relative-max-distance", "64"],
    ):
        model = parse(*arguments).model
        assert (model.num_buckets, model.relative_max_distance) == (16, 64)


def test_architectures_set_defaults_and_options_win():
    base = ["--arch", "bang_ar_nar_mixed_base", "--dropout", "0.3"]
    model = parse(*base).model
    assert (model.encoder_embed_dim, model.activation_fn, model.share_all_embeddings) == (768, "gelu", True)
    assert (model.dropout, model.activation_dropout) == (0.3, 0.1)


def test_every_option_has_a_help_text():
    text = options.get_training_parser().format_help()
    parser = options.get_training_parser()
    options.parse_args_and_arch(parser, input_args=COMMAND)
    ours = {
        option: action.help
        for action in parser._actions
        for option in action.option_strings
        if option in "--nar-ratio --semi-nar-ratio --block-size --ngram --decoding --max-nar-length --load-sep --min-lr".split()
    }
    assert len(ours) == 8 and all(ours.values()) and "--nar-ratio" not in text


class BadIds(PairDataset):
    """Pairs whose ids are not in the dictionary; its workers meet our error."""

    def __init__(self, dictionary):
        tokens = [torch.tensor([200, len(dictionary), 102])] * 2
        super().__init__(tokens, [3, 3], dictionary)


def raise_here(_):
    raise ValueError("not BANG's")


def mistake(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return user_error_message(error)
    raise AssertionError("no error")


def in_a_pool(function, argument):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(function, (argument,))


def in_a_worker(dataset):
    list(torch.utils.data.DataLoader(dataset, num_workers=1))


def test_mistakes_are_told_from_defects(dictionary, tmp_path):
    (tmp_path / "vocab.txt").write_text("piece\n")
    message = f"{tmp_path}/vocab.txt, line 1: 'piece' is not 'piece count'"
    assert mistake(read_vocabulary, tmp_path / "vocab.txt").startswith(message)
    assert mistake(in_a_pool, read_vocabulary, tmp_path / "vocab.txt").startswith(message)
    assert mistake(in_a_worker, BadIds(dictionary)).startswith("source of sentence 0 has id 1389, its dictionary 1389")
    assert mistake(open, tmp_path / "gone") == f"{tmp_path}/gone: no such file or directory"
    # somebody else's errors, and a defect of ours
    assert mistake(raise_here, 1) is None and mistake(in_a_pool, raise_here, 1) is None
    assert mistake(dictionary.save, "\0") is None  # open() fails
    assert mistake(split_shares, {"nar_ratio": "0.5"}) is None


@pytest.mark.parametrize(
    "script, level, told",
    [
        ("/usr/bin/fairseq-train", "INFO", "fairseq-train: error: told\n"),
        ("/site-packages/fairseq_cli/generate.py", "", "fairseq-generate: error: told\n"),
        ("/usr/bin/fairseq-train", "debug", None),
        ("/usr/bin/pytest", "", None),
    ],
)
def test_one_line_in_fairseqs_command_lines_alone(script, level, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setenv("LOGLEVEL", level)
    monkeypatch.setattr(sys, "excepthook", lambda *error: print("a traceback", file=sys.stderr))
    monkeypatch.setattr(command_line, "user_error_message", lambda error: str(error) if str(error) == "told" else None)
    command_line.print_user_errors()
    sys.excepthook(ValueError, ValueError("told"), None)
    assert capsys.readouterr().err == (told or "a traceback\n")
    sys.excepthook(ValueError, ValueError("a defect"), None)
    assert capsys.readouterr().err == "a traceback\n"


def test_nothing_is_said_of_how_fairseq_calls_hydra(data_bin, run, tmp_path):
    """It warned in 25 lines at the start of each command, and a model of fairseq's made LOGLEVEL count for nothing."""
    command = [
        "fairseq-generate",
        data_bin,
        "--user-dir",
        ROOT / "bang",
        "--task",
        "translation_bang",
        "--path",
        tmp_path / "gone.pt",
    ]
    said = run(*command, "--batch-size", "4", fails=True, env={"PYTHONWARNINGS": "", "LOGLEVEL": "WARNING"})
    assert said.splitlines() == [f"fairseq-generate: error: checkpoint {tmp_path}/gone.pt: no such file"]


MISTAKES = [
    (
        "fairseq-train",
        "--arch bang_ar_nar_mixed --criterion ngram_language_loss_NAR_mixed --cpu",
        "Must specify batch size either",
    ),
    (
        "fairseq-train",
        "--arch bang_ar_nar_mixed --max-tokens 500 --distributed-world-size 2 --cpu",
        "world size is 2 but have 0 available",
    ),
    ("fairseq-train", "--arch bang_ar_nar_mixed --max-tokens 500 --fp16", "--fp16: needs a GPU that torch can use"),
    ("fairseq-generate", "", "--path required for generation!"),
    ("fairseq-generate", "--path gone.pt", "checkpoint gone.pt: no such file"),
    (
        "fairseq-interactive",
        "--path {golden}/mixed/checkpoint.pt --batch-size 9 --buffer-size 2",
        "--batch-size cannot be larger than",
    ),
    ("fairseq-validate", "--path gone.pt --batch-size 4", "Model file not found: gone.pt"),
]


@pytest.mark.parametrize("program, options, said", [
    pytest.param(*each, marks=() if index in (0, 2) else pytest.mark.slow) for index, each in enumerate(MISTAKES)
])  # fmt: skip
def test_a_mistake_is_the_last_line(program, options, said, data_bin, run, tmp_path):
    """Also where it is fairseq that refuses: no traceback, and no warning of a library."""
    words = options.format(golden=GOLDEN).split()
    output = run(program, data_bin, *USER_DIR, "--task", "translation_bang", *words, fails=True, cwd=tmp_path)
    assert output.splitlines()[-1].startswith(f"{program}: error: {said}"), output[-500:]
    assert "Traceback" not in output and "Warning" not in output


def test_a_folder_without_binarized_pairs(run, tmp_path):
    checkpoint = GOLDEN / "mixed" / "checkpoint.pt"
    output = run("fairseq-generate", tmp_path, *USER_DIR, "--task", "translation_bang", "--path", checkpoint, fails=True)
    assert output.splitlines()[-1].startswith(f"fairseq-generate: error: {tmp_path}: holds no binarized pairs, such as train.")


def test_what_fairseq_refuses_is_told_from_defects():
    def refusal(code, package):
        try:
            exec(code, {"__package__": package})
        except BaseException as error:
            return command_line.describe_refusal(error)

    assert refusal("assert False, 'give --path'", "fairseq_cli") == "give --path; BANG_TRACEBACK=1 shows where"
    assert refusal("raise Exception('no pair' + chr(10) + 'more')", "fairseq.tasks.translation").startswith("no pair; BANG_")
    for code, package in (("assert False, 'ours'", "bang.plugin.task"), ("assert False", "fairseq_cli"),
                         ("1 / 0", "fairseq"), ("{}['x']", "fairseq"), ("assert False, 'x'", "fairseqs")):  # fmt: skip
        assert refusal(code, package) is None, (code, package)


def test_weights_that_do_not_fit_name_their_file(run, data_bin, tmp_path):
    """A checkpoint without a fingerprint of its dictionary, and data of a larger one."""
    folder = shutil.copytree(data_bin, tmp_path / "bin")
    for side in ("src", "tgt"):
        with open(folder / f"dict.{side}.txt", "a", encoding="utf-8") as file:
            file.write("zzanother 1\n")
    checkpoint = GOLDEN / "mixed" / "checkpoint.pt"
    words = ["--task", "translation_bang", "--path", checkpoint, "--batch-size", "4", "--cpu"]
    said = run("fairseq-generate", folder, *USER_DIR, *words, fails=True).splitlines()[-1]
    assert said.startswith(
        f"fairseq-generate: error: checkpoint {checkpoint}: encoder.embed_tokens.weight is (1389, 48) there and "
    )


def test_weights_pickle_as_any_others_do():
    """Workers that train together get them from the first, and take plain data alone."""
    weights = hooks.Weights({"a": torch.ones(1)})
    weights.source = "checkpoint c.pt"
    again = pickle.loads(pickle.dumps(weights))
    assert type(again) is OrderedDict and again == weights
