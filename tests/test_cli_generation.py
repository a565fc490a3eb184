"""fairseq-interactive, -generate and -validate with a trained checkpoint, run in this process."""

import pytest

from conftest import GOLDEN, VOCAB_SMALL, hypotheses

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
