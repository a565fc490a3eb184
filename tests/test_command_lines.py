"""The real command lines, end to end: published commands, resuming, several workers, bad input."""

import math
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import GOLDEN, ROOT, TINY, VOCAB_SMALL, hypotheses, last_line, train_log

USER_DIR = ["--user-dir", ROOT / "bang"]
OPTIMIZER = (
    "--optimizer adam --clip-norm 0.1 --lr 0.004 --min-lr 1e-09 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-07 "
    "--warmup-updates 4 --weight-decay 0.01 --adam-betas"
).split() + ["(0.9, 0.999)"]
PUBLISHED = (
    "--task translation_bang --arch bang_ar_nar_mixed --ngram 1 --disable-ngram-loss --attention-dropout 0.1 "
    "--criterion ngram_language_loss_NAR_mixed --label-smoothing 0.1 --num-workers 1 --ddp-backend=no_c10d "
    "--max-source-positions 512 --max-target-positions 512 --truncate-source --keep-last-epochs 10 --save-interval 1"
).split()
JSON_LOG = ["--log-format", "json", "--log-interval", "1"]


@pytest.fixture(scope="module")
def train(run, data_bin):
    """fairseq-train on the golden pairs; what the command prints."""

    def call(save_dir, *options, **kwargs):
        command = ["fairseq-train", data_bin, *USER_DIR, *PUBLISHED, *OPTIMIZER, *TINY, *JSON_LOG]
        return run(*command, "--save-dir", save_dir, *options, **kwargs)

    return call


def losses(log):
    return [(record["num_updates"], record["loss"]) for record in train_log(log)]


def test_binarized_data_is_that_of_fairseq_0_9(data_bin):
    expected = (GOLDEN / "data" / "binarized_small.sha256").read_text().split()[1::2]
    assert len(expected) == 14
    subprocess.run(["sha256sum", "-c", "--strict", GOLDEN / "data" / "binarized_small.sha256"], cwd=data_bin, check=True)


@pytest.fixture(scope="module")
def finetuned(train, tmp_path_factory):
    """The published fine-tuning command, mixed, on the golden pairs."""
    folder = tmp_path_factory.mktemp("finetuned")
    log = train(
        folder / "checkpoints", "--nar-ratio", "0.5", "--update-freq", "1", "--max-tokens", "600", "--max-epoch", "8",
        "--dropout", "0.1", "--load-from-pretrained-model", GOLDEN / "adapt" / "short_positions_pretrained.pt", "--load-sep",
        "--num_buckets", "32", "--relative_max_distance", "128", "--tensorboard-logdir", folder / "tensorboard",
    )  # fmt: skip
    return folder, log


def test_finetuning_from_a_pretrained_model(finetuned):
    folder, log = finetuned
    records = train_log(log)
    assert float(records[-1]["loss"]) < float(records[0]["loss"]) - 0.5
    assert {"ar_loss", "nar_loss", "ppl", "nll_loss"} <= set(records[-1])
    valid = train_log(log, "valid")
    assert len(valid) == 8 and {"valid_ar_loss", "valid_nar_loss", "valid_ppl"} <= set(valid[0])
    assert sum(int(r["bsz"] or 0) for r in records) == 8 * 48  # every sentence, in every epoch
    state = torch.load(folder / "checkpoints" / "checkpoint_last.pt")
    assert state["cfg"]["model"]["load_from_pretrained_model"] is None
    assert state["cfg"]["optimization"]["stop_min_lr"] == 1e-09
    assert len(list((folder / "checkpoints").glob("checkpoint[0-9]*.pt"))) == 8
    for split in ("train_inner", "valid"):
        events = next((folder / "tensorboard" / split).iterdir()).read_bytes()
        assert b"nar_loss" in events and b"ar_loss" in events and b"ppl" in events


