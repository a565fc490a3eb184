"""Raw text in fairseq's own commands, and warnings where it is taken for word pieces."""

import argparse
import io
import re

import pytest
from conftest import GOLDEN, ROOT, VOCAB_SMALL, debian, hypotheses
from fairseq import checkpoint_utils
from fairseq.data import encoders
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf

from bang.errors import user_error_message
from bang.plugin import raw_text
from bang.text.cleanup import to_text
from bang.text.evaluate import evaluate

RAW = "Extra PEP monitor [X_SEP] for node.js zebras"


@pytest.fixture
def bpe(make_task):
    return make_task().build_bpe(OmegaConf.create({"_name": "bang", "bpe_vocab_file": None}))


def test_bpe_has_the_pieces_of_the_data(bpe, dictionary):
    assert set(bpe.encode(RAW).split()) <= set(dictionary.symbols) and "[X_SEP]" in bpe.encode(RAW).split()
    published = encoders.build_bpe(argparse.Namespace(bpe="bang"))
    assert published.encode(RAW) == "extra pep monitor [X_SEP] for node . j ##s zebra ##s"
    given = encoders.build_bpe(argparse.Namespace(bpe="bang", bpe_vocab_file=str(VOCAB_SMALL)))
    assert given.encode(RAW) == bpe.encode(RAW) != published.encode(RAW)
    with pytest.raises(FileNotFoundError, match="no such dictionary"):
        encoders.build_bpe(argparse.Namespace(bpe="bang", bpe_vocab_file="no-such-file"))


@pytest.mark.parametrize("text, pieces", [
    ("", ""), ("[PAD]", ""), ("extra [PAD][PAD] pep", "extra pep"), ("[SEP] [MASK] [CLS]", "[SEP] [MASK] [CLS]"),
])  # fmt: skip
def test_bpe_passes_over_pads(text, pieces, bpe):
    assert bpe.encode(text) == pieces


def test_bpe_decodes_to_text_for_people_repeats_and_all(bpe):
    assert bpe.decode("go go bin ##ding ( http ) for c + +") == "go go binding (http) for c++"
    assert encoders.build_tokenizer("bang").decode("bin ##ding ( http )") == "binding (http)"
    assert encoders.build_tokenizer("bang").encode("bin ##ding") == "bin ##ding"


def test_interactive_with_raw_and_blank_lines(run, data_bin, tmp_path, bpe, golden_model, make_task, dictionary):
    """One command: raw lines give the texts of their word pieces, blank ones blank texts, D lines are text for people.

    A carriage return ends no line.
    """
    raw = debian("test.src")[:4]
    written = [raw[0] + "\r", "", raw[1].replace(" ", " \r", 1), *raw[2:], "   "]
    (tmp_path / "in").write_bytes("\n".join(written).encode() + b"\n")
    log = run(
        "fairseq-interactive", data_bin, "--path", GOLDEN / "mixed" / "checkpoint.pt", "--user-dir", ROOT / "bang", "--task",
        "translation_bang_nar", "--source-lang", "src", "--target-lang", "tgt", "--buffer-size", "6", "--batch-size", "6",
        "--input", tmp_path / "in", "--bpe", "bang",
    )  # fmt: skip
    found = hypotheses(log)
    assert sorted(found) == list(range(6)) and found[1] == found[5] == (0.0, "")
    task, network = make_task(decoding="nar"), golden_model("mixed")
    generator = task.build_generator([network], GenerationConfig(beam=1))
    for sentence, line in zip((0, 2, 3, 4), raw):
        tokens = dictionary.encode_line(bpe.encode(line), add_if_not_exist=False).long()
        dataset = task.build_dataset_for_inference([tokens], [len(tokens)])
        (((best,)),) = task.inference_step(generator, [network], dataset.collater([dataset[0]]))
        assert found[sentence][1] == dictionary.string(best["tokens"])
        detokenized = re.search(rf"^D-{sentence}\t\S+\t(.*)$", log, flags=re.M)[1]
        assert detokenized == bpe.decode(found[sentence][1])


def test_lines_of_interactive_end_at_line_feeds_alone(tmp_path, monkeypatch):
    data = "a\rb\r\n\n c \u2028d\x0ce\nf".encode()
    (tmp_path / "in").write_bytes(data)
    expected = [["a\rb", ""], ["c \u2028d\x0ce", "f"]]
    assert list(raw_text.read_in_buffers(str(tmp_path / "in"), 2)) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert list(raw_text.read_in_buffers("-", 2)) == expected


@pytest.mark.parametrize("name", ["{}/in", "-"])
def test_interactive_input_that_is_no_utf8_is_told_in_one_line(name, tmp_path, monkeypatch):
    (tmp_path / "in").write_bytes(b"fine\n\xff\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xff\n")))
    with pytest.raises(ValueError, match=r"in, line 2: not UTF-8 \(byte 0xff") as refusal:
        list(raw_text.read_in_buffers(name.format(tmp_path), 1))
    assert user_error_message(refusal.value) == str(refusal.value)


@pytest.mark.parametrize("decoding", ["ar", "semi-nar", "nar", "speculative"])
def test_blank_source_among_others(decoding, golden_model, make_task, dictionary):
    task, network = make_task(decoding=decoding), golden_model("mixed")
    generator = task.build_generator([network], GenerationConfig(beam=2 if decoding == "ar" else 1))

    def decode(*lines):
        tokens = [dictionary.encode_line(line, add_if_not_exist=False).long() for line in lines]
        dataset = task.build_dataset_for_inference(tokens, [len(ids) for ids in tokens])
        batch = dataset.collater([dataset[index] for index in range(len(tokens))])
        found = dict(zip(batch["id"].tolist(), task.inference_step(generator, [network], batch)))
        return [dictionary.string(found[index][0]["tokens"]) for index in range(len(lines))]

    line = (GOLDEN / "data" / "tokenized_test.src").read_text().splitlines()[0]
    assert decode(line)[0] and decode("", line, " ") == ["", *decode(line), ""]


