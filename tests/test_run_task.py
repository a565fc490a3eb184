"""From a folder of text to results, with one command."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import GOLDEN, copy_pairs
from fairseq import options
from support.plans import LITTLE, after, words

from bang.__main__ import main
from bang.recipes import gpus, tasks
from bang.recipes.steps import fingerprint
from bang.recipes.tasks import SPLITS, TaskOptions, data_files, find_pairs, start_options, task_plan


@pytest.fixture
def data(tmp_path):
    """24 real pairs a split, in GLGE's layout."""
    folder = copy_pairs(tmp_path / "data", 24)
    for side in ("src", "tgt"):
        (folder / f"valid.{side}").rename(folder / f"dev.{side}")
    return folder


@pytest.mark.parametrize("command", [["run-task"], ["distill", "--teacher", str(GOLDEN / "mixed" / "checkpoint.pt")]])
def test_packages_are_missed_before_a_recipe_begins(command, data, tmp_path, monkeypatch):
    for name in ("rouge_score", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as stop:
        main([command[0], str(data), *command[1:], "--mode", "nar", "--out", str(tmp_path / "out")])
    needed = "recipes need rouge-score, matplotlib too: pip install rouge-score matplotlib"
    assert stop.value.code == f"bang {command[0]}: error: {needed}" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "mode, decodings",
    [("ar", "ar"), ("nar", "nar"), ("semi-nar", "semi-nar"), ("n-stream", "ar semi-nar"), ("all", "ar semi-nar nar")],
)
def test_steps_of_a_mode(mode, decodings, data, tmp_path):
    linked = {"nar": ["nar"], "all": ["semi-nar", "nar"]}.get(mode, [])
    plan = task_plan(data, tmp_path / "out", TaskOptions(mode=mode, block_size=3, train=["--lr", "1"], generate=["--nbest", "1"]))
    assert [step.name for step in plan.steps] == [
        "tokenize", "binarize", "fine-tune", "curves", "casing", *(["link"] if "nar" in decodings.split() else []),
        *(f"generate-{decoding}" for decoding in decodings.split()), *(f"generate-{decoding}-link" for decoding in linked),
        "evaluate",
    ]  # fmt: skip
    for decoding in linked:
        generation = words(plan, f"generate-{decoding}-link")
        assert after(generation, "--link") == str(tmp_path / "out" / "checkpoints" / "link.bin")
        assert after(generation, "--decoding") == decoding
    (curves,) = (step for step in plan.steps if step.name == "curves")
    assert curves.inputs == [tmp_path / "out" / "train.log"]  # no checkpoints are read for them
    assert after(words(plan, "binarize"), "--validpref") == str(tmp_path / "out" / "tokenized" / "dev")
    training = words(plan, "fine-tune")
    assert after(training, "--mode") == mode and training[-2:] == ["--lr", "1"] and "--tensorboard-logdir" in training
    assert ("--block-size" in training) == (mode == "semi-nar")
    for decoding in decodings.split():
        generation = words(plan, f"generate-{decoding}")
        assert after(generation, "--decoding") == decoding and "--nbest" in generation
        assert after(generation, "--beam") == ("4" if decoding == "ar" else "1")
        assert ("--block-size" in generation) == (decoding == "semi-nar")
        assert ("--keep-repeats" in generation) == (decoding == "ar")
        assert "--link" not in generation
    assert ("--bootstrap" in words(plan, "evaluate")) == (len([*decodings.split(), *linked]) > 1)
    assert plan.steps[-1].outputs == [tmp_path / "out" / "scores.txt", tmp_path / "out" / "scores.json"]


@pytest.mark.parametrize(
    "options, settings",
    [
        ({"mode": "nar"}, "--mode nar"),
        (
            {"mode": "nar", "train": ["--lr", "1", "--max-update", "9", "--dropout=0"], "generate": ["--block-size", "2"]},
            "--mode nar",
        ),
        ({"mode": "all", "block_size": 3, "beam": 2, "workers": 2}, "--mode all"),
        ({"mode": "semi-nar", "block_size": 3}, "--block-size 3 --mode semi-nar"),
        ({"mode": "semi-nar", "train": ["--block-size", "5", "--lr", "1"]}, "--block-size 5 --mode semi-nar"),
        ({"mode": "ar", "train": ["--disable-ngram-loss", "--nar-ratio=.2"]}, "--disable-ngram-loss --mode ar --nar-ratio .2"),
    ],
)
def test_what_decides_the_modes_stays_for_a_whole_training(options, settings, data, tmp_path):
    (training,) = (step for step in task_plan(data, tmp_path, TaskOptions(**options)).steps if step.name == "fine-tune")
    assert training.resumes == tmp_path / "checkpoints" / "checkpoint_last.pt" and training.settings == settings


