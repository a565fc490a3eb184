"""The engine of the recipes: what runs, what is skipped, what a stopped or failed run leaves."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from support.kills import ended

from bang.recipes import steps
from bang.recipes.steps import Command, Plan, Step, fingerprint


def shell(script, **options):
    return Command(["bash", "-euc", script], **options)


@pytest.fixture
def plan(tmp_path):
    """Makes a plan of a -> b -> c, each step also leaving a line in `ran`."""

    def make(option="1", broken=""):
        plan, ran = Plan(tmp_path / "out"), tmp_path / "ran"
        plan.add(
            Step(
                "b",
                [shell(f"echo b >> {ran}; tr a-z A-Z < {tmp_path}/a", stdout=tmp_path / "b")],
                [tmp_path / "a"],
                [tmp_path / "b"],
            )
        )
        plan.add(
            Step(
                "c",
                [shell(f"echo c >> {ran}; {broken} cat {tmp_path}/b > {tmp_path}/c; echo {option} >> {tmp_path}/c")],
                [tmp_path / "b"],
                [tmp_path / "c"],
            )
        )
        return plan

    (tmp_path / "a").write_text("text\n")
    (tmp_path / "ran").write_text("")
    return make


def ran(tmp_path):
    steps = (tmp_path / "ran").read_text().split()
    (tmp_path / "ran").write_text("")
    return steps


def test_runs_once_and_again_where_inputs_changed(plan, tmp_path, capsys):
    plan().run()
    assert ran(tmp_path) == ["b", "c"] and (tmp_path / "c").read_text() == "TEXT\n1\n"
    plan().run()
    assert ran(tmp_path) == [] and "[2/2] c: up to date" in capsys.readouterr().err
    plan("2").run()
    assert ran(tmp_path) == ["c"] and (tmp_path / "c").read_text() == "TEXT\n2\n"
    (tmp_path / "a").write_text("TEXT\n")  # another input, the same output: what reads that is still up to date
    plan("2").run()
    assert ran(tmp_path) == ["b"]
    (tmp_path / "c").unlink()
    plan("2").run()
    assert ran(tmp_path) == ["c"]
    assert set(json.loads((tmp_path / "out" / "steps" / "c.json").read_text())) == {"fingerprint", "seconds", "files"}


def test_dry_run_touches_nothing(plan, tmp_path, capsys):
    plan().run(dry=True)
    assert ran(tmp_path) == [] and not (tmp_path / "out").exists()
    first, _, second, _ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("# [1/2] b", "# [2/2] c")
    plan().run()
    capsys.readouterr()
    plan("2").run(dry=True)
    assert capsys.readouterr().out.startswith("# [2/2] c\nbash -euc ")


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    "given, output",
    [
        ("raw/text", "raw/text"),
        ("raw/text", "raw"),
        ("raw", "raw/made"),
        ("link/text", "raw"),
        ("raw/text", "link"),
        ("alone", "raw/text"),
    ],
)
def test_an_output_never_takes_the_place_of_what_is_given(given, output, dry, tmp_path, monkeypatch):
    """Whatever the step, and under whatever name; what a step makes may be the next one's input, and be made again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "text").write_text("precious")
    (tmp_path / "link").symlink_to("raw")
    (tmp_path / "alone").symlink_to("raw/text")
    plan = Plan("out")
    plan.add(Step("first", [shell("mkdir made; touch ran made/a")], [], ["made"]))
    plan.add(Step("second", [shell("touch b")], ["made/a", given], ["b"]))
    plan.add(Step("third", [shell(f"touch {output}")], ["b"], [tmp_path / output]))
    with pytest.raises(
        ValueError, match=f"{output}, which step third makes anew, is in the way of the input {given}: give another --out"
    ):
        plan.run(dry)
    assert (tmp_path / "raw" / "text").read_text() == "precious" and not (tmp_path / "ran").exists()
    plan.steps.pop()
    plan.run()