@pytest.mark.parametrize(
    "text, share", [("Raw Text, as it IS", "60 % of 5"), ("extra Pep monitor Is", "50 % of 4"), ("extra pep Is", None)]
)
def test_raw_text_typed_is_told(text, share, make_task, dictionary, caplog):
    task = make_task()
    task.build_dataset_for_inference(*task.get_interactive_tokens_and_lengths([text], lambda line: line))
    told = [record.getMessage() for record in caplog.records if "[UNK]" in record.getMessage()]
    assert len(told) == (share is not None)
    if share:
        assert told[0].startswith(f"the input: {share} word pieces are [UNK]; raw text has to be tokenized first: bang tokenize")
    assert (dictionary.encoded.total, dictionary.encoded.unknown) == (0, 0)


def test_raw_text_binarized_is_told(run, tmp_path):
    """By fairseq-preprocess, once for each side that is raw, whatever the workers."""
    (tmp_path / "test.src").write_text("Some Raw TEXT, not tokenized\n" * 50)
    (tmp_path / "test.tgt").write_text("extra pep monitor\n" * 50)
    log = run(
        "bash", "-c", f"python -m fairseq_cli.preprocess --user-dir {ROOT / 'bang'} --task translation_bang --source-lang src "
        f"--target-lang tgt --testpref {tmp_path / 'test'} --destdir {tmp_path / 'bin'} --srcdict {VOCAB_SMALL} "
        f"--tgtdict {VOCAB_SMALL} --workers 3 2>&1", cwd=ROOT,
    )  # fmt: skip
    told = [line for line in log.splitlines() if "[UNK]; raw text has to be tokenized first" in line]
    assert len(told) == 1 and "the text that was read: 80 % of" in told[0]


def test_binarized_raw_text_is_told_when_loaded(make_task, data_bin, caplog, monkeypatch):
    options = dict(data=str(data_bin), source_lang="src", target_lang="tgt")

    def load():
        task = make_task(**options)
        task.cfg.dataset_impl, task.cfg.train_subset, task.cfg.required_seq_len_multiple = None, "train", 1
        task.load_dataset("test")
        return [record.getMessage() for record in caplog.records if "[UNK]" in record.getMessage()]

    assert load() == []
    monkeypatch.setattr("bang.plugin.task._unknown", lambda texts, dictionary: (len(texts), len(texts)))
    assert [line.split(":")[0] for line in load()] == [f"{data_bin}, split test.{side}" for side in ("src", "tgt")]


def test_another_decoding_for_one_generator(make_task, golden_model, pairs):
    """As translate(..., decoding=) of fairseq's hub interface and --eval-bleu-args ask for."""
    network, (batch,) = golden_model("mixed"), pairs("test", 36)

    def tokens(task, **options):
        args = OmegaConf.merge(OmegaConf.structured(GenerationConfig), {"beam": 1})
        OmegaConf.set_struct(args, False)
        for name, value in options.items():
            setattr(args, name, value)
        found = task.inference_step(task.build_generator([network], args), [network], batch)
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    task = make_task()
    expected = {decoding: tokens(make_task(decoding=decoding, block_size=3)) for decoding in ("ar", "semi-nar", "nar")}
    assert expected["ar"] != expected["semi-nar"] != expected["nar"]
    for decoding, texts in expected.items():
        assert tokens(task, decoding=decoding, block_size=3) == texts
    assert task.cfg.decoding == "ar"


def test_bleu_of_text_for_people(train_here, cli, data_bin):
    """--eval-bleu and --scoring with --bpe bang: `bang evaluate`'s BLEU of the detokenized texts, not of word pieces."""
    folder = train_here(
        "--load-from-pretrained-model", GOLDEN / "mixed" / "checkpoint.pt", "--activation-fn", "gelu", "--lr", "1e-12",
        "--max-update", "1", "--eval-bleu",
        "--eval-bleu-args", '{"beam": 1, "max_len_b": 20}', "--bpe", "bang", "--best-checkpoint-metric", "bleu",
        "--maximize-best-checkpoint-metric", validate=True,
    )  # fmt: skip
    command = ["fairseq-generate", data_bin, "--path", folder / "checkpoint_best.pt", "--task", "translation_bang",
               "--gen-subset", "valid", "--beam", "1", "--max-len-b", "20", "--batch-size", "5",
               "--scoring", "sacrebleu"]  # fmt: skip
    log, of_pieces = cli(*command, "--bpe", "bang"), cli(*command)
    texts, references = (dict(re.findall(rf"^{kind}-(\d+)\t(?:\S+\t)?(.*)$", log, flags=re.M)) for kind in "DT")
    assert texts.keys() == references.keys() and len(texts) == 12
    assert texts == {str(number): to_text(text, keep_repeats=True) for number, (_, text) in hypotheses(of_pieces).items()}
    expected = evaluate({"": list(texts.values())}, [references[number] for number in texts], ["bleu"])["systems"][""]["BLEU"]
    assert 5 < expected < 95
    printed = [
        float(re.search(r"^Generate valid with beam=1: BLEU = ([\d.]+)", found, flags=re.M)[1]) for found in (log, of_pieces)
    ]
    assert printed[0] == pytest.approx(expected, abs=0.01) and printed[1] > expected + 1
    best = checkpoint_utils.load_checkpoint_to_cpu(str(folder / "checkpoint_best.pt"))["extra_state"]["best"]
    assert best == pytest.approx(expected, abs=0.01)
