"""Scores: those of the libraries' own command lines, what we count ourselves by hand, and the command."""

import csv
import json
import subprocess
import sys
from collections import Counter
from math import exp, log, prod

import nltk.corpus
import pytest
from conftest import DEBIAN, ROOT
from nltk.corpus.reader import CorpusReader, WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from rouge_score.rouge_scorer import RougeScorer

from bang.__main__ import main
from bang.recipes.tasks import PRESETS
from bang.text.evaluate import METRICS, evaluate, warn_of_equal_texts


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two systems that copy the sources' first words, and 60 references, mixed case and punctuation among them."""
    folder = tmp_path_factory.mktemp("texts")
    sources = (DEBIAN / "test.src").read_text(encoding="utf-8").splitlines()[:60]
    references = (DEBIAN / "test.tgt").read_text(encoding="utf-8").splitlines()[:60]
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


def in_order(text, reference):
    """How many words of a text are in a reference in the same order: the longest common subsequence, by its definition."""
    if not text or not reference:
        return 0
    if text[-1] == reference[-1]:
        return in_order(text[:-1], reference[:-1]) + 1
    return max(in_order(text[:-1], reference), in_order(text, reference[:-1]))


def precision(text, reference, order):
    """The n-grams of a text that are in a reference too, and all of them, one at least."""
    ours, theirs = (Counter(zip(*(words[start:] for start in range(order)))) for words in (text, reference))
    return (ours & theirs).total(), max(ours.total(), 1)


def method_7(text, reference, orders):
    """Sentence BLEU as Chen and Cherry 2014 smooth it: their methods 4 (zeros get a share), then 5 (neighbours' mean)."""
    matches, zeros, k = [], 0, 5
    if not precision(text, reference, 1)[0]:
        return 0
    for order in range(1, 5):
        found, total = precision(text, reference, order)
        if not found and len(text) > 1:
            zeros += 1
            found = log(len(text)) / (2**zeros * k)
        matches.append(found / total)
    found, total = precision(text, reference, 5)
    matches, before = [*matches, found / total], matches[0] + 1
    for order in range(4):
        before = matches[order] = (before + matches[order] + matches[order + 1]) / 3
    penalty = exp(min(0, 1 - len(reference) / len(text)))
    return penalty * exp(sum(log(matches[order]) for order in range(orders)) / orders)


SPOKEN = [
    ("i am a teacher and i have two dogs .", "i am a retired teacher and i have three cats .", 95.18, 75.44),
    ("hello !", "hello !", 133.33, 103.34),
    ("i like red cars", "hello !", 0, 0),
    ("hello", "hello there !", None, None),
    ("", "hello !", 0, 0),
]


@pytest.mark.parametrize("text, reference, first, second", SPOKEN)
def test_sentence_bleu(text, reference, first, second):
    """The smoothing looks one order further than the weights, so four weights are given, as papers on dialogue do."""
    scores = evaluate({"a": [text]}, [reference], ["dialogue"], "none")["systems"]["a"]
    for order, published in ((1, first), (2, second)):
        score = scores[f"sentence-BLEU-{order}"]
        assert score == pytest.approx(100 * method_7(text.split(), reference.split(), order), abs=1e-9)
        assert published is None or score == pytest.approx(published, abs=0.005)


def test_sentence_bleu_is_a_mean(texts):
    ours = evaluate({"a": texts["eight"]}, texts["reference"], ["dialogue"], "none")
    for order in (1, 2):
        values = [
            method_7(text.lower().split(), reference.lower().split(), order)
            for text, reference in zip(texts["eight"], texts["reference"])
        ]
        assert ours["systems"]["a"][f"sentence-BLEU-{order}"] == pytest.approx(100 * sum(values) / 60)
    assert "weights (0.5, 0.5, 0, 0)" in ours["signatures"]["sentence-BLEU-2"]


