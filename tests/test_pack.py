"""Model folders: they generate as the checkpoint does, go back to fairseq, and are whole or absent."""

import dataclasses
import gzip
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import CHECKPOINT, GOLDEN, ROOT, VOCAB_SMALL, debian, hypotheses, without_sums
from fairseq import checkpoint_utils

from bang import Bang
from bang.__main__ import main
from bang.deploy import pack
from bang.inference import trained_model
from bang.safety import checkpoints

NAR_CHECKPOINT = GOLDEN / "nar" / "checkpoint.pt"


@pytest.fixture(scope="module")
def texts():
    return debian("test.src")[:12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "model"
    main(["pack", str(CHECKPOINT), str(path), "--vocab", str(VOCAB_SMALL), "--mode", "nar", "--beam", "3", "--max-len", "30"])
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A folder to damage, as of older versions, without checksums."""
    return without_sums(shutil.copytree(folder, tmp_path / "copy"))


def test_half_precision_halves_the_checkpoint_too(tmp_path):
    """Weights keep their precision on the way back, and shared embeddings are stored once."""
    sizes = {}
    for dtype in ("float32", "float16"):
        main(["pack", str(CHECKPOINT), str(tmp_path / dtype), "--vocab", str(VOCAB_SMALL), "--dtype", dtype])
        main(["unpack", str(tmp_path / dtype), str(tmp_path / f"{dtype}.pt")])
        weights = torch.load(tmp_path / f"{dtype}.pt")["model"]
        assert {w.dtype for name, w in weights.items() if "version" not in name} == {getattr(torch, dtype)}
        assert weights["encoder.embed_tokens.weight"].data_ptr() == weights["decoder.embed_tokens.weight"].data_ptr()
        unique = {w.data_ptr(): w.numel() * w.element_size() for w in weights.values()}
        sizes[dtype] = os.path.getsize(tmp_path / f"{dtype}.pt")
        assert sizes[dtype] < sum(unique.values()) + 60_000
    assert sizes["float16"] < 0.6 * sizes["float32"]


def test_a_folder_generates_as_its_checkpoint(folder, texts):
    checkpoint, model = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL), Bang.load(folder)
    assert model.pieces == checkpoint.pieces and model.engine.shares == checkpoint.engine.shares == {"ar": 0.5, "nar": 0.5}
    assert (model.defaults.mode, model.defaults.beam, model.defaults.max_len) == ("nar", 3, 30)
    for mode in model.modes:
        expected = checkpoint.generate(texts, mode, beam=3 if mode == "ar" else 1, max_len=30, details=True)
        assert model.generate(texts, mode, details=True) == expected


def test_what_a_folder_holds(folder, data_bin):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "vocab.txt", "README.md"}
    assert (folder / "vocab.txt").read_bytes() == (data_bin / "dict.src.txt").read_bytes()
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    # weights alone, and the shared embedding once: no optimizer, which is two thirds of the checkpoint
    state = checkpoints.check(str(CHECKPOINT))["model"]
    numbers = sum(value.numel() for name, value in state.items() if name != "encoder.embed_tokens.weight")
    assert 4 * numbers < (folder / "model.safetensors").stat().st_size < 4 * numbers + 20_000
    card = (folder / "README.md").read_text()
    for fact in (
        "`bang_ar_nar_mixed`: 2 + 2 layers, width 48",
        "ar (50% of the updates), nar (50%",
        "| 600 |",
        'mode="nar"',
        "checkpoint.pt",
    ):
        assert fact in card


@pytest.fixture
def generate(folder, monkeypatch, capfdbinary):
    """`bang generate FOLDER ...` on the bytes of stdin; what it prints to stdout."""

    def call(stdin, *options):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        main(["generate", str(folder), *options])
        return capfdbinary.readouterr().out.decode()

    return call


def test_generate_command(folder, texts, generate):
    found = generate("\n".join([*texts[:3], "", *texts[3:]]).encode() + b"\n", "--mode", "nar")
    expected = Bang.load(folder).generate(texts)
    assert found == "\n".join([*expected[:3], "", *expected[3:]]) + "\n"
    lines = generate("\n".join(texts[:2]).encode(), "--mode", "ar", "--beam", "1", "--json")
    details = [json.loads(line) for line in lines.splitlines()]
    assert [line["text"] for line in details] == Bang.load(folder).generate(texts[:2], "ar", beam=1)
    assert [len(line["pieces"]) + 1 for line in details] == [len(line["passes"]) for line in details]
    assert [line["line"] for line in details] == [1, 2] and all(line["passes"][:2] == [1, 2] for line in details)
    assert generate(b"") == ""
    with pytest.raises(SystemExit, match="^bang generate: error: stdin, line 2: not UTF-8"):
        generate(b"fine\n\xff\n")


def test_several_texts_and_given_beginnings(folder, texts, generate, tmp_path):
    lines, model = "\n".join(texts[:2]).encode(), Bang.load(folder)
    rows = [json.loads(line) for line in generate(lines, "--mode", "ar", "--nbest", "2", "--json").splitlines()]
    assert [[row["text"], row["others"][0]["text"]] for row in rows] == [
        [found.text, found.others[0].text] for found in model.generate(texts[:2], "ar", nbest=2, details=True)
    ]
    (tmp_path / "beginnings").write_text("\na library\n")
    found = generate(lines, "--mode", "ar", "--sampling", "--seed", "7", "--prefix-file", str(tmp_path / "beginnings"))
    assert found.splitlines() == model.generate(texts[:2], "ar", sampling=True, seed=7, prefix=["", "a library"])
    found = generate(lines, "--mode", "ar", "--prefix", "a library").splitlines()
    assert all(line.startswith("a library") for line in found)
    for options, message in (
        (["--nbest", "2"], "--nbest 2: give --json too, whose rows have room for several texts"),
        (["--prefix", "a", "--prefix-file", "b"], "--prefix and --prefix-file: give one of them"),
        (["--mode", "ar", "--prefix-file", "no-such-file"], "no-such-file: no such file or directory"),
    ):
        with pytest.raises(SystemExit) as stop:
            generate(lines, *options)
        assert stop.value.code == f"bang generate: error: {message}"


def test_a_line_that_is_too_long(folder, generate, capfdbinary):
    long = b"tool " * 600
    with pytest.raises(SystemExit) as stop:
        generate(b"a text\n" + long + b"\n")
    assert stop.value.code == (
        "bang generate: error: text 2 has over 511 word pieces, the model's limit: shorten it, or have it cut "
        "(truncate=True, --truncate-source) or left blank (on_error='blank', --on-error blank)"
    )
    capfdbinary.readouterr()
    found = generate(b"a text\n" + long + b"\n", "--truncate-source").splitlines()
    assert found == Bang.load(folder).generate(["a text", "tool " * 511]) and all(found)


def test_repeats_are_kept_when_asked(folder, texts, generate):
    lines = "\n".join(texts).encode()
    kept, dropped = generate(lines, "--keep-repeats").splitlines(), generate(lines).splitlines()
    assert kept == Bang.load(folder).generate(texts, drop_repeats=False) != dropped
    assert all(len(text) >= len(other) for text, other in zip(kept, dropped, strict=True))


def test_progress_is_told_on_a_terminal(folder, generate, monkeypatch, capfdbinary):
    """On stderr alone; where that is no terminal nothing is."""
    expected = generate(b"a text\nanother\n")
    assert b"texts" not in capfdbinary.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a text\nanother\n")))
    main(["generate", str(folder)])
    written = capfdbinary.readouterr()
    assert written.out.decode() == expected and b"2 texts [" in written.err


def test_a_late_line_that_fails(folder, generate, capfdbinary):
    """The texts of all lines before it are out, whole and in order."""
    lines = [b"a text", b"another one"] * 520
    lines[1030] = b"\xff"
    with pytest.raises(SystemExit, match="^bang generate: error: stdin, line 1031: not UTF-8"):
        generate(b"\n".join(lines) + b"\n", "--max-len", "2")
    written = capfdbinary.readouterr().out.decode().splitlines()
    assert written == Bang.load(folder).generate(["a text", "another one"], max_len=2) * 515


def test_lines_that_cannot_be_served_may_be_left_blank(folder, generate, capfdbinary):
    """Each has its line, all are listed at the end, and the status is no other's."""
    lines, options = b"a text\n" + b"tool " * 600 + b"\n\xff\n\nanother\n", ("--mode", "nar", "--on-error", "blank")
    found = []
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            generate(lines, *options, *more)
        written = capfdbinary.readouterr()
        assert stop.value.code == 3
        assert [line.split(",")[0].split(":")[0] for line in written.err.decode().splitlines()[-3:]] == [
            "line 2 left blank", "line 3 left blank", "bang generate"
        ]  # fmt: skip
        assert b": 2 of 5 lines are blank" in written.err and b"line 3 left blank: stdin, line 3: not UTF-8" in written.err
        found.append(written.out.decode().splitlines())
    first, last = Bang.load(folder).generate(["a text", "another"], "nar")
    assert found[0] == [first, "", "", "", last]
    details = [json.loads(line) for line in found[1]]
    assert [line["text"] for line in details] == found[0]
    assert [(line["error"] or "")[:12] for line in details] == ["", "text 2 has o", "stdin, line ", "", ""]
    assert generate(b"a text\n", *options).splitlines() == [first]  # and status 0


def test_compressed_input_is_refused_whole(generate):
    """Whatever is to be done with single lines."""
    for more in ([], ["--on-error", "blank"]):
        with pytest.raises(SystemExit) as stop:
            generate(gzip.compress(b"a text\n"), *more)
        assert stop.value.code == (
            "bang generate: error: stdin: compressed (gzip), not text: decompress it first: gzip -dc FILE | bang ..."
        )


def test_a_beam_where_there_is_none(folder, forked_commands):
    """One line: nothing is decoded, and nothing else is said."""
    for options in (["--mode", "speculative", "--beam", "4"], ["--beam", "4"]):
        command = [sys.executable, "-W", "ignore", "-m", "bang", "generate", str(folder), *options]
        environment = {**os.environ, **forked_commands().environment()}
        done = subprocess.run(command, input="a text\n", capture_output=True, text=True, cwd=ROOT, env=environment)
        mode = "speculative" if "--mode" in options else "nar"  # the folder's own
        told = f"bang generate: error: beam=4: mode {mode} has no beam search, which is AR's; leave it out, or give 1\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_blocks_that_were_not_trained(folder, run):
    """Said in one line on stderr, beside the text."""
    command = f"echo a text | {sys.executable} -m bang generate {folder} --mode speculative --max-len 3"
    found = run("bash", "-c", f"{{ {command}; }} 2>&1", cwd=ROOT).splitlines()
    assert (
        len(found) == 2
        and "mode speculative drafts from any token, and this checkpoint's blocks were not trained to hang on any token"
        in found[0]
    )


@pytest.mark.parametrize("options, message", [
    (["--max-len-a", "nan"], "max_len_a=nan: give a number, 0 or more"),
    (["--len-penalty", "inf"], "len_penalty=inf: give a number, from -100 to 100"),
    (["--mode", "ar", "--beam", "5000"], "beam=5000: the vocabulary of 1389 pieces holds one of 694 at most"),
    (["--batch-tokens", "0"], "batch_tokens=0: give a whole number, 1 or more"),
    (["--commit-threshold", "2"], "commit_threshold=2.0: give a number, from 0 to 1"),
])  # fmt: skip
def test_options_that_do_not_serve(options, message, generate):
    with pytest.raises(SystemExit) as stop:
        generate(b"a text\n", *options)
    assert stop.value.code == f"bang generate: error: {message}"


def test_there_and_back(folder, run, data_bin, tmp_path):
    """Through fairseq-generate, which gives what it gives for the checkpoint that was packed."""
    back = tmp_path / "back.pt"
    main(["unpack", str(folder), str(back)])
    expected = checkpoint_utils.load_checkpoint_to_cpu(str(CHECKPOINT))
    found = checkpoint_utils.load_checkpoint_to_cpu(str(back))
    assert found["model"].keys() == expected["model"].keys()
    assert all(torch.equal(found["model"][name], value) for name, value in expected["model"].items())
    command = ["fairseq-generate", data_bin, "--user-dir", ROOT / "bang", "--task", "translation_bang", "--beam", "4",
               "--lenpen", "1.2", "--batch-size", "36", "--path"]  # fmt: skip
    log = run(*command, back)
    golden = (GOLDEN / "mixed" / "generate_test_ar_beam4_lenpen1.2.txt").read_text()
    assert {k: text for k, (_, text) in hypotheses(log).items()} == {k: text for k, (_, text) in hypotheses(golden).items()}
    with pytest.raises(ValueError, match="is a folder; of one of bang pack, make a checkpoint with bang unpack"):
        checkpoints.check(str(folder))


def test_half_precision(tmp_path, texts):
    pack.write_folder(trained_model.read_checkpoint(CHECKPOINT, VOCAB_SMALL), tmp_path / "half", dtype="float16")
    model = Bang.load(tmp_path / "half")
    assert trained_model.read_folder(tmp_path / "half").weights["decoder.embed_tokens.weight"].dtype == torch.float16
    assert next(model.engine._network.parameters()).dtype == torch.float32
    assert all(model.generate(texts, "nar"))


def test_the_card_says_when_every_update_trains_all_modes(tmp_path):
    shares = {"_name": "ngram_language_loss_NAR_mixed", "nar_ratio": 0.27, "semi_nar_ratio": 0.33}
    model = trained_model.read_checkpoint(CHECKPOINT, VOCAB_SMALL)
    said = {}
    joint = {**shares, "joint_modes": True}
    criterions = {"joint": joint, "drawn": shares, "one": {**joint, "nar_ratio": 0.0, "semi_nar_ratio": 1.0}, "nobody knows": {}}
    for name, criterion in criterions.items():
        pack.write_folder(dataclasses.replace(model, criterion=criterion), tmp_path / name)
        lines = (tmp_path / name / "README.md").read_text().splitlines()
        (said[name],) = [line for line in lines if line.startswith("| trained modes")]
    assert said == {
        "joint": "| trained modes | ar, semi-nar, nar: all in every update, the losses weighed ar 40%, semi-nar 33%, nar 27% |",
        "drawn": "| trained modes | ar (40% of the updates), semi-nar (33% of the updates), nar (27% of the updates) |",
        "one": "| trained modes | semi-nar (100% of the updates) |",
        "nobody knows": "| trained modes | not recorded |",
    }


@pytest.mark.parametrize("arguments, message", [
    (["no-such.pt", "{new}"], "no-such.pt: no such file"),
    ([str(CHECKPOINT), "{new}"], "give the vocabulary that its data was binarized with"),
    ([str(CHECKPOINT), "{tmp}", *(vocab := ["--vocab", str(VOCAB_SMALL)])], "is there already; choose another name"),
    ([str(CHECKPOINT), "{tmp}/no/such", *vocab], "the folder that it goes into does not exist"),
    ([str(CHECKPOINT), "{new}", *vocab, "--mode", "rna"], "mode 'rna': this model has ar, semi-nar, nar, speculative"),
    ([str(CHECKPOINT), "{new}", *vocab, "--min-len", "9", "--max-len", "5"], "min_len=9, max_len=5: no text is long enough"),
    ([str(CHECKPOINT), "{new}", *vocab, "--beam", "0"], "beam=0: give a whole number, 1 or more"),
    (["{tmp}", "{new}", "--last", "0"], "--last 0: give 1 or more"),
    ([str(CHECKPOINT), "{new}", "--last", "3"],
     "checkpoint.pt: is a file; --last 3 averages checkpoints of a run, give the folder that holds them"),
    (["no-run", "{new}", "--last", "3"], "no-run: no such folder; --last 3 averages"),
    (["{tmp}", "{new}", "--last", "1"], "checkpoints of 0 different updates, 1 are"),
])  # fmt: skip
def test_refusals(arguments, message, tmp_path):
    (tmp_path / "full").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["pack", *(argument.format(tmp=tmp_path, new=tmp_path / "new") for argument in arguments)])
    assert message in stop.value.code and stop.value.code.startswith("bang pack: error: ") and "\n" not in stop.value.code
    assert os.listdir(tmp_path) == ["full"]