def test_dry_run_knows_what_stands_below_a_folder_that_is_undone(tmp_path, capsys):
    """A training that was stopped has no best checkpoint yet; one that goes on gets another."""

    def make(option):
        plan, save = Plan(tmp_path / "out"), tmp_path / "save"
        train = shell(f"mkdir -p {save}; {'exit 1;' if option == 'stop' else ''} echo {option} > {save}/best")
        plan.add(Step("train", [train], [], [save], resumes=save))
        plan.add(Step("generate", [shell(f"cp {save}/best {tmp_path}/text")], [save / "best"], [tmp_path / "text"]))
        return plan

    with pytest.raises(ValueError, match="status 1"):
        make("stop").run()
    for option in ("first", "second"):
        capsys.readouterr()
        make(option).run(dry=True)
        shown = capsys.readouterr()
        assert "# [1/2] train\n" in shown.out and "# [2/2] generate\n" in shown.out and not shown.err
        make(option).run()
    assert (tmp_path / "text").read_text() == "second\n"


def test_a_file_that_is_gone_from_an_output_folder_is_made_again(tmp_path, capsys):
    """Whichever it is, also in a folder below; a file beside those that were made is nobody's loss."""

    def plan():
        plan, made = Plan(tmp_path / "out"), tmp_path / "made"
        plan.add(
            Step(
                "make",
                [shell(f"mkdir -p {made}/sub; echo 1 > {made}/a; echo 2 > {made}/sub/b; echo >> {tmp_path}/ran")],
                [],
                [made],
            )
        )
        return plan

    for gone in (None, "a", "sub/b"):
        if gone is not None:
            (tmp_path / "made" / gone).unlink()
        capsys.readouterr()
        plan().run()
        assert "up to date" not in capsys.readouterr().err and (tmp_path / "made" / "sub" / "b").read_text() == "2\n"
        (tmp_path / "made" / "more").write_text("")
        plan().run()
        assert "make: up to date" in capsys.readouterr().err
    assert (tmp_path / "ran").read_text() == "\n" * 3


def test_another_device_makes_nothing_anew(tmp_path, capsys):
    def make(device, precision):
        plan = Plan(tmp_path / "out")
        command = shell("echo text", neutral=precision, stdout=tmp_path / "text", environment={"CUDA_VISIBLE_DEVICES": device})
        plan.add(Step("work", [command], [], [tmp_path / "text"]))
        return plan

    make("1", ["--fp16"]).run()
    make("0", []).run()
    assert "work: up to date" in capsys.readouterr().err


def test_neutral_words_do_not_decide_whether_a_step_is_done(tmp_path, capsys):
    def make(workers):
        plan = Plan(tmp_path / "out")
        command = Command(["bash", "-c", 'echo "$@"', "-"], neutral=["--workers", workers], stdout=tmp_path / "text")
        plan.add(Step("work", [command], [], [tmp_path / "text"]))
        return plan

    make(1).run()
    make(2).run()
    assert (tmp_path / "text").read_text() == "--workers 1\n" and "work: up to date" in capsys.readouterr().err
    (tmp_path / "text").unlink()
    make(2).run(dry=True)
    assert "--workers 2 > " in capsys.readouterr().out


def test_failed_step_is_not_done(plan, tmp_path):
    with pytest.raises(ValueError, match="^c: bash ended with status 3$"):
        plan(broken="exit 3;").run()
    assert ran(tmp_path) == ["b", "c"]
    plan().run()
    assert ran(tmp_path) == ["c"]


