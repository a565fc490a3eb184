"""README and docs/: their commands parse and run, and the options, files, pages and headings that they name exist.

Recipes run dry here, since tests of their own run them; what the other pages show is run by test_readme.py, and the
quick start by test_quickstart.py.
"""

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import torch
from conftest import GOLDEN, ROOT, copy_pairs
from fairseq import options
from support.pages import DOCS, README, blocks

from bang.__main__ import _parser, main
from bang.modes import MODES

PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("models/*/README.md")), *sorted(ROOT.glob("examples/*/README.md"))]
RUN_BY_TEST_README = {
    "README.md": ["Try it", "Use a model", "Ship a model"],
    "bulk.md": None,
    "fairseq.md": None,
    "huggingface.md": None,
    "pretraining.md": None,
    "starts.md": None,
    "serving.md": None,  # by test_serving.py
}
"""Pages and their sections; Try it is the quick start. test_hf.py runs huggingface.md, test_generate.py bulk.md."""
MEASUREMENTS = ("benchmarks.md", "results.md")
"""Pages whose commands take hours: they are parsed alone."""

PARSERS = {
    "fairseq-preprocess": options.get_preprocessing_parser,
    "fairseq-train": options.get_training_parser,
    "fairseq-generate": options.get_generation_parser,
    "fairseq-interactive": options.get_interactive_generation_parser,
}
OF_OTHER_PROGRAMS = {"--depth", "--help", "--logdir", "--no-deps"}


RUN_BY = {
    ("Try it", "bash"): "test_quickstart",
    ("Use a model", "python"): "test_readme",
    ("Use a model", "bash"): "test_readme",
    ("Ship a model", "bash"): "test_readme",
    ("Ship a model", "python"): "test_readme",
    ("Recipes", "bash"): "test_run_task, test_distill; here dry",
}
"""The README's blocks of commands and code, and the tests that run them."""


def test_every_block_of_the_readme_is_run_by_a_test():
    """A new one has to be added to those that are run; results and the citation are no commands."""
    found = []
    for section in re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.M)[1:]:
        found += [
            (section.split("\n")[0], language) for language in re.findall(r"^```(\w*)\n.*?^```$", section, flags=re.M | re.S)
        ]
    assert [place for place in found if place[1] not in ("", "bibtex")] == list(RUN_BY)
    assert [place for place in found if place[1] in ("", "bibtex")] == [("Results", ""), ("Citation", "bibtex")]


def lines(block):
    return [line for line in block.replace("\\\n", " ").strip().splitlines() if line.strip()]


def commands():
    """All commands in fenced blocks, and those of scripts between backticks, with the page's name."""
    for page in PAGES:
        inline = re.findall(
            r"`((?:\w+=\S+ )*(?:python benchmarks/|bash (?:scripts|research)/)[^`]*)`", page.read_text(encoding="utf-8")
        )
        for line in [line for block in blocks(page) for line in lines(block)] + [" ".join(command.split()) for command in inline]:
            yield pytest.param(line, id=f"{page.relative_to(ROOT)}: {' '.join(line.split()[:3])}")