def test_nothing_half_written(tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    model = trained_model.read_checkpoint(CHECKPOINT, VOCAB_SMALL)
    monkeypatch.setattr(type(model.dictionary), "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pack.write_folder(model, tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_no_half_checkpoint(folder, tmp_path, monkeypatch):
    """Of `bang unpack`; one that was there stays."""

    def full_disk(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "old.pt").write_bytes(b"old")
    monkeypatch.setattr(torch, "save", full_disk)
    for name in ("new.pt", "old.pt"):
        with pytest.raises(SystemExit, match="^bang unpack: error: no space left on device$"):
            main(["unpack", str(folder), str(tmp_path / name)])
    assert os.listdir(tmp_path) == ["old.pt"] and (tmp_path / "old.pt").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_folder_without_a_file(name, copy):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Bang.load(copy)


@pytest.mark.parametrize("change, message", [
    (dict(version=2), "bang model of version 2, and version 1 is wanted"),
    (dict(version=True), "bang model of version True, and version 1 is wanted"),
    (dict(files=3), "config.json: lacks files, or has something else there; make it again"),
    (dict(files=["vocab.txt", 3], updates=True), "config.json: lacks updates, files, or has"),
    (dict(generation=dict(mode="rna")),
     "copy: generates in mode 'rna' by default, and has ar, semi-nar, nar, speculative; make it again"),
    (dict(format="t5"), "format 't5' is not 'bang model' or 'bang export'"),
    (dict(architecture="fconv"), "its architecture is 'fconv', not one of BANG's"),
    (dict(sizes=dict(encoder_layers=2)), "its sizes differ from this version's in activation_dropout, "),
    (dict(languages=None), "config.json: lacks languages, or has something else there; make it again"),
    (dict(generation=dict(beam="many")), "beam='many': give a whole number"),
])  # fmt: skip
def test_a_folder_that_does_not_serve(change, message, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message) as refusal:
        Bang.load(copy)
    assert "\n" not in str(refusal.value)


def test_a_cut_vocabulary(copy):
    lines = (copy / "vocab.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (copy / "vocab.txt").write_text("".join(lines[:1200]), encoding="utf-8")
    with pytest.raises(ValueError, match="vocab.txt: 1200 word pieces, and the weights are of 1389; copy the folder whole$"):
        Bang.load(copy)


def test_damaged_files(copy):
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="model.safetensors: cannot be read; truncated"):
        Bang.load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not JSON"):
        Bang.load(copy)


def test_the_card_shows_the_default_mode(tmp_path):
    """Of a tie, by the same rule as the API's."""
    model = trained_model.read_checkpoint(CHECKPOINT, VOCAB_SMALL)
    shared = {"_name": "ngram_language_loss_NAR_mixed", "nar_ratio": 0.4, "semi_nar_ratio": 0.2}
    pack.write_folder(dataclasses.replace(model, criterion=shared), tmp_path / "tie")
    assert Bang.load(tmp_path / "tie").defaults.mode == "ar"
    assert 'mode="ar"' in (tmp_path / "tie" / "README.md").read_text()


def test_models_with_one_mode(tmp_path):
    pack.write_folder(trained_model.read_checkpoint(NAR_CHECKPOINT, VOCAB_SMALL), tmp_path / "nar")
    assert Bang.load(tmp_path / "nar").defaults.mode == "nar"


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json"])
def test_a_bit_that_changed_is_noticed(name, folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    data = bytearray((copied / name).read_bytes())
    place = data.index(b'"relative_max_distance": 128') + 26 if name == "config.json" else len(data) // 2
    data[place] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: damaged or changed since the folder was made") as error:
        Bang.load(copied)
    assert "\n" not in str(error.value)


def test_folders_of_older_versions_have_no_checksums(copy, folder, texts):
    assert Bang.load(copy).generate(texts[:3]) == Bang.load(folder).generate(texts[:3])


def test_generation_defaults_may_be_edited(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "generation": {"mode": "ar"}}))
    assert Bang.load(copied).defaults.mode == "ar"