@pytest.mark.parametrize("kind", ["stdout", "log", None])
def test_the_line_of_what_failed_is_told_again_at_the_end(kind, tmp_path, capfd):
    """Not what a worker says after it; the terminal shows all of it as it comes, lines that are not ended too."""
    script = "printf '10 %%\\r' >&2; echo 'data.py: error: no such file' >&2; echo 'a worker ends' >&2; exit 3"
    plan = Plan(tmp_path / "steps")
    plan.add(Step("load", [shell(script, **({kind: tmp_path / "file"} if kind else {}))], [], []))
    where = {"stdout": f"; what it printed stands in {tmp_path}/file.unfinished", "log": f"; its log: {tmp_path}/file"}.get(
        kind, ""
    )
    with pytest.raises(ValueError) as error:
        plan.run()
    assert str(error.value) == f"load: bash ended with status 3: data.py: error: no such file{where}"
    said = capfd.readouterr().err
    assert "10 %" in said and "data.py: error: no such file\na worker ends\n" in said


def test_the_terminal_shows_what_is_chosen_of_a_log(tmp_path, capfd):
    command = shell("echo one; echo two", log=tmp_path / "log", shown=lambda line: "2" if line == "two" else None)
    plan = Plan(tmp_path)
    plan.add(Step("say", [command], [], [tmp_path / "log"]))
    plan.run()
    assert capfd.readouterr().err == "[1/1] say\n2\n" and (tmp_path / "log").read_text() == "one\ntwo\n"


def test_half_an_output_takes_no_place(tmp_path):
    plan = Plan(tmp_path)
    plan.add(Step("half", [shell("echo half; exit 1", stdout=tmp_path / "out")], [], [tmp_path / "out"]))
    with pytest.raises(ValueError, match="what it printed stands in .*out.unfinished"):
        plan.run()
    assert not (tmp_path / "out").exists()


def test_step_that_leaves_out_its_output(tmp_path):
    plan = Plan(tmp_path)
    plan.add(Step("lazy", [shell("true")], [], [tmp_path / "out"]))
    with pytest.raises(ValueError, match="lazy ended without an error, but did not write .*out"):
        plan.run()


def test_resumable_step_goes_on_and_refuses_other_inputs(tmp_path):
    def make(option):
        plan = Plan(tmp_path / "steps")
        script = f"mkdir -p {tmp_path}/save; echo {option} >> {tmp_path}/save/ran; echo said; [ {option} != stop ]"
        command = shell(script, log=tmp_path / "log")
        save = tmp_path / "save"
        plan.add(Step("train", [command], [tmp_path / "data"], [save / "ran"], resumes=save / "ran"))
        return plan

    (tmp_path / "data").write_text("1")
    with pytest.raises(ValueError, match="train: bash ended with status 1: said"):
        make("stop").run()
    make("longer").run()  # another option: it goes on
    assert (tmp_path / "save" / "ran").read_text() == "stop\nlonger\n" and (tmp_path / "log").read_text() == "said\n" * 2
    (tmp_path / "data").write_text("2")
    with pytest.raises(
        ValueError, match="save/ran was made from other data or another start: give another folder, or remove it to begin anew$"
    ):
        make("longer").run()
    assert (tmp_path / "save" / "ran").exists()
    (tmp_path / "save" / "ran").unlink()  # without a checkpoint there is nothing to protect
    make("other").run()
    assert (tmp_path / "save" / "ran").read_text() == "other\n"


@pytest.mark.parametrize("dry", [False, True])
def test_resumable_step_refuses_other_settings(dry, tmp_path):
    """Whether it was stopped or is done; a refusal changes nothing."""

    def make(settings, option, stop=""):
        plan = Plan(tmp_path / "steps")
        script = f"mkdir -p {tmp_path}/save; echo {option} >> {tmp_path}/save/ran; {stop}"
        plan.add(Step("train", [shell(script)], [], [tmp_path / "save"], resumes=tmp_path / "save" / "ran", settings=settings))
        return plan

    with pytest.raises(ValueError, match="status 1"):
        make("--mode ar", 1, stop="exit 1").run()
    for _ in range(2):
        with pytest.raises(
            ValueError, match="save/ran was made with --mode ar, not --mode nar: give another folder, or remove it to begin anew$"
        ):
            make("--mode nar", 1).run(dry)
        make("--mode ar", 2).run()
    assert (tmp_path / "save" / "ran").read_text() == "1\n2\n"  # the second time it was done
    shutil.rmtree(tmp_path / "save")
    make("--mode nar", 3).run()
    assert (tmp_path / "save" / "ran").read_text() == "3\n"