def test_corpus_bleu():
    scores = evaluate({"a": ["A b c d e", "x b"]}, ["a b c d e", "a b"], ["dialogue"])["systems"]["a"]
    # of 7 words 6 are in the references; of 5 pairs 4
    assert scores["corpus-BLEU-1"] == pytest.approx(100 * 6 / 7)
    assert scores["corpus-BLEU-2"] == pytest.approx(100 * (6 / 7 * 4 / 5) ** 0.5)


def test_questions(texts):
    """The scripts of question generation: F with beta 1.2, and BLEU of up to four words; neither has a stemmer."""
    pairs = [("Where is the red car ?", "where is the car of the cook ?"), ("what ?", "who was it ?"), ("", "when ?")]
    written, references = zip(*pairs)
    scores = evaluate({"a": written}, references, ["questions"], "none")["systems"]["a"]
    values = []
    for text, reference in ((text.lower().split(), reference.split()) for text, reference in pairs):
        common = in_order(text, reference)
        p, r = common / max(len(text), 1), common / len(reference)
        values.append((1 + 1.2**2) * p * r / (r + 1.2**2 * p) if common else 0)
    assert scores["QG-ROUGE-L"] == pytest.approx(100 * sum(values) / 3)
    eight = [line.lower() for line in texts["eight"]]
    counts = [[precision(t.split(), r.lower().split(), n) for t, r in zip(eight, texts["reference"])] for n in range(1, 5)]
    shares = [sum(found for found, _ in pairs) / sum(total for _, total in pairs) for pairs in counts]
    length, expected = (sum(len(text.split()) for text in lines) for lines in (eight, texts["reference"]))
    scores = evaluate({"a": eight}, texts["reference"], ["questions"], "none")["systems"]["a"]
    assert scores["QG-BLEU-4"] == pytest.approx(100 * prod(shares) ** 0.25 * exp(min(0, 1 - expected / length)))


@pytest.fixture(scope="module")
def published():
    """Texts and references that were scored once by the published programs: one sentence a text, and several."""
    sources, summaries = ((DEBIAN / f"test.{side}").read_text(encoding="utf-8").splitlines() for side in ("src", "tgt"))
    one = [" ".join(line.split()[:12]) for line in sources], summaries
    return one, ([". ".join(line.split(". ")[::-1]) for line in sources], [" ".join(line.split()[:60]) for line in sources])


def test_question_generation_program(published):
    """pycocoevalcap 1.2 (the scripts' BLEU and ROUGE-L) gave these, of the sources' first 9 words, one text another."""
    (twelve, summaries), _ = published
    nine = [" ".join(line.lower().split()[:9]) for line in twelve]
    nine[3] = "zzz"
    scores = evaluate({"a": nine}, summaries, ["questions"], "none")["systems"]["a"]
    assert scores["QG-ROUGE-L"] == pytest.approx(23.781132, abs=1e-5)
    assert scores["QG-BLEU-4"] == pytest.approx(6.3664, abs=1e-5)


@pytest.mark.parametrize("part, scores", [(0, (33.927, 15.908, 30.044)), (1, (100.0, 97.701, 100.0))])
def test_rouge_program(published, part, scores):
    """ROUGE-1.5.5.pl -c 95 -r 1000 -n 2 -a -m, as files2rouge calls it, gave these; its stemmer has more exceptions."""
    ours = evaluate({"a": published[part][0]}, published[part][1], ["rouge"])["systems"]["a"]
    assert [ours[name] for name in ("ROUGE-1", "ROUGE-2", "ROUGE-Lsum")] == pytest.approx(scores, abs=0.16)
    assert (ours["ROUGE-L"] < scores[2] - 20) == (part == 1)


