"""Scores of texts against references, each by a well-kept library and under a name that says which variant it is.

rouge_score (ROUGE), sacrebleu (BLEU, chrF, corpus BLEU-1/2) and nltk (sentence BLEU, METEOR) do the counting. What
they leave out is here: distinct n-grams, and the faults that non-autoregressive models are known for.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

import numpy as np

from ..packages import install_command
from .files import StrPath, read_lines

TOKENIZERS = ("13a", "none", "ptb")
SEED = 12345  # sacrebleu's own, for the bootstrap

# No English text ends with one of these; hypotheses do that were cut, or that a model left unfinished. Penn Treebank tokens last.
_NEVER_LAST = frozenset(
    "a an the and or but nor of for with to from into by as at than that which your its , ; : ( [ { -lrb- -lsb- -lcb-".split()
)
_PARENTHESES = {"(": 1, "-lrb-": 1, ")": -1, "-rrb-": -1}


class _NoData(Exception):
    """What a metric counts with is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class Score:
    """What one metric says of one system.

    Attributes:
        value: the score; shares and means are x 100.
        signature: how it was computed.
        sentences: for a score that is a mean over the sentences, their values, for the bootstrap.
    """

    value: float
    signature: str
    sentences: np.ndarray | None = None


Scorer = Callable[[str, Sequence[str], Sequence[str]], dict[str, Score]]
"""Scores hypotheses against references, split into tokens by the tokenizer of a name: {metric: score}."""


def read_texts(path: StrPath) -> list[str]:
    """Reads texts, a line each.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty or not UTF-8.
    """
    lines = list(read_lines(path))
    if not lines:
        raise ValueError(f"{path}: empty: give a file with one text a line")
    return lines


def evaluate(
    systems: Mapping[str, Sequence[str]],
    references: Sequence[str],
    metrics: Sequence[str] = (),
    tokenizer: str = "13a",
    resamples: int = 0,
) -> dict:
    """Scores systems against references, and each against the first by paired bootstrap.

    Args:
        systems: the texts of each system, by its name.
        references: a reference for each text.
        metrics: groups of METRICS; none: all of them.
        tokenizer: of all metrics but ROUGE and chrF: "13a" is sacrebleu's and the one to report; "none" splits at
            blanks, as papers on dialogue do; "ptb" makes Penn Treebank tokens of the texts, as the references of
            SQuAD question generation are.
        resamples: of the bootstrap; 0: none.

    Returns:
        What is ready for JSON: `sentences` (their number), `systems` ({name: {metric: score}}), `signatures`
        ({metric: how it was computed}), `not_measured` ({group: why}), and, with `resamples`, `against` ({name:
        {metric: {difference, p}}}).

    Raises:
        ValueError: texts and references differ in number, there are none, a metric or tokenizer is unknown, or nothing
            could be measured.
    """
    if not references:
        raise ValueError("no references to evaluate against")
    for name, texts in systems.items():
        if len(texts) != len(references):
            raise ValueError(
                f"{name} has {len(texts)} lines, the references {len(references)}: give one text for each reference"
            )
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"unknown tokenizer {tokenizer}: choose {', '.join(TOKENIZERS)}")
    for group in metrics:
        if group not in METRICS:
            raise ValueError(f"unknown metric {group}: choose {', '.join(METRICS)}")
    note = ""
    if tokenizer == "ptb":
        note = f", texts made Penn Treebank tokens by nltk {_version('nltk')}"
        treebank = _treebank()
        systems = {name: list(map(treebank, texts)) for name, texts in systems.items()}
        tokenizer = "none"

    scores: dict[str, dict[str, Score]] = {name: {} for name in systems}
    not_measured = {}
    for group in metrics or METRICS:
        try:
            for name, texts in systems.items():
                scores[name] |= METRICS[group](tokenizer, texts, references)
        except _NoData as error:
            not_measured[group] = str(error)
    if not any(scores.values()):
        raise ValueError("; ".join(f"{group}: {why}" for group, why in not_measured.items()))
    baseline = next(iter(systems))
    report = {
        "sentences": len(references),
        "systems": {name: {metric: score.value for metric, score in found.items()} for name, found in scores.items()},
        "signatures": {metric: score.signature + note for metric, score in scores[baseline].items()},
        "not_measured": not_measured,
    }
    if resamples:
        report["baseline"], report["resamples"] = baseline, resamples
        report["against"] = {
            name: _bootstrap(scores[baseline], scores[name], resamples)
            | _bootstrap_corpus(systems[baseline], systems[name], references, metrics or METRICS, tokenizer, resamples)
            for name in list(systems)[1:]
        }
    return report


