"""fairseq-interactive, -generate, -validate and the hub with a trained checkpoint, run in this process."""

import json
import math
import re

import pytest
import torch
from conftest import GOLDEN, VOCAB_SMALL, hypotheses
from fairseq.models import MODEL_REGISTRY

from bang import visibility
from bang.safety.files import read
from bang.text.cleanup import clean_up

MIXED = GOLDEN / "mixed" / "checkpoint.pt"
LIMIT = 512  # positions of the golden models


@pytest.fixture
def interactive(cli, data_bin, tmp_path):
    """fairseq-interactive on these lines with a golden model; its log."""

    def call(lines, *options, path=MIXED):
        (tmp_path / "input").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return cli(
            "fairseq-interactive", data_bin, "--path", path, "--task", "translation_bang", "--source-lang", "src",
            "--target-lang", "tgt", "--input", tmp_path / "input", "--buffer-size", "4", "--batch-size", "4", "--beam", "1",
            "--max-len-b", "10", *options,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def lines():
    return (GOLDEN / "data" / "tokenized_test.src").read_text(encoding="utf-8").splitlines()


def test_interactive_cuts_long_lines_to_the_model(interactive, lines):
    words = " ".join(lines).split() * 2
    cut = words[: LIMIT - 1]  # and eos
    assert len(words) > LIMIT + 100
    log = interactive([lines[0], " ".join(words), " ".join(cut), lines[1]], "--truncate-source")
    found = hypotheses(log)
    assert sorted(found) == [0, 1, 2, 3]
    assert found[1] == found[2] and f"S-1\t{' '.join(cut)}\n" in log
    alone = hypotheses(interactive([lines[0], lines[1]]))
    assert [found[0][1], found[3][1]] == [alone[0][1], alone[1][1]]


@pytest.mark.parametrize("options", [[], ["--max-tokens", "300"]])
def test_a_line_that_is_too_long_leaves_the_others_their_answers(options, interactive, lines, caplog):
    too_long = " ".join((" ".join(lines).split() * 2)[:LIMIT])
    # the second buffer holds nothing else
    log = interactive([lines[0], too_long, lines[1], lines[2], *[too_long] * 4, lines[3]], *options)
    found = hypotheses(log)
    assert sorted(found) == [0, 2, 3, 8]
    alone = hypotheses(interactive(lines[:4]))
    assert [text for _, text in found.values()] == [text for _, text in alone.values()]
    messages = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "left out" in r.getMessage()]
    assert [message.split(" of this buffer")[0] for message in messages] == ["1 of 4 sentences", "4 of 4 sentences"]
    assert "the first is sentence 1 of size (513, " in messages[0] and "--truncate-source" in messages[0]


def test_generate_cuts_to_the_model_without_being_told_its_size(cli, tmp_path, lines):
    """--max-source-positions is 1024 by default."""
    words = " ".join(lines).split() * 2
    for side, text in (("src", " ".join(words)), ("tgt", lines[0])):
        (tmp_path / f"test.{side}").write_text(text + "\n", encoding="utf-8")
    cli(
        "fairseq-preprocess", "--task", "translation_bang", "--source-lang", "src", "--target-lang", "tgt", "--testpref",
        tmp_path / "test", "--destdir", tmp_path / "bin", "--srcdict", VOCAB_SMALL, "--tgtdict", VOCAB_SMALL,
    )  # fmt: skip
    options = ["--path", MIXED, "--task", "translation_bang_nar", "--max-len-b", "10"]
    log = cli("fairseq-generate", tmp_path / "bin", *options, "--truncate-source")
    assert f"S-0\t{' '.join(words[: LIMIT - 1])}\n" in log and list(hypotheses(log)) == [0]
    with pytest.raises(ValueError, match=r"over the limit \(512, 512\); the first is sentence 0 .*--truncate-source"):
        cli("fairseq-generate", tmp_path / "bin", *options)


@pytest.fixture
def generate(cli, data_bin):
    """fairseq-generate on the test part with a golden model; its log."""

    def call(*options, path=MIXED, task="translation_bang"):
        return cli("fairseq-generate", data_bin, "--path", path, "--task", task, "--batch-size", "36", *options)

    return call


def test_prefix_size(generate):
    targets = (GOLDEN / "data" / "tokenized_test.tgt").read_text(encoding="utf-8").splitlines()
    found = hypotheses(generate("--beam", "3", "--prefix-size", "2"))
    assert sorted(found) == list(range(24))
    free = hypotheses(generate("--beam", "3"))
    assert all(found[n][1].split()[:2] == targets[n].split()[:2] for n in found)
    assert sum(free[n][1].split()[:2] == targets[n].split()[:2] for n in free) < 12


@pytest.mark.slow
def test_constraints(interactive, lines):
    """Pieces after a tab must be in the text, in the order given; without them they are not."""
    wanted = ["network library", "python", "documentation"]
    free = hypotheses(interactive(lines[:3], "--beam", "4", "--max-len-b", "30"))
    assert not any(phrase in free[number][1] for number, phrase in enumerate(wanted))
    log = interactive(
        [f"{line}\t{phrase}" for line, phrase in zip(lines, wanted)], "--beam", "4", "--max-len-b", "30", "--constraints"
    )
    found = hypotheses(log)
    for number, phrase in enumerate(wanted):
        assert f" {phrase} " in f" {found[number][1]} " and f"C-{number}\t{phrase}\n" in log