def test_training_reads_no_test_part_and_no_log(data, data_bin, tmp_path):
    """Another test part, path or number of processes does not make its data other data."""
    binarized = tmp_path / "out" / "data"
    shutil.copytree(data_bin, binarized)
    assert {path.name for path in binarized.iterdir()} - {path.name for path in data_files(binarized, *SPLITS)} == {
        "preprocess.log"
    }
    (training,) = (step for step in task_plan(data, tmp_path / "out", TaskOptions()).steps if step.name == "fine-tune")
    before = fingerprint(training.inputs)
    for path in binarized.iterdir():
        content = path.read_bytes()
        path.write_bytes(content + b"more")
        matters = not path.name.startswith(("test.", "preprocess"))
        assert (fingerprint(training.inputs) != before) == matters, path
        path.write_bytes(content)


def test_the_number_of_processes_decides_nothing(data, tmp_path):
    plans = [task_plan(data, tmp_path, TaskOptions(workers=workers)) for workers in (1, 2)]
    for step, other in zip(*(plan.steps[:2] for plan in plans)):  # tokenize, binarize
        (command,), (another,) = step.commands, other.commands
        assert command.words == another.words and (command.neutral, another.neutral) == (["--workers", 1], ["--workers", 2])
    assert plans[0].steps[2:] == plans[1].steps[2:]


def test_sizes_come_from_the_start(data, tmp_path):
    checkpoint = GOLDEN / "mixed" / "checkpoint.pt"
    found = start_options(str(checkpoint))
    for option, size in {"encoder-layers": 2, "decoder-layers": 2, "encoder-embed-dim": 48, "decoder-ffn-embed-dim": 96,
                         "decoder-attention-heads": 4}.items():  # fmt: skip
        assert after(found, f"--{option}") == str(size)
    (data / "train.src").write_text("a [X_SEP] b\n" * 24)
    training = words(task_plan(data, tmp_path, TaskOptions(start=str(checkpoint), train=["--encoder-layers", "1"])), "fine-tune")
    assert after(training, "--load-from-pretrained-model") == str(checkpoint) and "--load-sep" in training
    assert training[-2:] == ["--encoder-layers", "1"]  # what is asked for wins
    assert "--load-sep" not in words(task_plan(data, tmp_path, TaskOptions()), "fine-tune")


@pytest.mark.parametrize("gpus", [0, 1])
def test_generation_takes_fp16_on_a_gpu(gpus, data, tmp_path, monkeypatch):
    """And what was generated without one stays done."""
    monkeypatch.setattr(tasks, "gpu_count", lambda: gpus)
    plan = task_plan(data, tmp_path, TaskOptions())
    (step,) = (step for step in plan.steps if step.name == "generate-nar")
    assert "--fp16" not in words(plan, "generate-nar") and (step.commands[0].neutral == ["--fp16"]) == bool(gpus)


@pytest.mark.parametrize("given", [["--commit-threshold=0.5"], ["--link", "my.bin"]])
def test_no_link_where_it_would_be_refused(given, data, tmp_path):
    steps = [step.name for step in task_plan(data, tmp_path / "out", TaskOptions(mode="all", generate=given)).steps]
    assert "generate-nar" in steps and not any("link" in name for name in steps)
    steps = [step.name for step in task_plan(data, tmp_path / "out", TaskOptions(mode="all", block_size=1)).steps]
    assert "generate-nar-link" in steps and "generate-semi-nar-link" not in steps