def _rouge(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """ROUGE-1, -2 and -L, with a tokenizer of its own: lower-cased, letters and digits alone count."""
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = [scorer.score(reference, hypothesis) for hypothesis, reference in zip(hypotheses, references)]
    signature = f"rouge_score {_version('rouge_score')}, F1, Porter stemmer, mean over sentences"
    names = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
    return {name: _mean([score[key].fmeasure for score in found], signature) for name, key in names.items()}


def _corpus_metrics(group: str, tokenizer: str) -> dict:
    """sacrebleu's metrics of a group, by our names."""
    if group not in ("bleu", "chrf", "dialogue"):
        return {}
    library = _library("sacrebleu.metrics")
    if group == "bleu":
        return {
            "BLEU": library.BLEU(tokenize=tokenizer, force=True),
            "BLEU-lc": library.BLEU(tokenize=tokenizer, lowercase=True, force=True),
        }
    if group == "chrf":
        return {"chrF": library.CHRF(), "chrF-lc": library.CHRF(lowercase=True)}
    options = {"tokenize": tokenizer, "lowercase": True, "smooth_method": "none", "force": True}
    return {f"corpus-BLEU-{order}": library.BLEU(max_ngram_order=order, **options) for order in (1, 2)}


def _sacrebleu(group: str) -> Scorer:
    def score(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
        return {
            name: Score(metric.corpus_score(hypotheses, [references]).score, f"sacrebleu {metric.get_signature()}")
            for name, metric in _corpus_metrics(group, tokenizer).items()
        }

    return score


def _sentence_bleu(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    bleu = _library("nltk.translate.bleu_score")
    smoothing, tokens = bleu.SmoothingFunction().method7, _tokens(tokenizer)
    pairs = [(tokens(reference), tokens(hypothesis)) for hypothesis, reference in zip(hypotheses, references)]
    signature = f"nltk {_version('nltk')}, smoothing method 7, lower case, {tokenizer} tokens, mean over sentences"
    return {
        f"sentence-BLEU-{order}": _mean(
            [bleu.sentence_bleu([reference], hypothesis, [1 / order] * order, smoothing) for reference, hypothesis in pairs],
            signature,
        )
        for order in (1, 2)
    }


def _dialogue(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    corpus = _sacrebleu("dialogue")(tokenizer, hypotheses, references)
    return corpus | _sentence_bleu(tokenizer, hypotheses, references)


def _meteor(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    wordnet = _library("nltk.corpus").wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise _NoData("nltk's data is not here: run `python -m nltk.downloader wordnet` first") from None
    meteor, tokens = _library("nltk.translate.meteor_score").meteor_score, _tokens(tokenizer)
    values = [
        meteor([tokens(reference)], tokens(hypothesis), wordnet=wordnet)
        for hypothesis, reference in zip(hypotheses, references)
    ]
    return {"METEOR": _mean(values, f"nltk {_version('nltk')}, lower case, {tokenizer} tokens, mean over sentences")}


def _distinct(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """Distinct-1 and -2: how many of all n-grams that a system writes are different ones."""
    texts, scores = list(map(_tokens(tokenizer), hypotheses)), {}
    for order in (1, 2):
        ngrams = [tuple(text[start : start + order]) for text in texts for start in range(len(text) - order + 1)]
        value = 100 * len(set(ngrams)) / max(len(ngrams), 1)
        scores[f"distinct-{order}"] = Score(value, f"different n-grams of all, lower case, {tokenizer} tokens")
    return scores


def _faults(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """What NAR models get wrong: words said twice, texts that are cut, empty, or of another length than asked."""
    tokens = _tokens(tokenizer)
    texts = list(map(tokens, hypotheses))
    length = sum(map(len, texts))
    repeats = sum(word == before and word.isalnum() for text in texts for before, word in zip(text, text[1:]))
    expected = sum(len(tokens(reference)) for reference in references)
    return {
        "repeats": Score(100 * repeats / max(length, 1), "words equal to the one before them, % of all tokens"),
        "unfinished": _mean(list(map(_is_unfinished, texts)), "texts that end in 'of', 'the', ',' … or within (, %"),
        "empty": _mean([not text for text in texts], "texts without a word, %"),
        "length ratio": Score(100 * length / max(expected, 1), f"tokens of all texts / of all references, {tokenizer}, %"),
    }


def _is_unfinished(text: list[str]) -> bool:
    return bool(text) and (text[-1] in _NEVER_LAST or sum(_PARENTHESES.get(token, 0) for token in text) > 0)


METRICS: dict[str, Scorer] = {
    "rouge": _rouge, "bleu": _sacrebleu("bleu"), "chrf": _sacrebleu("chrf"), "dialogue": _dialogue, "meteor": _meteor,
    "distinct": _distinct, "faults": _faults,
}  # fmt: skip
"""The groups of metrics, by name."""


def _bootstrap(baseline: Mapping[str, Score], system: Mapping[str, Score], resamples: int) -> dict[str, dict]:
    """Paired bootstrap (Koehn 2004) of the scores that are means over sentences; two-sided p as sacrebleu has it."""
    results = {}
    for name, score in system.items():
        if score.sentences is None:
            continue
        differences = score.sentences - baseline[name].sentences
        draws = np.random.default_rng(SEED).integers(len(differences), size=(resamples, len(differences)))
        means = np.abs(differences[draws].mean(1))
        difference = score.value - baseline[name].value
        p = (np.sum(means - means.mean() >= abs(difference)) + 1) / (resamples + 1)
        results[name] = {"difference": difference, "p": float(p)}
    return results


def _bootstrap_corpus(
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[str],
    groups: Sequence[str],
    tokenizer: str,
    resamples: int,
) -> dict[str, dict]:
    """sacrebleu's paired bootstrap of its own scores."""
    test, results = _library("sacrebleu.significance").PairedTest, {}
    metrics = [found for group in groups for found in _corpus_metrics(group, tokenizer).items()]
    for name, metric in metrics:
        named = [("baseline", baseline), ("system", system)]
        _, scores = test(named, {name: metric}, [references], "bs", resamples)()
        ((first, second),) = (found for key, found in scores.items() if key != "System")  # the key is sacrebleu's own
        difference = second.score - first.score
        results[name] = {"difference": difference, "p": float(second.p_value) if difference else 1.0}
    return results


def _mean(values: Sequence[float], signature: str) -> Score:
    sentences = 100 * np.asarray(values, dtype=np.float64)
    return Score(float(sentences.mean()), signature, sentences)


def _tokens(tokenizer: str) -> Callable[[str], list[str]]:
    """Splits lower-cased text into tokens."""
    if tokenizer == "none":
        return lambda text: text.lower().split()
    tokenize = _library("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    return lambda text: tokenize(text.lower()).split()


def _treebank() -> Callable[[str], str]:
    tokenizer = _library("nltk.tokenize").TreebankWordTokenizer()
    return lambda text: " ".join(tokenizer.tokenize(text, convert_parentheses=True))


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package = name.split(".")[0].replace("_", "-")
        raise ValueError(f"evaluation needs the package {package}: {install_command(package, 'eval')}") from None


def _version(package: str) -> str:
    return metadata.version(package)
