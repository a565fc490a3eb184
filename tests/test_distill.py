"""Distillation: shards, their merging in order, failures filled, and the student."""

import json
import os
import re

import pytest
import torch
from conftest import GOLDEN, ROOT, VOCAB_SMALL
from support.plans import LITTLE, after, words

from bang.__main__ import main
from bang.recipes.distill import check_teacher, distillation_plan
from bang.recipes.steps import Plan
from bang.recipes.tasks import TaskOptions
from bang.safety.files import read
from bang.text.vocabulary import VOCAB, fingerprint

TEACHER = GOLDEN / "mixed" / "checkpoint.pt"
"""Trained on these very pairs: what it writes for them are sentences."""


@pytest.fixture
def data(tmp_path):
    """The golden pairs as raw text: lower-cased words with blanks around punctuation, of the small vocabulary."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            name = "test" if split == "test" else "train"
            text = (GOLDEN / "data" / f"tokenized_{name}.{side}").read_text(encoding="utf-8").replace(" ##", "")
            lines = text.splitlines(keepends=True)
            (folder / f"{split}.{side}").write_text("".join(lines[: 12 if split == "valid" else 48]), encoding="utf-8")
    return folder


def test_plan(data, tmp_path, monkeypatch):
    options = TaskOptions(mode="nar", vocab=VOCAB_SMALL, beam=2, start=str(TEACHER), batch_size=16)
    plan = distillation_plan(data, TEACHER, tmp_path / "out", options, shards=8)  # 48 pairs are three batches
    assert [step.name for step in plan.steps] == [
        "tokenize", "binarize", "teacher-0", "teacher-1", "teacher-2", "merge", "binarize-distilled", "fine-tune", "curves",
        "casing", "link", "generate-nar", "generate-nar-link", "evaluate",
    ]  # fmt: skip
    shard = words(plan, "teacher-1")
    assert (after(shard, "--num-shards"), after(shard, "--shard-id"), after(shard, "--beam")) == ("3", "1", "2")
    assert (after(shard, "--gen-subset"), after(shard, "--decoding"), after(shard, "--path")) == ("train", "ar", str(TEACHER))
    assert after(words(plan, "fine-tune"), "--mode") == "nar"
    assert str(tmp_path / "out" / "distilled-data") in words(plan, "fine-tune")
    again = words(plan, "binarize-distilled")
    assert after(again, "--trainpref") == str(tmp_path / "out" / "distilled" / "train")
    assert after(again, "--validpref") == str(tmp_path / "out" / "tokenized" / "valid")
    assert "--nbest" not in shard and "--closest-to" not in words(plan, "merge")
    plan = distillation_plan(data, TEACHER, tmp_path / "out", options, shards=8, closest=True)
    assert after(words(plan, "teacher-1"), "--nbest") == "2"
    assert after(words(plan, "merge"), "--closest-to") == str(tmp_path / "out" / "tokenized" / "train.tgt")
    monkeypatch.setattr("bang.recipes.distill.gpu_devices", lambda: ["0", "2"])
    steps = distillation_plan(data, TEACHER, tmp_path / "out", options, shards=3).steps[2:5]
    assert [step.commands[0].environment["CUDA_VISIBLE_DEVICES"] for step in steps] == ["0", "2", "0"]
    assert {step.at_once for step in steps} == {2}


@pytest.mark.parametrize("keep_references", [False, True])
def test_merge_keeps_alignment_when_sentences_fail(keep_references, data, tmp_path):
    """Shards hold their sentences in any order; some of them failed, one wrote nothing."""
    out = tmp_path / "out"
    plan = distillation_plan(data, TEACHER, out, TaskOptions(vocab=VOCAB_SMALL), shards=2, keep_references=keep_references)
    (out / "tokenized").mkdir(parents=True)
    references = [f"reference {number}" for number in range(6)]
    (out / "tokenized" / "train.src").write_text("".join(f"source {number}\n" for number in range(6)))
    (out / "tokenized" / "train.tgt").write_text("".join(f"{line}\n" for line in references))
    (out / "teacher").mkdir()
    (out / "teacher" / "0.log").write_text(
        "S-4\tsource 4\nH-4\t-1\tteacher 4\nS-0\tsource 0\nH-0\t-1\tteacher 0\nS-2\tsource 2\n"
    )
    (out / "teacher" / "1.log").write_text("S-3\tsource 3\nH-3\t-1\tteacher 3\nS-1\tsource 1\nH-1\t-inf\t\n")
    merge = Plan(out)
    merge.add(next(step for step in plan.steps if step.name == "merge"))
    merge.run()
    expected = ["teacher 0", references[1], references[2], "teacher 3", "teacher 4", references[5]]
    sources = (out / "tokenized" / "train.src").read_text()
    if keep_references:
        expected, sources = expected + references, sources * 2
    assert (out / "distilled" / "train.tgt").read_text() == "".join(f"{line}\n" for line in expected)
    assert (out / "distilled" / "train.src").read_text() == sources
    assert "6 sentences, 3 of them without a hypothesis, filled from" in (out / "distilled" / "count.txt").read_text()


def test_more_sources(data, tmp_path):
    """The teacher decodes them behind the train part's own; one for which it writes nothing is no pair."""
    out, more = tmp_path / "out", tmp_path / "train.src"
    more.write_text("the first\nthe second\nthe third\n")
    options = TaskOptions(vocab=VOCAB_SMALL, workers=1)
    plan = distillation_plan(data, TEACHER, out, options, shards=9, keep_references=True, closest=True, more_sources=more)
    steps = {step.name: step for step in plan.steps}
    assert {"teacher-0", "teacher-1"} < set(steps) and "teacher-2" not in steps  # 51 sources are two batches
    assert after(words(plan, "binarize"), "--trainpref") == str(out / "sources" / "train")
    assert after(words(plan, "binarize-distilled"), "--validpref") == str(out / "tokenized" / "valid")
    few = Plan(out)
    for name in ("tokenize", "more-sources"):
        few.add(steps[name])
    few.run()
    source, target = ((out / "sources" / f"train.{side}").read_text().splitlines() for side in ("src", "tgt"))
    assert len(source) == len(target) == 51 and target[48:] == [""] * 3 and source[49].split(" ")[0] == "the"
    references = (out / "tokenized" / "train.tgt").read_text().splitlines()
    assert target[:48] == references
    (out / "teacher").mkdir()
    (out / "teacher" / "0.log").write_text("H-50\t-1\tof the third\nH-0\t-1\tof the first pair\n")
    (out / "teacher" / "1.log").write_text("H-48\t-1\tof the first\nH-48\t-2\tanother\n")
    merge = Plan(out)
    merge.add(steps["merge"])
    merge.run()
    pairs = [(out / "distilled" / f"train.{side}").read_text().splitlines() for side in ("src", "tgt")]
    taught = ["of the first pair", *references[1:], "of the first", "of the third"]
    assert list(zip(*pairs)) == list(zip(source[:49] + source[50:] + source[:48], taught + references))
    assert "51 sentences, 48 of them without a hypothesis" in (out / "distilled" / "count.txt").read_text()
    more.write_text("\n\n")
    with pytest.raises(ValueError, match="no text in it: give a file of raw sources"):
        distillation_plan(data, TEACHER, out, options, shards=1, more_sources=more)