@pytest.mark.parametrize(
    "visible, devices",
    [
        (None, ["0", "1", "2"]), ("", []), ("1", ["1"]), ("2, 0", ["2", "0"]), ("GPU-8f1,1", ["GPU-8f1", "1"]),
        ("MIG-4c", ["MIG-4c"]), ("-1", []), ("0,3,1", ["0"]), ("NoDevFiles", []),
    ],
)  # fmt: skip
def test_devices_are_those_that_cuda_shows(visible, devices, tmp_path, monkeypatch):
    """An nvidia-smi that knows three GPUs, one of them in parts, stands in."""
    listed = "GPU 0: A (UUID: GPU-8f1)\n  MIG 1g.5gb Device 0: (UUID: MIG-4c)\nGPU 1: A (UUID: GPU-9)\nGPU 2: A (UUID: GPU-7)\n"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.gpu_devices() == devices and gpus.gpu_count() == len(devices)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert gpus.gpu_devices() == []  # whatever the variable says


PUBLISHED = (
    "--task translation_bang --arch bang_ar_nar_mixed_base --optimizer adam --adam-betas '(0.9, 0.999)' --clip-norm 0.1 "
    "--lr 0.0001 --min-lr 1e-09 --nar-ratio 0.0 --ngram 1 --disable-ngram-loss --lr-scheduler inverse_sqrt "
    "--warmup-init-lr 1e-07 --warmup-updates 1000 --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.01 "
    "--criterion ngram_language_loss_NAR_mixed --label-smoothing 0.1 --update-freq 1 --max-tokens 3072 --num-workers 8 "
    "--ddp-backend=no_c10d --max-epoch 10 --max-source-positions 512 --max-target-positions 512 "
    "--truncate-source --keep-last-epochs 10 --save-interval 1 --fp16 "
)
OURS = {"data", "user_dir", "save_dir", "tensorboard_logdir", "log_format", "log_interval"}


@pytest.mark.parametrize("preset", ["squad", "xsum", "persona-chat"])
@pytest.mark.parametrize("mode, more", [("ar", ""), ("nar", "--nar-ratio 1.0 --max-epoch 50 --save-interval 5")])
def test_presets_train_as_published(mode, more, preset, data, tmp_path, monkeypatch):
    """On a GPU, every option of fairseq-train has the published value; a fairseq-train that shows its arguments stands in."""
    (tmp_path / "fairseq-train").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "fairseq-train").chmod(0o755)
    # what a run of so few pairs would shorten
    plan = task_plan(data, tmp_path / "out", TaskOptions(mode=mode, preset=preset, train=["--warmup-updates", "1000"]))
    environment = {**os.environ, "GPUS": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(words(plan, "fine-tune"), env=environment, capture_output=True, text=True, check=True)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    def parse(arguments):
        return vars(options.parse_args_and_arch(options.get_training_parser(), arguments))

    ours, published = parse(done.stdout.splitlines()), parse(["data", *shlex.split(PUBLISHED + more)])
    assert {name for name in ours if ours[name] != published[name]} <= OURS and ours.keys() == published.keys()


def test_presets(data, tmp_path):
    evaluation = words(task_plan(data, tmp_path, TaskOptions(preset="squad")), "evaluate")
    assert after(evaluation, "--tokenize") == "ptb" and "meteor" in evaluation and "questions" in evaluation
    evaluation = words(task_plan(data, tmp_path, TaskOptions(preset="persona-chat")), "evaluate")
    assert after(evaluation, "--tokenize") == "none" and "dialogue" in evaluation


def test_whoever_writes_the_references_has_all_points(data, tmp_path):
    """PersonaChat's words have blanks around every mark, so the texts need them too; some data has `i'm`, some `i ' m`."""
    said = ["i am a cook .", "no , i don ' t !", "i'm fine , thanks .", "I'm a nurse (at night)."]
    (data / "test.tgt").write_text("".join(f"{line}\n" for line in said * 6))
    plan = task_plan(data, tmp_path / "out", TaskOptions(preset="persona-chat", generate=["--link", "none"]))
    steps = {step.name: step for step in plan.steps}
    written = ["cp", tmp_path / "out" / "tokenized" / "test.tgt", tmp_path / "out" / "nar.hypo"]  # what the model says
    clean = tasks.Step("clean", [tasks.Command(written), steps["generate-nar"].commands[-1]])
    plan.steps = [steps["tokenize"], clean, steps["evaluate"]]
    plan.run()
    (scores,) = json.loads((tmp_path / "out" / "scores.json").read_text())["systems"].values()
    assert [scores[name] for name in ("corpus-BLEU-1", "corpus-BLEU-2", "length ratio")] == pytest.approx([100] * 3)
    assert (tmp_path / "out" / "nar.txt").read_text().startswith("i am a cook .\nno , i don ' t !\n")


@pytest.mark.parametrize(
    "change, arguments, message",
    [
        (lambda data: (data / "dev.src").unlink(), [], "data has no valid.src or dev.src: a task is a folder with"),
        (lambda data: (data / "test.tgt").write_text("one\n"), [], "test.src has 24 lines, .*test.tgt 1: give one target"),
        (lambda data: (data / "train.src").write_text(""), [], "train.src has 0 lines"),
        (lambda data: None, ["--mode", "rn"], "--mode rn: choose ar, nar, semi-nar, n-stream, all"),
        (lambda data: None, ["--preset", "cnn"], "--preset cnn: choose squad, xsum, persona-chat, none"),
        (lambda data: None, ["--start", "gone"], "gone: no such file or folder"),
        (lambda data: None, ["--vocab", "gone"], "gone"),
    ],
)
def test_refusals(change, arguments, message, data, tmp_path):
    change(data)
    with pytest.raises(SystemExit) as stop:
        main(["run-task", str(data), "--mode", "nar", "--out", str(tmp_path / "out"), *arguments])
    assert re.search(f"^bang run-task: error: .*{message}", stop.value.code) and "\n" not in stop.value.code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["data", "tokenized"])
