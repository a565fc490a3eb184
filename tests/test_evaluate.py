"""Scores: those of the libraries' own command lines, what we count ourselves by hand, and the command."""

import csv
import json
import subprocess
import sys

import nltk.corpus
import pytest

from bang.__main__ import main
from bang.text.evaluate import METRICS, evaluate
from conftest import ROOT
from nltk.corpus.reader import CorpusReader, WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader

EXAMPLES = ROOT / "examples" / "debian"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two systems that copy the sources' first words, and 60 references, mixed case and punctuation among them."""
    folder = tmp_path_factory.mktemp("texts")
    sources = (EXAMPLES / "test.src").read_text(encoding="utf-8").splitlines()[:60]
    references = (EXAMPLES / "test.tgt").read_text(encoding="utf-8").splitlines()[:60]
    paths = {name: folder / f"{name}.txt" for name in ("eight", "five", "reference")}
    paths["eight"].write_text("".join(f"{' '.join(line.split()[:8])}\n" for line in sources), encoding="utf-8")
    paths["five"].write_text("".join(f"{' '.join(line.split()[:5])}\n" for line in sources), encoding="utf-8")
    paths["reference"].write_text("".join(f"{line}\n" for line in references), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def texts(files):
    return {name: path.read_text(encoding="utf-8").splitlines() for name, path in files.items()}


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tokenizer", ["13a", "none"])
def test_equals_sacrebleu(files, texts, tokenizer):
    report = evaluate({"eight": texts["eight"]}, texts["reference"], ["bleu", "chrf", "dialogue"], tokenizer)
    ours = report["systems"]["eight"]
    for name, options in {"BLEU": [], "BLEU-lc": ["-lc"]}.items():
        theirs = json.loads(
            command("sacrebleu", files["reference"], "-i", files["eight"], "-w", 6, "-tok", tokenizer, "--force", *options)
        )
        assert ours[name] == pytest.approx(theirs["score"], abs=1e-6)
        assert report["signatures"][name] == f"sacrebleu {theirs['signature']}"
    for name, options in {"chrF": [], "chrF-lc": ["--chrf-lowercase"]}.items():
        theirs = json.loads(command("sacrebleu", files["reference"], "-i", files["eight"], "-w", 6, "-m", "chrf", *options))
        assert ours[name] == pytest.approx(theirs["score"], abs=1e-6)
        assert report["signatures"][name] == f"sacrebleu {theirs['signature']}"
    assert 0 < ours["BLEU"] < ours["BLEU-lc"] < ours["corpus-BLEU-2"] < ours["corpus-BLEU-1"]


def test_equals_rouge_score(files, texts, tmp_path):
    ours = evaluate({"eight": texts["eight"]}, texts["reference"], ["rouge"])["systems"]["eight"]
    command(
        "rouge_score.rouge", f"--target_filepattern={files['reference']}", f"--prediction_filepattern={files['eight']}",
        f"--output_filename={tmp_path / 'scores'}", "--use_stemmer=true", "--aggregate=false",
        "--rouge_types=rouge1,rouge2,rougeL",
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "scores").open()))
    assert len(rows) == 60
    for name, column in (("ROUGE-1", "rouge1-F"), ("ROUGE-2", "rouge2-F"), ("ROUGE-L", "rougeL-F")):
        assert ours[name] == pytest.approx(100 * sum(float(row[column]) for row in rows) / 60, abs=1e-4)


def test_sentence_bleu():
    """nltk's, with the orders' equal weights and its seventh smoothing, which gives equal texts more than 100."""
    scores = evaluate({"a": ["A b c d e", "x b"]}, ["a b c d e", "a b"], ["dialogue"])["systems"]["a"]
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    for order, weights in ((1, [1]), (2, [0.5, 0.5])):
        expected = [
            sentence_bleu([reference.split()], text.split(), weights, SmoothingFunction().method7)
            for text, reference in (("a b c d e", "a b c d e"), ("x b", "a b"))
        ]
        assert scores[f"sentence-BLEU-{order}"] == pytest.approx(50 * sum(expected))
    same = evaluate({"a": ["i am a cook ."]}, ["i am a cook ."], ["dialogue"], "none")["systems"]["a"]
    assert [round(same[f"sentence-BLEU-{order}"]) for order in (1, 2)] == [133, 122]
    # of 7 words 6 are in the references; of 5 pairs 4
    assert scores["corpus-BLEU-1"] == pytest.approx(100 * 6 / 7)
    assert scores["corpus-BLEU-2"] == pytest.approx(100 * (6 / 7 * 4 / 5) ** 0.5)