def test_teachers_that_will_not_do(tmp_path):
    check_teacher(TEACHER, VOCAB_SMALL)
    with pytest.raises(ValueError, match="has 1389 entries of a vocabulary, .*vocab.txt 30522: give the --vocab") as error:
        check_teacher(TEACHER, VOCAB)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="trained for nar only: give a checkpoint that was trained for ar"):
        check_teacher(GOLDEN / "nar" / "checkpoint.pt", VOCAB_SMALL)
    with pytest.raises(ValueError, match="no such file"):
        check_teacher(tmp_path / "gone", VOCAB_SMALL)
    torch.save({"model": {}}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="no decoder's embeddings in it"):
        check_teacher(tmp_path / "empty.pt", VOCAB_SMALL)


@pytest.mark.parametrize("known_by", ["checkpoint", "dictionary beside it"])
def test_a_teacher_of_other_pieces_of_the_same_number(known_by, tmp_path):
    lines = VOCAB_SMALL.read_text(encoding="utf-8").splitlines(keepends=True)
    pieces = [line.rsplit(" ", 1)[0] for line in lines]
    state = read(str(TEACHER))
    if known_by == "checkpoint":
        state["task_state"] = {"dictionaries": fingerprint(pieces, pieces)}
    else:
        (tmp_path / "dict.src.txt").write_text("".join(lines), encoding="utf-8")
    torch.save(state, tmp_path / "teacher.pt")
    check_teacher(tmp_path / "teacher.pt", VOCAB_SMALL)
    swapped = tmp_path / "vocab.txt"
    swapped.write_text("".join([*lines[:-2], lines[-1], lines[-2]]), encoding="utf-8")
    with pytest.raises(
        ValueError, match="as many word pieces as .*vocab.txt, but others: give the --vocab it was trained"
    ) as error:
        check_teacher(tmp_path / "teacher.pt", swapped)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--shards", "0"], "give 1 or more"),
        (["--at-once", "-1"], "give 1 or more"),
        (["--closest", "--beam", "1"], "--closest --beam 1: there is nothing to choose from; give a beam of 2 or more"),
        (["--mode", "rn"], "--mode rn: choose ar, nar, semi-nar, n-stream, all"),
        (["--vocab", str(VOCAB)], "has 1389 entries of a vocabulary, .*vocab.txt 30522: give the --vocab it was trained with"),
        (["--teacher", str(GOLDEN / "nar" / "checkpoint.pt")], "trained for nar only"),
    ],
)
def test_refusals(options, message, data, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "distill",
                str(data),
                "--teacher",
                str(TEACHER),
                "--vocab",
                str(VOCAB_SMALL),
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
    assert re.search(f"^bang distill: error: .*{message}", stop.value.code) and "\n" not in stop.value.code
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_distillation(data, forked_commands, tmp_path):
    """The golden model teaches, of a blank source nothing; an interrupted shard alone is decoded again."""
    out = tmp_path / "out"
    sources = (data / "train.src").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "train.src").write_text("".join([*sources[:7], "\n", *sources[8:]]), encoding="utf-8")

    def distill(*options):
        command = [
            "-m", "bang", "distill", data, "--teacher", TEACHER, "--vocab", VOCAB_SMALL, "--out", out, "--more-sources", more,
            "--shards", "2", "--at-once", "2", "--beam", "1", "--train", LITTLE, "--generate", "--max-len-b 20", *options,
        ]  # fmt: skip
        environment = {**os.environ, **forked_commands().environment()}
        done = forked_commands().run(*map(str, command), cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return re.findall(r"^\[\d+/14\] (\S+)$", done.stderr, flags=re.M)

    more = tmp_path / "more.txt"
    more.write_text("".join(["\n", *sources[:2]]), encoding="utf-8")
    assert len(distill()) == 14
    source, target = ((out / "distilled" / f"train.{side}").read_text().splitlines() for side in ("src", "tgt"))
    references = (out / "tokenized" / "train.tgt").read_text().splitlines()
    assert (len(source), len(target), len(references)) == (50, 50, 48)
    assert source[48:] == source[:2] and target[48:] == target[:2]  # the blank one is left out
    # trained on these pairs until it fits them, the teacher writes most of them as they are: aligned they must be
    assert sum(ours == theirs for ours, theirs in zip(target, references)) > 24
    assert not source[7] and target[7] == references[7]
    count = (out / "distilled" / "count.txt").read_text()
    assert "51 sentences, 2 of them without a hypothesis, filled from" in count and "; 1 left out" in count
    assert set(json.loads((out / "scores.json").read_text())["systems"]) == {str(out / "nar.txt"), str(out / "nar-link.txt")}
    before = (out / "teacher" / "0.log").stat().st_mtime_ns
    (out / "teacher" / "1.log").unlink()
    assert "teacher-0" not in (steps := distill()) and "teacher-1" in steps
    assert (out / "teacher" / "0.log").stat().st_mtime_ns == before