@pytest.mark.parametrize("preset, names", [
    ("squad", ["QG-BLEU-4", "QG-ROUGE-L", "METEOR"]),
    ("xsum", ["ROUGE-1", "ROUGE-2", "ROUGE-Lsum"]),
    ("persona-chat", ["sentence-BLEU-1", "sentence-BLEU-2", "corpus-BLEU-1", "corpus-BLEU-2", "distinct-1", "distinct-2"]),
])  # fmt: skip
def test_presets_have_the_published_scores(preset, names, texts):
    """What the papers' tables have is measured, or named as not measured; the documentation explains each name."""
    report = evaluate({"a": texts["eight"]}, texts["reference"], PRESETS[preset].metrics, PRESETS[preset].tokenizer)
    documented = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name in names:
        assert name in report["signatures"] or name.lower() in report["not_measured"]
        assert f"`{name}`" in documented


LINES = [
    "Привет, мир", "библиотека для чтения файлов", "Βιβλιοθήκη για αρχεία", "पुस्तकालय और फ़ाइल", "文件库", "ספרייה לקבצים"
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_rouge_of_other_scripts(line):
    """rouge_score's own tokenizer knows a to z alone, and finds nothing in equal texts."""
    report = evaluate({"same": [line], "other": ["zebra"]}, [line], ["rouge"])
    assert [report["systems"]["same"][f"ROUGE-{name}"] for name in ("1", "L", "Lsum")] == [100, 100, 100]
    assert report["systems"]["other"]["ROUGE-1"] == 0
    assert "letters of every script, no stemmer" in report["signatures"]["ROUGE-1"]


def test_rouge_of_a_few_foreign_words_is_the_published_one():
    references = ["the café of the cats", "библиотека for files"]
    report = evaluate({"a": ["a café cat", "library for file"]}, references, ["rouge"])
    theirs = RougeScorer(["rouge1"], use_stemmer=True)
    values = [
        theirs.score(reference, text)["rouge1"].fmeasure
        for reference, text in zip(references, ["a café cat", "library for file"])
    ]
    assert report["systems"]["a"]["ROUGE-1"] == pytest.approx(50 * sum(values)) and "Porter" in report["signatures"]["ROUGE-1"]


def test_words_of_other_scripts():
    words = evaluate({"a": ["МИР мир, 文件 फ़ाइल"]}, ["мир 文 दो"], ["rouge"])["systems"]["a"]
    assert words["ROUGE-1"] == pytest.approx(100 * 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))  # of мир мир 文 件 फ़ाइल two are there


@pytest.mark.parametrize("texts, references, found", [
    (["a"] * 50 + ["b"] * 50, [], "2 different texts of 100: the model does not read its sources yet"),
    (["a"] * 100, [], "1 different text of 100: the model does not read its sources yet"),
    ([""] * 10, [], "1 different text of 10: the model does not read its sources yet"),
    (["a"] * 9, [], None),  # too few to tell
    ([str(number % 11) for number in range(100)], [], None),
    (["yes", "no"] * 50, ["yes", "no", "no", "yes"] * 25, None),  # the references repeat too
    (["yes"] * 100, ["yes", "no"] * 50, None),
    (["a", "b"] * 50, [str(number % 20) for number in range(100)], "2 different texts of 100"),
    ([], [], None),
])  # fmt: skip
def test_warning_of_equal_texts(texts, references, found):
    said = warn_of_equal_texts(texts, references)
    assert said == found if found is None else said.startswith(found)


def test_distinct_texts_are_a_row_of_every_table(files, texts, tmp_path, capsys):
    equal = tmp_path / "equal.txt"
    equal.write_text("a library\n" * 59 + "tools\n")
    for metrics in (["rouge"], ["chrf"], ["distinct"]):
        main(["evaluate", str(files["eight"]), str(equal), "--reference", str(files["reference"]), "--metrics", *metrics])
        printed = capsys.readouterr().out
        (row,) = [line.split() for line in printed.splitlines() if line.startswith("distinct texts  ")]
        shares = [100 * len(set(texts[name])) / 60 for name in ("eight", "reference")]
        assert row[2:] == [f"{share:.2f}" for share in (shares[0], 100 * 2 / 60, shares[1])]
        assert "\nequal: 2 different texts of 60: the model does not read its sources yet\n" in printed
        assert "eight: " not in printed


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