def test_raw_texts_named_as_a_recipes_own_folder_are_refused(folder, data, tmp_path, monkeypatch):
    """OUT/data and OUT/tokenized are made anew: raw texts there would be lost."""
    monkeypatch.chdir(tmp_path)
    if folder != "data":
        data.rename(folder)
    with pytest.raises(
        SystemExit, match=f"^bang run-task: error: {folder}.*is in the way of the input {folder}/.*: give another --out$"
    ):
        main(["run-task", folder, "--mode", "nar", "--out", ".", "--dry-run"])


def test_pairs_of_either_layout(data):
    assert find_pairs(data)["valid.tgt"] == data / "dev.tgt"
    shutil.copy(data / "dev.tgt", data / "valid.tgt")
    assert find_pairs(data)["valid.tgt"] == data / "valid.tgt"


@pytest.mark.slow
def test_whole_task_then_only_what_changed(data, tmp_path):
    """`bang run-task`, with four updates; then again; then decoded with another beam."""

    def run_task(*options):
        command = [sys.executable, "-m", "bang", "run-task", data, "--mode", "all", "--out", tmp_path / "out", "--train", LITTLE]
        environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1",
                       "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}  # fmt: skip
        done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout, re.findall(r"^\[\d+/12\] (\S+?)(: up to date)?$", done.stderr, flags=re.M)

    dry, _ = run_task("--generate", "--max-len-b 12", "--dry-run")
    assert len(re.findall(r"^# \[\d+/12\]", dry, flags=re.M)) == 12 and not (tmp_path / "out").exists()
    printed, steps = run_task("--generate", "--max-len-b 12")
    assert len(steps) == 12 and not any(done for _, done in steps)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [os.path.basename(path) for path in scores["systems"]] == [
        "ar.txt", "semi-nar.txt", "nar.txt", "semi-nar-link.txt", "nar-link.txt"
    ]  # fmt: skip
    assert "ROUGE-L" in printed and printed == (tmp_path / "out" / "scores.txt").read_text()
    for decoding in ("ar", "semi-nar", "nar", "semi-nar-link", "nar-link"):
        assert len((tmp_path / "out" / f"{decoding}.txt").read_text().splitlines()) == 24
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "out" / "tensorboard").rglob("events.*"))
    again, steps = run_task("--generate", "--max-len-b 12")
    assert again == printed and all(done for _, done in steps)
    _, steps = run_task("--generate", "--max-len-b 12", "--beam", "2")
    assert [name for name, done in steps if not done] in (["generate-ar"], ["generate-ar", "evaluate"])