def test_print_alignment(generate):
    log = generate("--beam", "2", "--print-alignment")
    sources = dict(re.findall(r"^S-(\d+)\t(.*)$", log, flags=re.M))
    alignments = {int(n): pairs.split() for n, pairs in re.findall(r"^A-(\d+)\t(.*)$", log, flags=re.M)}
    for number, (_, text) in hypotheses(log).items():
        pairs = [tuple(map(int, pair.split("-"))) for pair in alignments[number]]
        tokens = text.split(" ")
        assert [target for _, target in pairs] == [n for n, token in enumerate(tokens) if token != "[SEP]"]
        assert all(0 <= source < len(sources[str(number)].split()) for source, _ in pairs)
    assert len({pair.split("-")[0] for pairs in alignments.values() for pair in pairs}) > 10


@pytest.mark.slow
def test_validate(cli, data_bin, golden_model, pairs):
    """The loss of fairseq-validate is that of the test part as one batch, for any batch size."""
    losses = []
    for size in ("7", "36"):
        log = cli(
            "fairseq-validate", data_bin, "--path", MIXED, "--task", "translation_bang", "--valid-subset", "test",
            "--batch-size", size, "--log-format", "json",
        )  # fmt: skip
        losses.append(json.loads(re.search(r"\| test \| (\{.*\})", log)[1]))
    (batch,) = pairs("test", 36)
    nll = {}
    with torch.no_grad():
        for mode, layout in (("ar", visibility.autoregressive), ("nar", visibility.non_autoregressive)):
            target = batch["target"]
            logits, _ = golden_model("mixed")(**batch["net_input"], layout=layout(target.size(1)))
            logprobs = logits.log_softmax(2).gather(2, target[:, :, None])[:, :, 0]
            nll[mode] = -logprobs[target != 0].sum().item() / batch["ntokens"] / math.log(2)
    for log in losses:
        assert float(log["test_nll_loss"]) == pytest.approx((nll["ar"] + nll["nar"]) / 2, abs=2e-3)
        assert {name: log[name] for name in losses[0]} == losses[0]


@pytest.fixture
def hub(data_bin):
    def load(**options):
        options = {"data_name_or_path": str(data_bin), "source_lang": "src", "target_lang": "tgt", **options}
        return MODEL_REGISTRY["bang_ar_nar_mixed"].from_pretrained(str(MIXED.parent), MIXED.name, **options)

    return load


def test_hub(hub, lines):
    expected = hypotheses((GOLDEN / "mixed" / "generate_test_ar_beam4_lenpen1.2.txt").read_text())
    texts = hub().translate(lines, beam=4, lenpen=1.2)
    assert texts == [text for _, (_, text) in sorted(expected.items())]


def test_hub_in_another_mode(hub, lines, caplog):
    nar = hypotheses((GOLDEN / "mixed" / "generate_test_nar.txt").read_text())
    texts = hub(decoding="nar").translate(lines[:3], beam=1)
    assert [clean_up(text) for text in texts] == [clean_up(nar[n][1]) for n in range(3)]
    assert "trained for" not in caplog.text
    hub(decoding="semi-nar").translate(lines[0], beam=1)
    assert "mode semi-nar: this model was not trained for it (ar 50%, nar 50%)" in caplog.text


def test_hub_decodes_in_the_mode_that_a_call_names(hub, lines):
    """For that call alone."""
    ar, loaded = hub().translate(lines[:3], beam=1), hub()
    for decoding, options in (("nar", {}), ("semi-nar", {"block_size": 3})):
        expected = hub(decoding=decoding, **options).translate(lines[:3], beam=1)
        assert loaded.translate(lines[:3], beam=1, decoding=decoding, **options) == expected != ar
    assert loaded.translate(lines[:3], beam=1) == ar


def test_hub_refuses_a_mode_that_there_is_not(hub, lines):
    with pytest.raises(ValueError, match="^mode 'one by one': give one of ar, semi-nar, nar, speculative$"):
        hub().translate(lines[:1], beam=1, decoding="one by one")


def test_hub_refuses_a_sentence_that_is_too_long(hub, lines):
    """Its answers are a list in the order of the sentences, so none may be left out."""
    with pytest.raises(ValueError, match="1 of 2 sentences .* over the limit"):
        hub(truncate_source=False).translate([lines[0], " ".join(lines * 2)], beam=1)


@pytest.mark.slow
def test_resume_with_eval_bleu(train_here, tmp_path):
    """BLEU of the validation part after each epoch, of a run stopped and resumed as of one that was not."""
    options = (
        "--activation-fn gelu --nar-ratio 0.5 --lr 1e-4 --eval-bleu --best-checkpoint-metric bleu "
        "--maximize-best-checkpoint-metric --load-from-pretrained-model"
    ).split() + [MIXED, "--eval-bleu-args", '{"beam": 2, "max_len_b": 20}']

    def bleu(folder):
        states = [read(str(folder / f"checkpoint{epoch}.pt"))["extra_state"] for epoch in (1, 2, 3)]
        return [state["val_loss"] for state in states], states[-1]["best"]

    train_here(*options, "--save-dir", tmp_path / "whole", "--max-epoch", "3", validate=True)
    for last in ("1", "3"):
        train_here(*options, "--save-dir", tmp_path / "parts", "--max-epoch", last, validate=True)
    whole = bleu(tmp_path / "whole")
    assert bleu(tmp_path / "parts") == whole and whole[1] == max(whole[0]) > 5
