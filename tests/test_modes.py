"""The table of modes: a mode is one entry, and everything that decodes, checks, warns or documents reads it."""

import argparse
import ast
import json
import logging
import re
import shlex
import shutil

import pytest
import torch
from conftest import GOLDEN, ROOT, TEXTS, hypotheses

from bang import modes, visibility
from bang.inference.api import Bang
from bang.inference.torch_engine import TorchEngine
from bang.modes import MODES, Mode, Strategy
from bang.options import DESCRIBED, Options
from bang.recipes.tasks import EVALUATED_IN
from bang.recipes.training import TRAINING_OPTIONS
from bang.trained_modes import trained_modes


def _doubling(options):
    """Blocks of 1, 2, 4, 8, 8 ... slots, kept whole."""
    return Strategy(drafts=7, drafts_of_pass=lambda number: 2**number - 1)


@pytest.fixture
def doubling(monkeypatch):
    """A mode that is not in the package: one entry and one function."""
    layout = MODES["semi-nar"].layout
    mode = Mode("doubling", "doubling", "as semi-NAR", layout, _doubling, options=("eos_penalty",), trained_as="semi-nar")
    monkeypatch.setitem(MODES, mode.name, mode)
    return mode


def _expected(model, source, longest):
    """The mode written down naively: teacher-forced passes over whole blocks, no cache, no loop of ours."""
    tokens, eos = [], model.decoder.dictionary.eos()
    for size in (1, 2, 4, *[8] * longest):
        main = torch.tensor([[eos, *tokens]])
        layout = visibility.Layout(1, size, len(tokens), 0, len(tokens) + 1)
        lengths = torch.tensor([len(source)])
        logits = model(torch.from_numpy(source)[None], lengths, main, layout=layout)[0][0, :size].clone()
        logits[:, model.decoder.dictionary.pad()] = -torch.inf
        if not tokens:
            logits[0, eos] = -torch.inf  # no empty text
        for token in logits.argmax(-1).tolist():
            if token == eos or len(tokens) == longest:
                return tokens
            tokens.append(token)


def test_a_new_mode_runs_everywhere(doubling, golden_model, trained, exported, sources, data_bin, cli, tmp_path):
    model = golden_model("mixed")
    assert doubling.name in model.decodes
    with torch.no_grad():
        expected = [_expected(model, source, longest=20) for source in sources]
    assert len({tuple(text) for text in expected}) > 12 and max(map(len, expected)) > 7  # four passes at least

    options = Options(mode=doubling.name, max_len=20)
    found = TorchEngine(trained, device="cpu").generate(sources, options)
    assert [text.tokens for text in found] == expected
    longest = max(found, key=lambda text: len(text.tokens))
    assert longest.passes[:8] == [1, 2, 2, 3, 3, 3, 3, 4]

    folder = tmp_path / "exported"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "config.json").read_text())
    config["modes"].append(doubling.name)  # as an export of today's table has it
    (folder / "config.json").write_text(json.dumps(config))
    runtime = Bang.load(folder, threads=1)
    assert [text.tokens for text in runtime.engine.generate(sources, options)] == expected
    python = Bang(TorchEngine(trained, device="cpu"), runtime.pieces)
    texts = [api.generate(TEXTS, doubling.name, max_len=20) for api in (python, runtime)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 6

    log = cli(
        "fairseq-generate", data_bin, "--task", "translation_bang", "--path", GOLDEN / "mixed" / "checkpoint.pt", "--gen-subset",
        "test", "--decoding", doubling.name, "--beam", 1, "--max-len-b", 20, "--batch-size", 5, "--cpu",
    )  # fmt: skip
    symbols = trained.dictionary.symbols
    written = {sentence: text for sentence, (_, text) in hypotheses(log).items()}
    assert written == {i: " ".join(symbols[token] for token in text) for i, text in enumerate(expected)}


def test_a_new_modes_options_are_checked(doubling, golden_model, make_task, caplog):
    from fairseq.dataclass.configs import GenerationConfig

    with caplog.at_level(logging.WARNING):
        task = make_task(decoding=doubling.name, draft_length=3, eos_penalty=1.0)
        task.build_generator([golden_model("mixed")], GenerationConfig(beam=1, sampling=True))
    idle = [match[1] for record in caplog.records if (match := re.match(r"(--\S+) has no effect", record.getMessage()))]
    assert idle == ["--draft-length", "--sampling"]


@pytest.mark.parametrize("name", MODES)
def test_an_entry_agrees_with_itself(name):
    """An option of ours is described, and the strategy gives what the layout trains."""
    mode = MODES[name]
    assert mode.name == name and mode.training in modes.trained() and modes.find(name) is mode
    assert mode.block_option is None or mode.block_option in mode.options
    strategy, layout = mode.strategy(Options(mode=name)), mode.layout(12, Options(mode=name), 0)
    assert strategy.anchored == bool(layout.main_length)  # a block without an anchor runs no main stream
    if not strategy.verify and strategy.anchored:
        assert layout.block_size == 1 + strategy.drafts


def test_unknown_modes_are_named_in_one_line(make_task, golden_model):
    from fairseq.dataclass.configs import GenerationConfig

    with pytest.raises(ValueError, match="^mode 'nra': give one of ar, semi-nar, nar, speculative$"):
        make_task(decoding="nra").build_generator([golden_model("mixed")], GenerationConfig())


def test_fairseqs_task_the_api_and_the_command_line_share_one_description():
    from bang.cli import _options
    from bang.plugin.task import OF_MODES, BangTranslationConfig

    fields = BangTranslationConfig.__dataclass_fields__
    for name in OF_MODES:
        assert fields[name].default == DESCRIBED[name].default
        assert fields[name].metadata["help"] == DESCRIBED[name].metadata["help"]
    parser = argparse.ArgumentParser()
    _options.add_generation_arguments(parser)
    assert {action.dest for action in parser._actions} - {"help"} == set(DESCRIBED) - {"link"}  # its file is the model's
    assert "speculative" in parser.format_help()


NAMES_MODES = {
    "modes.py": "the table",
    "options.py": "a default; the table imports it",
    "recipes/tasks.py": "what a training is evaluated in, by the training's name",
    "recipes/training.py": "names of trainings",
    "serving/openapi.py": "an example of a request",
}
"""The files that may hold a mode's name, and why."""


def test_the_rules_of_a_mode_stand_in_one_file():
    """No other module holds a mode's name: it reads the table, so that it knows the next mode too."""
    found = set()
    for path in (ROOT / "bang").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in MODES:
                found.add(str(path.relative_to(ROOT / "bang")))
    assert found == set(NAMES_MODES)


def test_no_module_compares_a_mode_with_a_name():
    found = []
    for path in (ROOT / "bang").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
                parts += [part for side in parts if isinstance(side, (ast.Tuple, ast.List, ast.Set)) for part in side.elts]
                if any(isinstance(part, ast.Constant) and part.value in MODES for part in parts):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize("name", EVALUATED_IN)
def test_a_training_is_evaluated_in_the_modes_that_it_trains(name):
    parser = argparse.ArgumentParser()
    for option, kind in (("--nar-ratio", float), ("--semi-nar-ratio", float), ("--ngram", int)):
        parser.add_argument(option, type=kind, default=0)
    parser.add_argument("--disable-ngram-loss", action="store_true")
    options, _ = parser.parse_known_args(shlex.split(TRAINING_OPTIONS[name]))
    options.criterion, options.arch = "ngram_language_loss_NAR_mixed", "bang_ar_nar_mixed"
    assert tuple(trained_modes(options)) == EVALUATED_IN[name]