def test_published_generation_commands(finetuned, run, data_bin, tmp_path):
    folder, _ = finetuned
    checkpoint = folder / "checkpoints" / "checkpoint_best.pt"
    ar = run(
        "fairseq-generate", data_bin, "--path", checkpoint, *USER_DIR, "--task", "translation_bang", "--batch-size", "36",
        "--gen-subset", "test", "--beam", "4", "--num-workers", "4", "--lenpen", "1.2",
    )  # fmt: skip
    nar_command = [
        *USER_DIR, "--path", checkpoint, "--truncate-source", "--max-source-positions", "512", "--task",
        "translation_bang_nar", "--batch-size", "36", "--beam", "1",
    ]  # fmt: skip
    nar = run("fairseq-generate", data_bin, *nar_command, "--gen-subset", "test")
    for log in (ar, nar):
        assert sorted(hypotheses(log)) == list(range(24))
    assert hypotheses(ar) != hypotheses(nar)
    interactive = run(
        "fairseq-interactive", data_bin, *nar_command, "--buffer-size", "36", "--source-lang", "src", "--target-lang", "tgt",
        "--input", GOLDEN / "data" / "tokenized_test.src",
    )  # fmt: skip
    same = hypotheses(interactive)
    for sentence, (score, text) in hypotheses(nar).items():
        assert same[sentence][1] == text and same[sentence][0] == pytest.approx(score, abs=1e-5)

    (tmp_path / "OUT").write_text(nar)
    subprocess.run(["bash", "-c", "grep ^H OUT | cut -c 3- | sort -n | cut -f3- > hypo"], check=True, cwd=tmp_path)
    subprocess.run([sys.executable, ROOT / "post_processed_nar.py", "hypo", "hypo.dedup"], check=True, cwd=tmp_path)
    assert len((tmp_path / "hypo.dedup").read_text().splitlines()) == 24


@pytest.mark.parametrize("batch_size", [1, 7])
def test_every_sentence_of_the_reference_checkpoint_comes_out(batch_size, run, data_bin):
    log = run(
        "fairseq-generate", data_bin, "--path", GOLDEN / "mixed" / "checkpoint.pt", *USER_DIR, "--task", "translation_bang",
        "--batch-size", batch_size, "--gen-subset", "train", "--beam", "5", "--no-repeat-ngram-size", "3", "--min-len", "6",
        "--max-len-b", "40",
    )  # fmt: skip
    expected = hypotheses((GOLDEN / "mixed" / "generate_train_ar_beam5_ngram3_min6.txt").read_text(), base=2.718281828459045)
    found = hypotheses(log)
    assert {k: v[1] for k, v in found.items()} == {k: v[1] for k, v in expected.items()}
    assert all(found[k][0] == pytest.approx(expected[k][0], abs=2e-6) for k in found)


def test_ensemble_of_checkpoints_in_bf16(finetuned, cli, data_bin):
    checkpoints = finetuned[0] / "checkpoints"
    command = [
        "fairseq-generate", data_bin, "--path", f"{checkpoints}/checkpoint7.pt:{checkpoints}/checkpoint8.pt",
        "--task", "translation_bang_nar", "--batch-size", "36",
    ]  # fmt: skip
    exact, rounded = hypotheses(cli(*command)), hypotheses(cli(*command, "--bf16"))
    assert sorted(exact) == sorted(rounded) == list(range(24))
    same = [n for n in exact if exact[n][1] == rounded[n][1]]
    assert len(same) > 12  # an arg-max over two close values may turn
    scores = [(exact[n][0], rounded[n][0]) for n in same]
    assert all(a == pytest.approx(b, abs=0.05) for a, b in scores) and any(a != b for a, b in scores)


def test_a_shard_decodes_its_part_alone(run, data_bin):
    """--num-shards, which fairseq 0.12 takes and ignores: of the batches of 7, 7, 7 and 3 sentences every other one."""
    log = run(
        "fairseq-generate", data_bin, "--path", GOLDEN / "mixed" / "checkpoint.pt", *USER_DIR, "--task", "translation_bang",
        "--beam", "1", "--batch-size", "7", "--num-shards", "2", "--shard-id", "1",
    )  # fmt: skip
    texts = {sentence: text for sentence, (_, text) in hypotheses(log).items()}
    golden = hypotheses((GOLDEN / "mixed" / "generate_test_ar_beam1.txt").read_text(), math.e)
    assert len(texts) in (7 + 7, 7 + 3) and texts.items() <= {sentence: text for sentence, (_, text) in golden.items()}.items()


def test_score_reference(finetuned, run, data_bin):
    log = run(
        "fairseq-generate", data_bin, "--path", finetuned[0] / "checkpoints" / "checkpoint_best.pt", *USER_DIR, "--task",
        "translation_bang", "--batch-size", "36", "--score-reference",
    )  # fmt: skip
    targets = (GOLDEN / "data" / "tokenized_test.tgt").read_text().splitlines()
    assert [text for _, (_, text) in sorted(hypotheses(log).items())] == targets