@pytest.fixture
def nltk_folder(tmp_path, monkeypatch):
    """A folder that nltk looks for its data in and nowhere else; what it has read before is forgotten."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    others = LazyCorpusLoader("omw-2.0", CorpusReader, r".*")
    monkeypatch.setattr(nltk.corpus, "wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, others))
    return tmp_path


def test_meteor_without_its_data(nltk_folder):
    """A line says so, and other metrics are measured; where nothing else was asked for, it is an error."""
    for metrics in ([], ["rouge", "meteor"]):
        report = evaluate({"a": ["a b"]}, ["a b"], metrics)
        assert "METEOR" not in (scores := report["systems"]["a"]) and scores["ROUGE-1"] == pytest.approx(100)
        assert "nltk.downloader wordnet" in report["not_measured"]["meteor"]
    with pytest.raises(ValueError, match="meteor: nltk's data is not here: run"):
        evaluate({"a": ["a b"]}, ["a b"], ["meteor"])


def test_a_mistake_in_a_metric_is_not_hidden(monkeypatch):
    """A KeyError of a library is no missing data."""
    monkeypatch.setitem(METRICS, "distinct", lambda *_: {}["gone"])
    with pytest.raises(KeyError, match="gone"):
        evaluate({"a": ["a b"]}, ["a b"], ["rouge", "distinct"])


def test_meteor(nltk_folder):
    """A WordNet of one synset, in WordNet's own files: words count as they are, by their stems, and as synonyms."""
    wordnet = nltk_folder / "corpora" / "wordnet"
    wordnet.mkdir(parents=True)
    for name in WordNetCorpusReader._FILES:
        (wordnet / name).touch()
    (wordnet / "lexnames").write_text("00\tnoun.artifact\t1\n")
    (wordnet / "data.noun").write_text("00000000 00 n 02 car 0 auto 0 000 | a motor vehicle\n")
    (wordnet / "index.noun").write_text("".join(f"{word} n 1 0 1 0 00000000\n" for word in ("auto", "car")))
    texts, references = ["The dogs auto", "x car of"], ["the dog car", "y"]
    scores = evaluate({"a": texts}, references, ["meteor"])
    # all three words in one chunk; none: 1 - penalty, and 0
    assert scores["systems"]["a"]["METEOR"] == pytest.approx(100 * (1 - 0.5 * (1 / 3) ** 3) / 2)
    assert scores["signatures"]["METEOR"].startswith(f"nltk {nltk.__version__}, lower case, 13a tokens")


def test_distinct_and_faults_by_hand():
    texts = ["a library library for the", "A library (written", "c++ :: c++", "", "yes yes"]
    references = ["one two three four"] * 5
    scores = evaluate({"a": texts}, references, ["distinct", "faults"], "none")["systems"]["a"]
    assert scores["distinct-1"] == pytest.approx(100 * 8 / 13)  # a library for the (written c++ :: yes
    assert scores["distinct-2"] == pytest.approx(100 * 8 / 9)  # "a library" is there twice
    assert scores["repeats"] == pytest.approx(100 * 2 / 13)
    assert scores["empty"] == pytest.approx(20)
    assert scores["length ratio"] == pytest.approx(100 * 13 / 20)
    assert scores["unfinished"] == pytest.approx(20)
    scores = evaluate({"a": texts}, references, ["faults"])["systems"]["a"]
    assert scores["unfinished"] == pytest.approx(40)  # "( written" has no ")"
    assert scores["repeats"] == pytest.approx(100 * 2 / 19)  # not "+ +" and ": :"


def test_treebank_tokens():
    """Texts for people against references that are Penn Treebank tokens already."""
    text, reference = 'It isn\'t a "test" (really).', "It is n't a `` test '' -LRB- really -RRB- ."
    scores = evaluate({"a": [text] * 2}, [reference] * 2, ["bleu"], "ptb")
    assert scores["systems"]["a"]["BLEU"] == pytest.approx(100)
    assert "Penn Treebank" in scores["signatures"]["BLEU"]
    assert evaluate({"a": [text] * 2}, [reference] * 2, ["bleu"])["systems"]["a"]["BLEU"] < 60