def test_group_runs_at_once_and_ends_together(tmp_path):
    def make(failing):
        plan = Plan(tmp_path)
        for index in range(3):  # each waits for another one's sign; the failing one fails at once
            partner = (index + 1) % 3
            script = f"touch {tmp_path}/sign{index}; while [ ! -e {tmp_path}/sign{partner} ]; do sleep 0.01; done"
            command = shell(
                f"{'false; ' if index == failing else ''}{script}; echo $NUMBER",
                stdout=tmp_path / f"out{index}",
                environment={"NUMBER": str(index)},
            )
            plan.add(Step(f"part{index}", [command], [], [tmp_path / f"out{index}"], group="parts", at_once=3))
        return plan

    (tmp_path / "sign1").touch()
    with pytest.raises(ValueError, match="part1: bash ended with status 1"):
        make(failing=1).run()
    assert (tmp_path / "out0").read_text() == "0\n" and not (tmp_path / "out1").exists()
    make(failing=None).run()
    assert [(tmp_path / f"out{index}").read_text() for index in range(3)] == ["0\n", "1\n", "2\n"]


def test_after_a_failure_no_other_step_of_the_group_begins(tmp_path):
    """But what runs ends, with all of its commands."""
    plan = Plan(tmp_path)
    slow = [
        shell(f"touch {tmp_path}/slow; while [ ! -e {tmp_path}/fails ]; do sleep 0.01; done; sleep 0.2"),
        shell(f"touch {tmp_path}/out0"),
    ]
    fails = [shell(f"while [ ! -e {tmp_path}/slow ]; do sleep 0.01; done; touch {tmp_path}/fails; exit 4")]
    for number, commands in enumerate([slow, fails, [shell(f"touch {tmp_path}/out2")]]):
        plan.add(Step(f"part{number}", commands, [], [tmp_path / f"out{number}"], group="parts", at_once=2))
    with pytest.raises(ValueError, match="^part1: bash ended with status 4$"):
        plan.run()
    assert (tmp_path / "out0").exists() and not (tmp_path / "out2").exists()


RECIPE = """
import signal, sys
from bang.processes import orderly_end
from bang.recipes.steps import Command, Plan, Step

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
plan, kind = Plan("steps"), sys.argv[1]
for number in range(2):
    output = {kind: f"{kind}{number}"} if kind != "plain" else {}
    command = Command(["bash", "-c", f"echo $$ > pid{number}; exec sleep 60"], **output)
    plan.add(Step(f"part{number}", [command], [], [f"out{number}"], group="parts"))
with orderly_end():  # as the command bang does
    plan.run()
"""


