"""Which modes a checkpoint was trained for, and the warning when it decodes in another."""

from argparse import Namespace

import pytest
from conftest import GOLDEN
from fairseq.dataclass.configs import GenerationConfig

from bang.modes import MODES
from bang.safety import checkpoints
from bang.trained_modes import Blocks, best_trained, split_shares, trained_blocks, trained_modes, update_shares

MIXED = "ngram_language_loss_NAR_mixed"


def options(criterion, model="bang_ar_nar_mixed_base", ngram=1, **more):
    """Groups, as today's fairseq stores them."""
    return {"model": {"_name": model, "ngram": ngram}, "criterion": {"_name": criterion, "ngram": ngram, **more}}


@pytest.mark.parametrize(
    "cfg, shares, modes",
    [
        (options("ngram_language_loss"), {"ar": 1}, {"ar": 1}),
        (options("ngram_language_loss", ngram=9), {"ar": 1}, {"ar": 1, "semi-nar": 1}),
        (options("ngram_language_loss", ngram=9, disable_ngram_loss=True), {"ar": 1}, {"ar": 1}),
        (options(MIXED, nar_ratio=1.0, semi_nar_ratio=0.0), {"nar": 1}, {"nar": 1}),
        (options(MIXED, nar_ratio=1.0, ngram=9), {"nar": 1}, {"nar": 1}),
        (options(MIXED, nar_ratio=0.7, semi_nar_ratio=0.3), {"nar": 0.7, "semi-nar": 0.3}, {"semi-nar": 0.3, "nar": 0.7}),
        (options(MIXED, nar_ratio=0.5, ngram=3), {"nar": 0.5, "ar": 0.5}, {"ar": 0.5, "semi-nar": 0.5, "nar": 0.5}),
        (options("label_smoothed_cross_entropy", "bang_nar_base"), {"nar": 1}, {"nar": 1}),
        (options("label_smoothed_cross_entropy", "bang_ar", ngram=9), {"ar": 1}, {"ar": 1}),
        (options("label_smoothed_cross_entropy", "transformer"), {}, {}),
        ({"model": Namespace(arch="fconv"), "criterion": None}, {}, {}),
        (Namespace(criterion=MIXED, arch="bang_ar_nar_mixed", nar_ratio=0.25, ngram=None), {"nar": 0.25, "ar": 0.75}, None),
        (Namespace(arch="bang_nar", criterion="cross_entropy"), {"nar": 1}, {"nar": 1}),
        (Namespace(), {}, {}),
    ],
)
def test_shares_and_modes(cfg, shares, modes):
    assert update_shares(cfg) == pytest.approx(shares)
    found = trained_modes(cfg)
    assert found == pytest.approx(shares if modes is None else modes)
    assert list(found) == [mode for mode in ("ar", "semi-nar", "nar") if mode in found]


@pytest.mark.parametrize("name, modes", [("mixed", {"ar": 0.5, "nar": 0.5}), ("nar", {"nar": 1})])
def test_of_checkpoints_old_and_new(name, modes, golden_states, golden_model):
    assert trained_modes(checkpoints.read(str(GOLDEN / name / "checkpoint.pt"))["args"]) == modes  # as fairseq 0.9 wrote it
    assert trained_modes(golden_states[name]["cfg"]) == modes
    assert golden_model(name).trained_modes == modes


def test_shares_are_free_of_rounding():
    assert split_shares({"nar_ratio": 0.7, "semi_nar_ratio": 0.3}) == {"nar": 0.7, "semi-nar": 0.3}
    assert split_shares({"nar_ratio": 0.1, "semi_nar_ratio": 0.2})["ar"] == 0.7
    assert split_shares({"nar_ratio": 0.4, "semi_nar_ratio": 0.2}) == {"nar": 0.4, "semi-nar": 0.2, "ar": 0.4}
    cfg = options(MIXED, nar_ratio=0.3, semi_nar_ratio=0.1, ngram=2)
    assert trained_modes(cfg) == {"ar": 0.6, "semi-nar": 0.7, "nar": 0.3}