@pytest.mark.parametrize("tokenizer", ["13a", "ptb"])
def test_open_parentheses(tokenizer):
    """Penn Treebank tokens have other names for them, in references too."""
    texts = ["a library (written", "a library (written)", "a library (", "the -LRB- old", "the -LRB- old -RRB-", "a library ["]
    scores = evaluate({"a": texts}, ["a"] * 6, ["faults"], tokenizer)["systems"]["a"]
    assert scores["unfinished"] == pytest.approx(100 * 4 / 6)


def test_bootstrap(texts):
    systems = {"eight": texts["eight"], "same": list(texts["eight"]), "five": texts["five"]}
    report = evaluate(systems, texts["reference"], ["rouge", "bleu", "faults"], resamples=200)
    assert set(report["against"]) == {"same", "five"}
    for name, scores in report["against"].items():
        for metric in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "BLEU", "BLEU-lc", "unfinished", "empty"):
            difference = report["systems"][name][metric] - report["systems"]["eight"][metric]
            assert scores[metric]["difference"] == pytest.approx(difference, abs=1e-9)
            assert name == "five" or scores[metric]["p"] == 1
    assert report["against"]["five"]["ROUGE-1"]["p"] < 0.05 < report["against"]["five"]["unfinished"]["p"]
    worse = {"a": texts["reference"], "b": texts["five"]}
    assert evaluate(worse, texts["reference"], ["rouge"], resamples=200)["against"]["b"]["ROUGE-L"]["p"] == 1 / 201


def test_command(files, tmp_path, capsys):
    options = ["--reference", str(files["reference"]), "--bootstrap", "50", "--json", str(tmp_path / "scores.json")]
    main(["evaluate", str(files["eight"]), str(files["five"]), *options])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "scores.json").read_text())
    assert set(report["systems"]) == {str(files["eight"]), str(files["five"])} and report["sentences"] == 60
    header, *rows = printed.splitlines()
    assert header.split() == ["eight", "five", "reference", "p", "five"]
    measured = {metric for scores in report["systems"].values() for metric in scores}
    assert {row.split("  ")[0] for row in rows[: len(measured)]} == measured
    assert "60 sentences; p: that the difference to eight is chance (50 resamples)" in printed
    assert "rouge_score 0.1.2, F1" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{0}/two", "--reference", "{0}/one"], "two has 2 lines, the references 1: give one text for each reference"),
        (["{0}/empty", "--reference", "{0}/one"], "empty: empty: give a file with one text a line"),
        (["{0}/one", "--reference", "{0}/empty"], "empty: empty: give a file with one text a line"),
        (["{0}/gone", "--reference", "{0}/one"], "gone"),
        (["{0}/one", "--reference", "{0}/one", "--metrics", "rogue"], "unknown metric rogue: choose rouge, bleu, chrf"),
        (["{0}/one", "--reference", "{0}/one", "--tokenize", "x"], "unknown tokenizer x: choose 13a, none, ptb"),
        (["{0}/one", "--reference", "{0}/one", "--bootstrap", "9"], "the TEXTS of two systems or more"),
        (["{0}/one", "{0}/one", "--reference", "{0}/one"], "TEXTS name a file twice"),
        (["{0}/pieces", "--reference", "{0}/one"], "pieces holds word pieces: make text of them first"),
        (["{0}/one", "--reference", "{0}/one", "--json", "{0}/one"], "is the input"),
    ],
)  # fmt: skip
def test_refusals(arguments, message, tmp_path):
    for name, content in {"one": "a b\n", "two": "a\nb\n", "empty": "", "pieces": "a bin ##ding\n"}.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *(argument.format(tmp_path) for argument in arguments)])
    assert stop.value.code.startswith("bang evaluate: error: ") and message in stop.value.code
    assert "\n" not in stop.value.code
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "empty", "pieces"}


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ValueError, match=r"needs the package rouge-score: pip install '\.\[eval\]'"):
        evaluate({"a": ["a"]}, ["a"], ["rouge"])


def test_every_group_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    said = capsys.readouterr().out
    assert all(f"    {group} " in said for group in METRICS)
