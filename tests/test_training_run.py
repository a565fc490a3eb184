"""What fairseq-train does with a run of ours: what it saves, refuses and warns of."""

import time

import pytest
import torch
from omegaconf import OmegaConf

from bang.plugin import training_run


def saved(folder):
    """Update number of each checkpoint, by the name's ending."""
    states = {path.stem.removeprefix("checkpoint"): torch.load(path) for path in folder.glob("*.pt")}
    return {name: state["optimizer_history"][-1]["num_updates"] for name, state in states.items()}


@pytest.mark.parametrize(
    "options, expected",
    [
        # three updates an epoch
        (["--save-interval", "5", "--max-epoch", "4"], {"4": 12, "_last": 12}),
        (["--save-interval", "2", "--max-epoch", "3"], {"2": 6, "3": 9, "_last": 9}),
        (["--save-interval", "2", "--max-epoch", "3", "--no-epoch-checkpoints"], {"_last": 9}),
        (["--save-interval", "2", "--max-epoch", "3", "--no-last-checkpoints"], {"2": 6, "3": 9}),
        (["--save-interval", "5", "--max-epoch", "3", "--no-save"], {}),
        (["--save-interval", "5", "--max-update", "4"], {"_last": 4}),
        # the learning rate falls below its minimum in the second epoch
        (
            "--save-interval 5 --max-epoch 9 --lr 1e-3 --warmup-init-lr 1e-3 --warmup-updates 1 --min-lr 5e-4".split(),
            {"_last": 6},
        ),
        (["--save-interval", "1", "--max-epoch", "3", "--keep-last-epochs", "2"], {"2": 6, "3": 9, "_last": 9}),
    ],
)
def test_a_finished_run_is_saved(options, expected, train_here):
    assert saved(train_here(*options)) == expected


def test_every_epoch_can_be_gone_on_from(train_here):
    """A run stopped after three epochs of five, none of them a multiple of --save-interval."""
    folder = train_here("--save-interval", "5", "--max-epoch", "3")
    assert saved(folder) == {"3": 9, "_last": 9}
    assert saved(train_here("--save-interval", "5", "--max-epoch", "6")) == {"3": 9, "5": 15, "6": 18, "_last": 18}


def test_a_run_that_resumes_in_a_later_epoch_equals_one_that_never_stopped(train_here, tmp_path):
    """Bit by bit: weights, and the optimizer's state. Many of these sentences are equally long."""
    more = ["--dropout", "0.1", "--no-epoch-checkpoints"]  # 3 updates an epoch
    train_here(*more, "--max-update", "9", "--save-dir", tmp_path / "whole")
    whole = torch.load(tmp_path / "whole" / "checkpoint_last.pt")
    for stop in ("7", "9"):
        train_here(*more, "--max-update", stop, "--save-dir", tmp_path / "parts")
    parts = torch.load(tmp_path / "parts" / "checkpoint_last.pt")
    assert all(torch.equal(parts["model"][name], weight) for name, weight in whole["model"].items())
    moments = [state["last_optimizer_state"]["state"] for state in (whole, parts)]
    assert all(torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in ("exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize(
    "options, trains",
    [
        (["--arch", "bang_ar", "--nar-ratio", "0.2"], "bang_ar runs AR alone, but .* trains NAR too"),
        (["--arch", "bang_ar_base", "--semi-nar-ratio", "0.01"], "bang_ar_base runs AR alone, but .* trains SEMI-NAR too"),
        (["--arch", "bang_nar"], "bang_nar runs NAR alone, but .* trains AR too"),
        (["--arch", "bang_nar", "--nar-ratio", "0.9"], "bang_nar runs NAR alone, but .* trains AR too"),
        (["--arch", "bang_nar", "--criterion", "ngram_language_loss"], "--criterion ngram_language_loss trains AR too"),
    ],
)
def test_modes_that_the_model_does_not_run_are_refused_before_training(options, trains, train_here, tmp_path):
    with pytest.raises(ValueError, match=trains) as error:
        train_here(*options, "--max-update", "1")
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    "options",
    [
        ["--arch", "bang_ar"],
        ["--arch", "bang_ar", "--criterion", "ngram_language_loss", "--ngram", "3"],
        ["--arch", "bang_nar", "--nar-ratio", "1"],
        ["--arch", "bang_nar", "--criterion", "label_smoothed_cross_entropy"],
    ],
)
def test_modes_that_the_model_runs(options, train_here):
    assert saved(train_here(*options, "--max-update", "1")) == {"_last": 1}


@pytest.mark.parametrize(
    "options, numbers",
    [
        (["--max-update", "3", "--warmup-updates", "4"], (4, 3)),
        (["--max-epoch", "2", "--warmup-updates", "7"], (7, 6)),
        (["--max-epoch", "2", "--update-freq", "2", "--warmup-updates", "5"], (5, 4)),
        (["--max-epoch", "2", "--warmup-updates", "6"], None),
        (["--max-update", "1", "--lr-scheduler", "reduce_lr_on_plateau", "--warmup-updates", "2"], (2, 1)),
    ],
)
def test_a_warmup_longer_than_the_run(options, numbers, train_here, caplog):
    train_here(*options, "--no-save")
    messages = [record.getMessage() for record in caplog.records if "--warmup-updates" in record.getMessage()]
    expected = [] if numbers is None else ["--warmup-updates {} is more than the {} updates of this run".format(*numbers)]
    assert [message.split(":")[0] for message in messages if "is more than" in message] == expected


@pytest.mark.parametrize(
    "max_epoch, max_update, batches, update_freq, expected",
    [
        (3, 0, [10], [4], [3, 3, 3]),
        (3, 7, [10], [4], [3, 3, 1]),
        (0, 6, [10], [4], [3, 3]),
        (5, 0, [10, 4], [1], [10, 4, 10, 4, 10]),  # two shards in turn
        (3, 0, [10], [4, 10], [3, 1, 1]),
        (0, 0, [10], [1], None),
    ],
)
def test_updates_of_a_run(max_epoch, max_update, batches, update_freq, expected):
    run = OmegaConf.create({"optimization": {"max_epoch": max_epoch, "max_update": max_update, "update_freq": update_freq}})
    assert training_run.updates_by_epoch(run, batches) == expected


@pytest.mark.parametrize("updates, expected", [(3, 1), (19, 1), (500, 50), (10_000, 1000), (10**6, 1000)])
def test_a_warmup_that_fits(updates, expected):
    assert training_run.fitting_warmup(updates, most=1000) == expected


def test_updates_of_very_many_epochs():
    """In time that grows with their number alone: 100,000 epochs took minutes before the first update."""
    run = OmegaConf.create({"optimization": {"max_epoch": 200_000, "max_update": 0, "update_freq": [1]}})
    start = time.process_time()
    assert training_run.updates_by_epoch(run, [5, 3]) == [5, 3] * 100_000
    assert time.process_time() - start < 5
