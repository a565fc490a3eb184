"""Vocabularies of other BERTs: cased English, German, Chinese. Their pieces equal transformers' everywhere.

The folders are as Hugging Face has them, small and random: config.json, weights, vocab.txt, tokenizer_config.json.
"""

import argparse
import json

import pytest
from fairseq.data import encoders
from hypothesis import given, settings
from hypothesis import strategies as st

from bang import Bang, starts
from bang.__main__ import main
from bang.deploy.convert import to_model
from bang.deploy.pack import write_checkpoint
from bang.errors import UserError
from bang.plugin.dictionary import BertDictionary
from bang.text.vocabulary import (
    SPECIAL_PIECES,
    TOKENIZER_FILE,
    UNCASED,
    VOCAB,
    Normalization,
    read_normalization,
    read_vocabulary,
    write_normalization,
)
from bang.text.wordpieces import load_word_pieces

KINDS = {
    "english": (
        {"do_lower_case": False},
        "The the Hello hello NASA ##ing ##s É É é naïve e i I ı ##ı ##I ##i",
        "The NASA is saying Hello to naïve É people: they're HELLO [SEP] [sep]",
    ),
    "german": (
        {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": True},
        "Straße straße Stra ##ße Über über uber Mäuse maus ##ß ##ä ä Ä ß SS ss Die die ##n ##en",
        "Die Mäuse laufen ÜBER die Straße, STRASSE und über Straßen; Ärger 你好",
    ),
    "lower, with accents": (
        {"do_lower_case": True, "strip_accents": False},
        "über uber straße é e café cafe",
        "Über die Straße ins CAFÉ",
    ),
    "chinese": (
        {"do_lower_case": False, "tokenize_chinese_chars": False},
        "你好 你 好 ##好 世界 ##世界 ##界 世 の ##の abc 漢字",
        "你好世界，你好 abc Abc 漢字の",
    ),
    "chinese, by character": ({"do_lower_case": True, "tokenize_chinese_chars": True}, "你 好 世 界 の abc", "你好世界 ABC の"),
}


def make_folder(folder, kind):
    """A random BERT of one layer whose vocabulary has some words, and the letters of its text."""
    from transformers import BertConfig, BertModel

    options, words, text = KINDS[kind]
    letters = sorted(set(text + text.lower() + ".,") - {" "})
    pieces = list(dict.fromkeys([*SPECIAL_PIECES, *words.split(), *letters, *(f"##{letter}" for letter in letters)]))
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / TOKENIZER_FILE).write_text(json.dumps({**options, "tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: make_folder(tmp_path_factory.mktemp("bert"), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def reference(folders):
    from transformers import BertTokenizer

    tokenizers = {kind: BertTokenizer.from_pretrained(folder) for kind, folder in folders.items()}
    return lambda kind, text: " ".join(tokenizers[kind].tokenize(text))


@pytest.mark.parametrize("kind", KINDS)
def test_tokenize_and_bpe_equal_transformers(kind, folders, reference, tmp_path):
    vocab, text = folders[kind] / "vocab.txt", KINDS[kind][2]
    (tmp_path / "raw").write_text(f"{text}\n", encoding="utf-8")
    main(["tokenize", "--vocab", str(vocab), "--workers", "1", "--out-dir", str(tmp_path / "out"), str(tmp_path / "raw")])
    expected = reference(kind, text)
    assert (tmp_path / "out" / "raw").read_text(encoding="utf-8") == f"{expected}\n"
    assert load_word_pieces(VOCAB)(text) != expected  # as the published vocabulary has it
    bpe = encoders.build_bpe(argparse.Namespace(bpe="bang", bpe_vocab_file=str(vocab)))
    assert bpe.encode(text) == expected


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(KINDS)), st.text() | st.text("ÄäßẞÜüéÉıİIi你好世界 .", max_size=12))
def test_any_text_equals_transformers(folders, reference, kind, text):
    text = text.replace("\n", " ")
    assert load_word_pieces(folders[kind] / "vocab.txt")(text) == reference(kind, text)


@pytest.mark.parametrize("kind", ["english", "german", "chinese"])
def test_a_model_of_it_packs_and_generates(kind, folders, reference, tmp_path):
    """From the start's folder to a checkpoint, a model folder, and texts with the vocabulary's own capitals."""
    vocab, text = folders[kind] / "vocab.txt", KINDS[kind][2]
    model = to_model(starts.read(str(folders[kind])), BertDictionary.load(vocab))
    write_checkpoint(model, tmp_path / "checkpoint.pt")
    main(["pack", str(tmp_path / "checkpoint.pt"), str(tmp_path / "model"), "--vocab", str(vocab)])
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert TOKENIZER_FILE in config["files"]
    assert "cased word pieces" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for loaded in (Bang.load(tmp_path / "checkpoint.pt", vocab=vocab), Bang.load(tmp_path / "model")):
        expected = [*reference(kind, text).split(), "[SEP]"]
        assert [loaded.pieces[index] for index in loaded.tokenizer.encode(text, 1, False).ids] == expected
        found = loaded.generate(text, "nar", details=True, max_len=8)
        joined = "".join(found.pieces).replace("##", "").replace("[UNK]", "")
        assert sorted(found.text.replace(" ", "").replace("[UNK]", "")) == sorted(joined) or "[" in joined
        with pytest.raises(UserError, match="capitals of its own"):
            loaded.generate(text, case="source")


def test_a_checkpoint_knows_its_normalization(folders, tmp_path):
    """The same pieces for another kind of text are another vocabulary."""
    vocab = folders["german"] / "vocab.txt"
    write_checkpoint(to_model(starts.read(str(folders["german"])), BertDictionary.load(vocab)), tmp_path / "checkpoint.pt")
    (tmp_path / "vocab.txt").write_bytes(vocab.read_bytes())  # and not what is beside it
    with pytest.raises(UserError, match="give the vocabulary that its data was binarized with"):
        Bang.load(tmp_path / "checkpoint.pt", vocab=tmp_path / "vocab.txt")
    (tmp_path / "dict.src.txt").write_bytes(vocab.read_bytes())
    (tmp_path / TOKENIZER_FILE).write_bytes((folders["german"] / TOKENIZER_FILE).read_bytes())
    assert not Bang.load(tmp_path / "checkpoint.pt").normalization.do_lower_case


def test_data_keep_the_normalization(folders, tmp_path):
    """What fairseq-preprocess writes: the dictionary, with counts, and the file beside it."""
    dictionary = BertDictionary.load(folders["german"] / "vocab.txt")
    for side in ("src", "tgt"):
        dictionary.save(str(tmp_path / "data" / f"dict.{side}.txt"))
    again = BertDictionary.load(str(tmp_path / "data" / "dict.src.txt"))
    assert again == dictionary and again.normalization == Normalization(False, False, True)
    assert again.symbols == (folders["german"] / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    with pytest.raises(UserError, match="other capitals"):
        BertDictionary.load(VOCAB).save(str(tmp_path / "data" / "dict.src.txt"))  # would be read with what is there


def test_published_vocabularies_have_no_file_beside_them(tmp_path):
    BertDictionary.load(VOCAB).save(str(tmp_path / "dict.src.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dict.src.txt"]
    with pytest.raises(UserError, match="dict.src.txt: of a vocabulary with other capitals"):
        write_normalization(Normalization(False), tmp_path / "dict.tgt.txt")


def test_berts_own_file_serves_as_a_vocabulary(tmp_path):
    pieces = list(read_vocabulary(VOCAB))
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    assert read_vocabulary(tmp_path / "vocab.txt") == read_vocabulary(VOCAB)


@pytest.mark.parametrize("content, problem", [
    ("{", "not JSON"), ("[]", "no settings"), ('{"do_lower_case": "no"}', "do_lower_case is 'no'"), ("\xff", "not JSON"),
    ('{"do_lower_case": null}', "do_lower_case is None"), ('{"tokenize_chinese_chars": 1}', "tokenize_chinese_chars is 1"),
])  # fmt: skip
def test_settings_that_do_not_serve(content, problem, tmp_path):
    (tmp_path / TOKENIZER_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=f"{TOKENIZER_FILE}: .*{problem}"):
        read_normalization(tmp_path / "vocab.txt")


def test_a_smaller_vocabulary_keeps_the_normalization(folders, tmp_path):
    (tmp_path / "raw").write_text("Die Straße\n" * 2, encoding="utf-8")
    small = tmp_path / "small" / "vocab.txt"
    small.parent.mkdir()
    main(["vocabulary", str(small), str(tmp_path / "raw"), "--vocab", str(folders["german"] / "vocab.txt")])
    assert read_normalization(small) == Normalization(False, False, True)
    assert load_word_pieces(small)("Die Straße") == "Die Straße"


def test_a_start_of_another_normalization_is_told_of(folders, tmp_path, caplog):
    (tmp_path / "vocab.txt").write_bytes((folders["german"] / "vocab.txt").read_bytes())
    to_model(starts.read(str(folders["german"])), BertDictionary.load(tmp_path / "vocab.txt"))
    assert "treats capitals, accents or ideographs otherwise" in caplog.text
    assert read_normalization(tmp_path / "vocab.txt") == UNCASED


@pytest.mark.slow
def test_an_export_of_it(folders, reference, tmp_path):
    vocab, text = folders["german"] / "vocab.txt", KINDS["german"][2]
    write_checkpoint(to_model(starts.read(str(folders["german"])), BertDictionary.load(vocab)), tmp_path / "checkpoint.pt")
    main(["export", str(tmp_path / "checkpoint.pt"), str(tmp_path / "exported"), "--vocab", str(vocab)])
    loaded = Bang.load(tmp_path / "exported", threads=1)
    assert loaded.normalization == Normalization(False, False, True)
    expected = [*reference("german", text).split(), "[SEP]"]
    assert [loaded.pieces[index] for index in loaded.tokenizer.encode(text, 1, False).ids] == expected