@pytest.mark.parametrize("kind", ["stdout", "log", "plain"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command_that_runs_and_those_that_wait(sent, kind, tmp_path):
    """The signal reaches the recipe's own process alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", RECIPE, kind], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    written = tmp_path / "pid0"
    while process.poll() is None and not (written.exists() and written.read_text()):
        time.sleep(0.01)
    process.send_signal(sent)
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == (143 if sent == signal.SIGTERM else -signal.SIGINT), said
    with pytest.raises(ProcessLookupError):
        os.kill(int(written.read_text()), 0)
    assert not (tmp_path / "pid1").exists() and "part1" not in said


def test_fingerprint(tmp_path):
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "a").write_text("1")
    (tmp_path / "file").write_text("1")
    paths = [tmp_path / "file", tmp_path / "folder"]
    before = fingerprint(paths)
    assert before == fingerprint(paths) != fingerprint(paths[::-1])
    (tmp_path / "folder" / "sub" / "a").rename(tmp_path / "folder" / "a")
    assert fingerprint(paths) != before
    with pytest.raises(ValueError, match="gone: no such file or folder"):
        fingerprint([tmp_path / "gone"])


def test_a_file_is_read_once_in_a_run_unless_it_changes(plan, tmp_path, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(Path(file.name).name) or digest(file, name))
    shards = plan()
    for number in range(3):  # all of them read what the plan's steps read
        shards.add(
            Step(
                f"part{number}",
                [shell(f"touch {tmp_path}/part{number}")],
                [tmp_path / "a", tmp_path / "b"],
                [tmp_path / f"part{number}"],
            )
        )
    (tmp_path / "b").write_text("an old run's")
    shards.run()
    assert read == ["a", "b"]  # b after it was made
    shards.run()
    assert read == ["a", "b"] * 2
    digests = {}
    before = fingerprint([tmp_path / "a"], digests)
    (tmp_path / "a").write_text("TEXT\n")
    os.utime(tmp_path / "a", ns=(1, 1))
    assert fingerprint([tmp_path / "a"], digests) == fingerprint([tmp_path / "a"]) != before


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    """In one line that names the first, before it touches anything; a dry run, and one after it, are not."""

    def plan():
        plan = Plan(tmp_path)
        plan.add(Step("work", [shell("true")], [], [tmp_path / "text"]))
        return plan

    first = subprocess.Popen(
        [sys.executable, "-c", "from bang.recipes.steps import *\nplan = Plan('.')\nplan.add(Step('work', [Command(["
         "'bash', '-c', 'touch going; while [ ! -e go ]; do sleep 0.02; done; echo text > text'])], [], ['text']))\nplan.run()"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        while first.poll() is None and not (tmp_path / "going").exists():
            time.sleep(0.02)
        with pytest.raises(ValueError, match=f"^{tmp_path}: process {first.pid} on .* works there: wait for it, end it, or give"):
            plan().run()
        assert not (tmp_path / "text").exists()
        plan().run(dry=True)
        (tmp_path / "go").touch()
        assert first.wait(20) == 0 and (tmp_path / "text").read_text() == "text\n"
    finally:
        first.kill()


def test_records_that_a_full_disk_cut_refuse_nothing(tmp_path):
    """What older versions left: the run goes on from its checkpoint."""

    def plan():
        plan = Plan(tmp_path)
        work = shell(f"echo . >> {tmp_path}/save")
        plan.add(Step("train", [work], [], [tmp_path / "save"], resumes=tmp_path / "save", settings="--mode nar"))
        return plan

    plan().run()
    for kind in ("begun", "json"):
        (tmp_path / "steps" / f"train.{kind}").write_text("")
    plan().run()
    plan().run()
    assert (tmp_path / "save").read_text() == ".\n.\n"


def test_on_a_full_disk_the_records_stay(tmp_path, monkeypatch):
    def plan(option):
        plan = Plan(tmp_path)
        plan.add(Step("train", [shell(f"echo {option} >> {tmp_path}/save")], [], [tmp_path / "save"], resumes=tmp_path / "save"))
        return plan

    plan(1).run()
    before = {path.name: path.read_text() for path in (tmp_path / "steps").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "begun")

    with monkeypatch.context() as patched:
        patched.setattr(steps, "write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            plan(2).run()
    assert {path.name: path.read_text() for path in (tmp_path / "steps").iterdir()} == before
    plan(2).run()
    assert (tmp_path / "save").read_text() == "1\n2\n"


def test_a_command_ends_when_the_recipe_is_killed(tmp_path):
    """SIGKILL of the recipe alone, as where memory runs out."""
    process = subprocess.Popen([sys.executable, "-c", RECIPE, "plain"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    written = tmp_path / "pid0"
    while process.poll() is None and not (written.exists() and written.read_text()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert ended(int(written.read_text()), within=10)