@pytest.mark.parametrize("shares, modes, best", [
    ({"nar": 0.4, "semi-nar": 0.2, "ar": 1 - 0.4 - 0.2}, MODES, "ar"),
    ({"nar": 0.5, "semi-nar": 0.5}, MODES, "semi-nar"),
    ({"nar": 0.6, "ar": 0.4}, MODES, "nar"),
    ({"nar": 0.5, "ar": 0.5}, ["nar"], "nar"),
    ({"semi-nar": 1.0}, MODES, "semi-nar"),
    ({}, MODES, "ar"),
    (None, ["nar"], "nar"),
])  # fmt: skip
def test_the_best_trained_mode(shares, modes, best):
    assert best_trained(shares, modes) == best


@pytest.mark.parametrize(
    "trained, decoding, warns",
    [
        ({"nar": 1.0}, "ar", "(nar 100%)"),
        ({"ar": 0.5, "nar": 0.5}, "semi-nar", "(ar 50%, nar 50%)"),
        ({"ar": 0.5, "nar": 0.5}, "nar", None),
        ({"ar": 1.0}, "ar", None),
        ({}, "nar", None),  # of somebody who did not say
    ],
)
def test_decoding_in_a_mode_that_was_not_trained(trained, decoding, warns, make_task, make_model, caplog):
    model = make_model()
    model.trained_modes = trained
    make_task(decoding=decoding).build_generator([model], GenerationConfig())
    messages = [record.getMessage() for record in caplog.records if "not trained for" in record.getMessage()]
    assert len(messages) == (warns is not None)
    if warns:
        assert messages[0].startswith(f"mode {decoding}: this model was not trained for it {warns}; expect poor texts")


@pytest.mark.parametrize(
    "cfg, blocks",
    [
        (options("ngram_language_loss", ngram=9), Blocks(9, 9)),
        (options("ngram_language_loss", ngram=9, disable_ngram_loss=True), Blocks(1, 1)),
        (options(MIXED, nar_ratio=0.3, ngram=3), Blocks(3, 3)),
        (options(MIXED, nar_ratio=0.3, semi_nar_ratio=0.3, block_size=6), Blocks(6, 1)),
        (options(MIXED, nar_ratio=0.3, semi_nar_ratio=0.3, block_size=6, random_block_offset=True), Blocks(6, 6)),
        (options(MIXED, nar_ratio=0.3, semi_nar_ratio=0.3, block_size=6, ngram=3), Blocks(6, 3)),
        (options(MIXED, nar_ratio=1.0, ngram=9), Blocks(0, 0)),
        (Namespace(), None),
    ],
)
def test_blocks(cfg, blocks):
    assert trained_blocks(cfg) == blocks


UNHUNG, SHORT = "not trained to hang on any token", "trained with blocks of 4 tokens"


@pytest.mark.parametrize(
    "blocks, decoding, warns",
    [
        (Blocks(1, 1), dict(decoding="speculative"), UNHUNG),
        (Blocks(4, 1), dict(decoding="speculative"), UNHUNG),
        (Blocks(4, 1), dict(decoding="semi-nar", commit_threshold=0.5), UNHUNG),
        (Blocks(4, 1), dict(decoding="semi-nar"), None),
        (Blocks(4, 1), dict(decoding="semi-nar", block_size=5), f"--block-size 5: this checkpoint was {SHORT}"),
        (
            Blocks(6, 4),
            dict(decoding="semi-nar", block_size=5, commit_threshold=0.5),
            f"--block-size 5: this checkpoint was {SHORT}",
        ),
        (Blocks(4, 4), dict(decoding="speculative", draft_length=4), f"--draft-length 4: this checkpoint was {SHORT}"),
        (Blocks(4, 4), dict(decoding="speculative", draft_length=3), None),
        (Blocks(4, 4), dict(decoding="nar"), None),
        (None, dict(decoding="speculative"), None),
    ],
)
def test_blocks_that_were_not_trained(blocks, decoding, warns, make_task, make_model, caplog):
    model = make_model()
    model.trained_modes, model.trained_blocks = {}, blocks
    make_task(**decoding).build_generator([model], GenerationConfig(beam=1))
    messages = [
        message for record in caplog.records if UNHUNG in (message := record.getMessage()) or "trained with blocks" in message
    ]
    assert len(messages) == (warns is not None)
    assert warns is None or warns in messages[0]