def commands_run_here():
    for page in (README, *(page for page in sorted(DOCS.glob("*.md")) if page.name not in MEASUREMENTS)):
        elsewhere = RUN_BY_TEST_README.get(page.name, []) if page.parent in (ROOT, DOCS) else []
        if elsewhere is not None:
            left_out = [block for section in elsewhere if page == README for block in blocks(page, section)]
            for line in (line for block in blocks(page) if block not in left_out for line in lines(block)):
                yield pytest.param(line, id=f"{page.stem}: {' '.join(line.split()[:3])}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the commands find: raw pairs, a start, a teacher, texts, and the log of a run."""
    for name in ("distilled", "task/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    copy_pairs(tmp_path / "raw", 16)
    shutil.copy(GOLDEN / "mixed" / "checkpoint.pt", tmp_path / "start.pt")
    teacher = {"model": {"decoder.embed_tokens.weight": torch.zeros(30522, 1)}}
    torch.save(teacher, tmp_path / "task" / "checkpoints" / "checkpoint_best.pt")
    (tmp_path / "task" / "train.log").write_text('| INFO | train_inner | {"loss": "9", "num_updates": "50"}\n')
    for name in ("ar.txt", "nar.txt", "task/ar.txt", "task/nar.txt", "distilled/nar.txt"):
        shutil.copy(tmp_path / "raw" / "test.tgt", tmp_path / name)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands_run_here())
def test_command(command, folder, capfd):
    words = shlex.split(command, comments=True)
    if words[0] == "bang":
        if words[1] in ("run-task", "distill"):
            main([*words[1:], *([] if "--dry-run" in words else ["--dry-run"])])
            assert "bang finetune" in capfd.readouterr().out
        else:
            before = set(folder.rglob("*"))
            main(words[1:])
            written = {path.name for path in set(folder.rglob("*")) - before}
            assert {"evaluate": "ROUGE-L" in capfd.readouterr().out, "curves": "curves.png" in written}[words[1]]
            assert ("scores.json" in written) == ("--json" in words)
    else:  # a torchrun that only shows its arguments stands in for several machines
        (folder / "torchrun").write_text('#!/bin/sh\necho "$@"\n')
        (folder / "torchrun").chmod(0o755)
        environment = {**os.environ, "GPUS": "2", "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-euc", f"{command} --warmup-updates 1"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "--nnodes 2 --nproc_per_node 2 --node_rank 0" in done.stdout, done.stderr


@pytest.mark.parametrize("command", commands())
def test_command_parses(command):
    """Required arguments, types and choices; scripts that are there."""
    words = before_redirection(shlex.split(command, comments=True))
    if words[0] == "bang":
        _parser(words[1].replace("-", "_")).parse_args(words[1:])
    elif words[0] == "fairseq-preprocess":
        PARSERS[words[0]]().parse_args(words[1:])
    elif words[0] in PARSERS:
        options.parse_args_and_arch(PARSERS[words[0]](), words[1:])
    else:
        scripts = [word for word in words if re.match(r"(?:scripts|research|benchmarks)/|post_processed", word)]
        assert all((ROOT / script).is_file() for script in scripts)
        if words[0] == "python" and words[1].startswith("benchmarks/"):
            parse_arguments(words[1:])
        assert scripts or words[0] in ("git", "pip", "mkdir") or words[0].startswith("minilm="), (
            f"a command unknown to this test: {command}"
        )


class Parsed(Exception):
    """A script has taken its arguments."""


def parse_arguments(words):
    """Lets a Python script parse its command line, and no more."""

    def parse(parser, *arguments):
        assert not parser.parse_known_args(*arguments)[1]
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        main_of_script = runpy.run_path(ROOT / words[0])["main"]
        patch.setattr(sys, "argv", words)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(Parsed):
            main_of_script()


def before_redirection(words):
    return words[: next((index for index, word in enumerate(words) if word in (">", "<", "|")), len(words))]


@pytest.fixture(scope="module")
def known_options():
    """Of our commands and scripts, and of fairseq's commands with our task, model and criterion."""
    found = set(OF_OTHER_PROGRAMS)
    ours = _parser(None)._subparsers._group_actions[0].choices.values()
    of_fairseq = [make() for make in PARSERS.values()]
    (train,) = lines(blocks(DOCS / "fairseq.md", "Fine-tuning")[0])
    options.parse_args_and_arch(of_fairseq[1], shlex.split(train)[1:])  # adds the options of what it names
    for parser in (*ours, *of_fairseq):
        found |= parser._option_string_actions.keys()
    scripts = [path for folder in ("scripts", "research", "benchmarks") for path in (ROOT / folder).glob("*.[ps][yh]")]
    for path in (DOCS / "options.md", *scripts, ROOT / "post_processed_nar.py"):
        found |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_exist(page, known_options):
    code = "\n".join(re.findall(r"^```\w*\n.*?^```|`[^`\n]+`", page.read_text(encoding="utf-8"), flags=re.M | re.S))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
    assert named <= known_options, f"{page.name} names {sorted(named - known_options)}"


def headings(page):
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """Pages, files and headings that the page names are there."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        name, _, heading = target.partition("#")
        if not name.startswith("http"):
            assert (page.parent / name).exists(), target
            assert not heading or heading in headings(page.parent / name if name else page), target
    for path in re.findall(r"`((?:bang|scripts|research|tests|benchmarks|examples|docs|models)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or path == "docs/gpu.md", f"names {path}"  # gpu.md: a GPU's machine writes it


def test_every_page_is_in_the_index():
    text = README.read_text(encoding="utf-8")
    assert all(f"](docs/{page.name})" in text for page in DOCS.glob("*.md") if page.name != "gpu.md")


def test_readme_and_docs_are_short():
    pages = [README, *(page for page in DOCS.glob("*.md") if page.name != "gpu.md")]
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in pages) <= 11_000


def test_the_table_of_modes_is_the_packages():
    """Which modes there are, what a prediction sees in each, and the options that act in it."""
    text = (DOCS / "modes.md").read_text(encoding="utf-8")
    expected = []
    for mode in MODES.values():
        names = ", ".join("`--" + name.replace("_", "-") + "`" for name in mode.options)
        expected.append((mode.name, mode.title, mode.sees, names))
    assert re.findall(r"^\| `([\w-]+)` \((.+?)\) \| (.+?) \| (.+?) \|$", text, flags=re.M) == expected


def test_the_architecture_names_every_room_from_the_ground_up():
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = re.search(r"^## Rooms\n(.*?)^## ", text, flags=re.M | re.S)[1]
    named = re.findall(r"^\| `bang/(\w+)(?:/|\.py)` \|", rooms, flags=re.M)
    assert sorted(named) == sorted(contract["layers"])
    floors = [contract["layers"][::-1].index(room) for room in named]
    assert floors == sorted(floors)


def test_where_to_change_names_what_is_there():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    places = re.findall(r"((?:`\w+`(?:, | and )?)+) in `(bang/[\w/]+\.py)`", text)
    assert len(places) >= 6
    for names, path in places:
        code = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names.replace(" and ", " ")):
            assert re.search(rf"^ *(?:def |class )?{name}\b *[(=:]", code, flags=re.M), f"{name} in {path}"
