"""Learning curves, from any of fairseq-train's log formats."""

import pytest

from bang.__main__ import main
from bang.text.training_log import read_curves

JSON = """2026-01-01 00:00:00 | INFO | fairseq_cli.train | Start iterating over samples
2026-01-01 00:00:01 | INFO | train_inner | {"epoch": 1, "update": 0.5, "loss": "9.5", "nar_loss": "10", "num_updates": "50", "lr": "1e-05"}
2026-01-01 00:00:02 | INFO | train_inner | {"epoch": 1, "update": 0.9, "loss": "9", "nar_loss": "nan", "num_updates": "100", "lr": "2e-05"}
2026-01-01 00:00:03 | INFO | valid | {"epoch": 1, "valid_loss": "8.5", "valid_nar_loss": "9.25", "valid_num_updates": "100"}
2026-01-01 00:00:04 | INFO | train | {"epoch": 1, "train_loss": "9.25", "train_num_updates": "100"}
2026-01-01 00:00:05 | INFO | train_inner | {"epoch": 1, "update": 0.9, "loss": "8.75", "num_updates": "100", "lr": "2e-05"}
"""
SIMPLE = """2026-01-01 00:00:01 | INFO | train_inner | epoch 001:     50 / 120 loss=9.5, nar_loss=10, ppl=12.5, num_updates=50, lr=1e-05
2026-01-01 00:00:03 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 8.5 | nar_loss 9.25 | wps 0 | num_updates 100 | best_loss 8.5
"""


def test_json(tmp_path):
    (tmp_path / "log").write_text(JSON)
    curves = read_curves(tmp_path / "log")
    assert curves["train_inner loss"] == {50: 9.5, 100: 8.75}  # what a resumed run logged again
    assert curves["valid loss"] == {100: 8.5} and curves["valid nar_loss"] == {100: 9.25}
    assert curves["train loss"] == {100: 9.25} and curves["train_inner lr"] == {50: 1e-5, 100: 2e-5}


def test_simple(tmp_path):
    (tmp_path / "log").write_text(SIMPLE)
    curves = read_curves(tmp_path / "log")
    assert curves["train_inner loss"] == {50: 9.5} and curves["train_inner lr"] == {50: 1e-5}
    assert curves["valid nar_loss"] == {100: 9.25} and curves["valid best_loss"] == {100: 8.5}


@pytest.mark.parametrize("ending, begins", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_picture(ending, begins, tmp_path):
    for name, text in (("a", JSON), ("b", SIMPLE)):
        (tmp_path / name).write_text(text)
    main(["curves", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / f"curves.{ending}"), "--names", "first", "second"])
    assert (tmp_path / f"curves.{ending}").read_bytes().startswith(begins)


def test_what_is_drawn(tmp_path):
    (tmp_path / "a").write_text(JSON)
    main(["curves", str(tmp_path / "a"), str(tmp_path / "curves.svg")])
    picture = (tmp_path / "curves.svg").read_text()
    assert picture.count('id="legend_') == 2 and "<!-- all modes -->" in picture and "<!-- nar -->" in picture
    assert "<!-- best -->" not in picture


@pytest.mark.parametrize("mode", ["ar", "semi-nar", "nar"])
def test_the_loss_of_a_single_mode_is_drawn_once(mode, tmp_path):
    (tmp_path / "a").write_text(f"""| train_inner | {{"loss": "9.5", "{mode}_loss": "9.5", "num_updates": "50"}}
| valid | {{"valid_loss": "8.5", "valid_{mode}_loss": "8.5", "valid_num_updates": "50"}}
""")
    main(["curves", str(tmp_path / "a"), str(tmp_path / "curves.svg")])
    picture = (tmp_path / "curves.svg").read_text()
    assert picture.count(f"<!-- {mode} -->") == 2 and "<!-- all modes -->" not in picture  # in training and in validation


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{0}/a", "{0}/x.png"], "a: no record of training: give the output of fairseq-train"),
        (["{0}/gone", "{0}/x.png"], "gone"),
        (["{0}/log", "{0}/x.text"], "x.text: no ending of a picture: take .png, .svg or .pdf"),
        (["{0}/log", "{0}/x.png", "--names", "1", "2"], "--names: 2 for 1 logs: give one for each"),
        (["{0}/log", "{0}/log", "{0}/x.png"], "two runs have the same name: give --names"),
        (["{0}/log", "{0}/log"], "is the input"),
    ],
)
def test_refusals(arguments, message, tmp_path):
    (tmp_path / "a").write_text("nothing\n")
    (tmp_path / "log").write_text(JSON)
    with pytest.raises(SystemExit) as stop:
        main(["curves", *(argument.format(tmp_path) for argument in arguments)])
    assert message in stop.value.code and "\n" not in stop.value.code
    assert {path.name for path in tmp_path.iterdir()} == {"a", "log"}