def test_a_resumed_run_continues_as_if_never_stopped(train, tmp_path):
    options = ["--nar-ratio", "0.3", "--semi-nar-ratio", "0.3", "--block-size", "3", "--dropout", "0.1", "--max-tokens", "400"]
    whole = train(tmp_path / "whole", *options, "--max-update", "12")
    first = train(tmp_path / "parts", *options, "--max-update", "9")  # in a later epoch
    second = train(tmp_path / "parts", *options, "--max-update", "12")
    assert torch.load(tmp_path / "parts" / "checkpoint_last.pt")["extra_state"]["train_iterator"]["epoch"] > 1
    assert losses(first) + losses(second) == losses(whole)
    modes = [[key for key in ("ar_loss", "semi-nar_loss", "nar_loss") if record.get(key)] for record in train_log(whole)]
    assert {mode for (mode,) in modes} == {"ar_loss", "semi-nar_loss", "nar_loss"}
    a, b = (torch.load(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_resumed_run_does_not_ask_for_the_pretrained_file(train, tmp_path):
    start = tmp_path / "pretrained.pt"
    shutil.copy(GOLDEN / "adapt" / "short_positions_pretrained.pt", start)
    options = ["--max-tokens", "600", "--dropout", "0", "--load-from-pretrained-model", start]
    train(tmp_path / "ck", *options, "--max-update", "2")
    start.unlink()
    log = train(tmp_path / "ck", *options, "--max-update", "3")
    assert [update for update, _ in losses(log)] == ["3"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def train_two(data_bin):
    """fairseq-train with two workers on the CPU; what the first prints."""

    def call(save_dir, *options):
        command = [sys.executable, "-m", "fairseq_cli.train", data_bin, *USER_DIR, *PUBLISHED, *OPTIMIZER, *TINY, *JSON_LOG]
        command += ["--save-dir", save_dir, *options, "--distributed-world-size", "2", "--distributed-no-spawn"]
        command += ["--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--distributed-backend", "gloo"]
        workers = [
            subprocess.Popen(
                [str(part) for part in [*command, "--distributed-rank", str(rank)]], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(2)
        ]  # fmt: skip
        logs = [worker.communicate(timeout=240)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], logs[0][-3000:] + logs[1][-3000:]
        return logs[0]

    return call


@pytest.mark.slow
def test_two_workers_that_resume_equal_two_that_never_stopped(train_two, tmp_path):
    """The first worker reads the checkpoint and sends it to the second."""
    options = ["--nar-ratio", "0.5", "--dropout", "0.1", "--max-tokens", "200"]
    whole = train_two(tmp_path / "whole", *options, "--max-update", "9")
    first = train_two(tmp_path / "parts", *options, "--max-update", "4")
    second = train_two(tmp_path / "parts", *options, "--max-update", "9")
    assert losses(first) + losses(second) == losses(whole) and len(losses(whole)) == 9
    a, b = (torch.load(tmp_path / name / "checkpoint_last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    moments = [state["last_optimizer_state"]["state"] for state in (a, b)]
    assert all(torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in ("exp_avg", "exp_avg_sq"))


@pytest.mark.slow
def test_two_workers_equal_one_with_update_freq_2(train, train_two, tmp_path):
    options = ["--nar-ratio", "0.5", "--dropout", "0", "--attention-dropout", "0", "--max-tokens", "300", "--max-epoch", "2"]
    one = train(tmp_path / "one", *options, "--update-freq", "2")
    two = train_log(train_two(tmp_path / "two", *options))
    assert len(two) == len(train_log(one)) > 4
    for a, b in zip(train_log(one), two):  # None where an update is of the other mode
        for name in ("loss", "ar_loss", "nar_loss", "bsz"):
            assert a.get(name) == b.get(name) or float(a[name]) == pytest.approx(float(b[name]), abs=2e-3), name
    assert {"ar_loss", "nar_loss"} <= {name for record in two for name, value in record.items() if value is not None}
    a, b = (torch.load(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    for name, value in a["model"].items():
        torch.testing.assert_close(b["model"][name], value, atol=1e-5, rtol=1e-4)
    exact = [m["extra_state"]["metrics"]["train"] for m in (a, b)]
    for x, y in zip(*exact):
        if x[1] in ("loss", "ar_loss", "nar_loss"):
            assert y[1] == x[1] and float(y[3]["sum"]) == pytest.approx(float(x[3]["sum"]), rel=1e-5)


def test_bf16_on_the_cpu(train, tmp_path):
    log = train(tmp_path, "--nar-ratio", "0.5", "--dropout", "0.1", "--max-tokens", "600", "--max-epoch", "4", "--bf16")
    records = [float(loss) for _, loss in losses(log)]
    assert records[-1] < records[0] - 0.3
    assert torch.load(tmp_path / "checkpoint_last.pt")["cfg"]["common"]["tpu"] is False


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
def test_half_precision_on_a_gpu(precision, train, run, data_bin, tmp_path):
    log = train(tmp_path, "--nar-ratio", "0.5", "--dropout", "0.1", "--max-tokens", "600", "--max-epoch", "12", precision)
    records = [float(loss) for _, loss in losses(log)]
    assert records[-1] < records[0] - 0.3
    for task in ("translation_bang", "translation_bang_nar"):
        log = run(
            "fairseq-generate", data_bin, "--path", tmp_path / "checkpoint_last.pt", *USER_DIR, "--task", task,
            "--batch-size", "7", precision,
        )  # fmt: skip
        assert sorted(hypotheses(log)) == list(range(24))


def test_models_with_one_mode(train, run, data_bin, tmp_path):
    """bang_nar with fairseq's own criterion, bang_ar with the AR loss over several streams, with BLEU while training."""
    nar = ["--arch", "bang_nar", "--criterion", "label_smoothed_cross_entropy", "--task", "translation_bang_nar"]
    command = ["fairseq-train", data_bin, *USER_DIR, *OPTIMIZER, *TINY, *JSON_LOG, "--label-smoothing", "0.1"]
    command += ["--max-tokens", "600", "--max-epoch", "3", "--max-source-positions", "512", "--max-target-positions", "512"]
    log = run(*command, *nar, "--save-dir", tmp_path / "nar")
    assert float(losses(log)[-1][1]) < float(losses(log)[0][1])
    ar = ["--arch", "bang_ar", "--criterion", "ngram_language_loss", "--task", "translation_bang", "--ngram", "3"]
    ar += [
        "--eval-bleu",
        "--eval-bleu-args",
        '{"beam": 2}',
        "--best-checkpoint-metric",
        "bleu",
        "--maximize-best-checkpoint-metric",
    ]
    log = run(*command, *ar, "--save-dir", tmp_path / "ar")
    assert all("valid_bleu" in record for record in train_log(log, "valid"))
    for name, task in (("nar", "translation_bang_nar"), ("ar", "translation_bang")):
        log = run(
            "fairseq-generate", data_bin, "--path", tmp_path / name / "checkpoint_last.pt", *USER_DIR, "--task", task,
            "--batch-size", "36",
        )  # fmt: skip
        assert sorted(hypotheses(log)) == list(range(24))
    message = run(
        "fairseq-generate", data_bin, "--path", tmp_path / "nar" / "checkpoint_last.pt", *USER_DIR, "--task",
        "translation_bang", "--batch-size", "36", fails=True,
    )  # fmt: skip
    assert "--decoding ar: this checkpoint's model decodes nar alone" in message


def test_hydra(run, data_bin, tmp_path):
    run(
        "fairseq-hydra-train", "--config-dir", ROOT / "examples" / "hydra", "--config-name", "finetune",
        f"common.user_dir={ROOT / 'bang'}", f"task.data={data_bin}", f"checkpoint.save_dir={tmp_path}/checkpoints",
        "+model.encoder_embed_dim=48", "+model.decoder_embed_dim=48", "+model.encoder_layers=1", "+model.decoder_layers=1",
        "+model.encoder_ffn_embed_dim=96", "+model.decoder_ffn_embed_dim=96", "+model.encoder_attention_heads=4",
        "+model.decoder_attention_heads=4", "optimization.max_epoch=1", f"hydra.run.dir={tmp_path}/hydra", cwd=tmp_path,
    )  # fmt: skip
    cfg = torch.load(tmp_path / "checkpoints" / "checkpoint_last.pt")["cfg"]
    assert cfg["model"]["_name"] == "bang_ar_nar_mixed_base" and cfg["model"]["activation_fn"] == "gelu"
    assert cfg["criterion"]["nar_ratio"] == 0.5 and cfg["model"]["encoder_embed_dim"] == 48


def test_hydra_tells_a_mistake_in_one_line(run, data_bin, tmp_path):
    output = run(
        "fairseq-hydra-train", "--config-dir", ROOT / "examples" / "hydra", "--config-name", "finetune",
        f"common.user_dir={ROOT / 'bang'}", f"task.data={data_bin}", "+model.load_from_pretrained_model=gone.pt", cwd=tmp_path,
        fails=True,
    )  # fmt: skip
    line = last_line(output)
    assert line.startswith("fairseq-hydra_train: error: ") and "gone.pt: no such file" in line


def test_the_recipe_runs_from_the_parent_folder_of_a_clone(run, data_bin, tmp_path):
    """`--user-dir ./bang/bang` and `./bang/vocab.txt`, as published."""
    clone = tmp_path / "bang"
    clone.mkdir()
    for name in ("bang", "vocab.txt"):
        (clone / name).symlink_to(ROOT / name)
    run(
        "fairseq-preprocess", "--user-dir", "./bang/bang", "--task", "translation_bang", "--source-lang", "src",
        "--target-lang", "tgt", "--testpref", GOLDEN / "data" / "tokenized_test", "--destdir", "processed",
        "--srcdict", "./bang/vocab.txt", "--tgtdict", "./bang/vocab.txt", "--workers", "20", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "processed" / "test.src-tgt.src.bin").exists()


@pytest.mark.slow
def test_importing_beside_the_same_user_dir(data_bin):
    code = (
        "import bang.plugin, sys; from fairseq_cli.generate import cli_main; "
        f"sys.argv = ['generate', {str(data_bin)!r}, '--user-dir', {str(ROOT / 'bang')!r}, '--task', 'translation_bang_nar', "
        f"'--path', {str(GOLDEN / 'nar' / 'checkpoint.pt')!r}, '--batch-size', '36']; cli_main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert len(hypotheses(done.stdout)) == 24, done.stderr[-2000:]


def generate(run, data, path, *options):
    return last_line(run("fairseq-generate", data, "--path", path, *USER_DIR, "--task", "translation_bang", *options, fails=True))


def test_bad_checkpoints_get_one_line(run, data_bin, tmp_path):
    assert "none.pt: no such file" in generate(run, data_bin, tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes((GOLDEN / "mixed" / "checkpoint.pt").read_bytes()[:300000])
    assert "cut.pt: cannot be read; truncated" in generate(run, data_bin, tmp_path / "cut.pt")


def test_data_of_another_dictionary_gets_one_line(finetuned, run, data_bin, tmp_path):
    """Fewer entries than the checkpoint, other entries, and no BERT dictionary at all."""
    checkpoint = finetuned[0] / "checkpoints" / "checkpoint_last.pt"
    lines = VOCAB_SMALL.read_text(encoding="utf-8").splitlines(keepends=True)
    variants = {
        "short": (lines[:1200], "binarized with another"),
        "shuffled": (lines[:104] + lines[104:][::-1], "binarized with another dictionary"),
        "foreign": (["the 5\n", "of 3\n"], "no [PAD] among its 2 pieces"),
    }
    for name, (vocabulary, message) in variants.items():
        folder = tmp_path / name
        shutil.copytree(data_bin, folder)
        for side in ("src", "tgt"):
            (folder / f"dict.{side}.txt").write_text("".join(vocabulary), encoding="utf-8")
        assert message in generate(run, folder, checkpoint)


def test_source_and_target_of_different_length_get_one_line(run, data_bin, tmp_path):
    shutil.copytree(data_bin, tmp_path / "bin")
    for kind in ("bin", "idx"):
        shutil.copy(data_bin / f"train.src-tgt.src.{kind}", tmp_path / "bin" / f"test.src-tgt.src.{kind}")
    message = generate(run, tmp_path / "bin", GOLDEN / "mixed" / "checkpoint.pt")
    assert "split test: 48 source and 24 target lines" in message


def test_sizes_that_do_not_match_a_checkpoint_get_one_line(finetuned, train, tmp_path):
    shutil.copytree(finetuned[0] / "checkpoints", tmp_path / "ck")
    output = train(tmp_path / "ck", "--max-epoch", "9", "--max-tokens", "600", "--encoder-ffn-embed-dim", "100", fails=True)
    assert "--encoder-ffn-embed-dim" in last_line(output) and "checkpoint_last.pt" in last_line(output)


def test_long_sources_get_one_line_and_can_be_truncated(run, data_bin):
    checkpoint = GOLDEN / "mixed" / "checkpoint.pt"
    line = generate(run, data_bin, checkpoint, "--max-source-positions", "40")
    assert "over the limit" in line and "--truncate-source" in line
    log = run(
        "fairseq-generate", data_bin, "--path", checkpoint, *USER_DIR, "--task", "translation_bang", "--max-source-positions",
        "40", "--truncate-source",
    )  # fmt: skip
    assert sorted(hypotheses(log)) == list(range(24))


def test_a_dictionary_is_not_built_from_text(run, tmp_path):
    line = last_line(
        run(
            "fairseq-preprocess", *USER_DIR, "--task", "translation_bang", "--source-lang", "src", "--target-lang", "tgt",
            "--trainpref", GOLDEN / "data" / "tokenized_train", "--destdir", tmp_path / "bin", fails=True,
        )
    )  # fmt: skip
    assert "--srcdict vocab.txt" in line and not list((tmp_path / "bin").glob("*.bin"))
