"""Scores of texts against references, each by a well-kept library and under a name that says which variant it is.

rouge_score (ROUGE), sacrebleu (BLEU, chrF, corpus BLEU-1/2) and nltk (sentence BLEU, METEOR) do the counting. What
they leave out is here: distinct n-grams, and the faults that non-autoregressive models are known for.
"""

import importlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType, SimpleNamespace

import numpy as np

from ..errors import UserError
from ..packages import install_command
from .files import StrPath, read_lines

TOKENIZERS = ("13a", "none", "ptb")
SEED = 12345  # sacrebleu's own, for the bootstrap
BETA = 1.2  # how much recall weighs in question generation's ROUGE-L
DISTINCT_TEXTS = "distinct texts"  # the metric that no choice of METRICS leaves out
FEW_TEXTS = 0.1  # of the number of texts that a system which reads its sources writes

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
        raise UserError(f"{path}: empty: give a file with one text a line")
    return lines


def warn_of_equal_texts(texts: Sequence[str], references: Sequence[str] = ()) -> str | None:
    """Says in one line that a system writes much the same text for every source, or returns None.

    Such a system may score better than one that reads its sources, so scores do not show it.

    Args:
        texts: what the system wrote, each for a source of its own.
        references: their references. Data may ask for few different texts, `yes` and `no` for instance: a tenth of the
            references' different texts is enough. Without them every text is expected to be another one, and fewer than
            ten texts say nothing.
    """
    found, expected = len(set(texts)), len(set(references)) if references else len(texts)
    if not found or found > FEW_TEXTS * expected:
        return None
    return f"{found} different text{'s' * (found > 1)} of {len(texts)}: the model does not read its sources yet"


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
        metrics: groups of METRICS; none: all of them. The share of distinct texts is always there.
        tokenizer: of all metrics but ROUGE and chrF: "13a" is sacrebleu's and the one to report; "none" splits at
            blanks, as papers on dialogue do; "ptb" makes Penn Treebank tokens of the texts, as the references of
            SQuAD question generation are.
        resamples: of the bootstrap; 0: none.

    Returns:
        What is ready for JSON: `sentences` (their number), `systems` ({name: {metric: score}}), `signatures`
        ({metric: how it was computed}), `not_measured` ({group: why}), `warnings` ({name: the line of
        `warn_of_equal_texts`}; none for a system that reads its sources), and, with `resamples`, `against` ({name:
        {metric: {difference, p}}}).

    Raises:
        ValueError: texts and references differ in number, there are none, a metric or tokenizer is unknown, or nothing
            could be measured.
    """
    if not references:
        raise UserError("no references to evaluate against")
    for name, texts in systems.items():
        if len(texts) != len(references):
            raise UserError(f"{name} has {len(texts)} lines, the references {len(references)}: give one text for each reference")
    if tokenizer not in TOKENIZERS:
        raise UserError(f"unknown tokenizer {tokenizer}: choose {', '.join(TOKENIZERS)}")
    for group in metrics:
        if group not in METRICS:
            raise UserError(f"unknown metric {group}: choose {', '.join(METRICS)}")
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
        raise UserError("; ".join(f"{group}: {why}" for group, why in not_measured.items()))
    for name, texts in systems.items():
        scores[name][DISTINCT_TEXTS] = Score(100 * len(set(texts)) / len(texts), "different texts of all, %")
    baseline = next(iter(systems))
    warnings = {name: warning for name, texts in systems.items() if (warning := warn_of_equal_texts(texts, references))}
    report = {
        "sentences": len(references),
        "systems": {name: {metric: score.value for metric, score in found.items()} for name, found in scores.items()},
        "signatures": {metric: score.signature + note for metric, score in scores[baseline].items()},
        "not_measured": not_measured,
        "warnings": warnings,
    }
    if resamples:
        report["baseline"], report["resamples"] = baseline, resamples
        report["against"] = {
            name: _bootstrap(scores[baseline], scores[name], resamples)
            | _bootstrap_corpus(systems[baseline], systems[name], references, list(metrics or METRICS), tokenizer, resamples)
            for name in list(systems)[1:]
        }
    return report


def _rouge(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """ROUGE-1, -2, -L and -Lsum, with a tokenizer of its own: lower-cased, letters and digits alone count.

    rouge_score's tokenizer knows a to z alone. References in another script get one that knows letters, no stemmer.
    """
    words, variant = None, "Porter stemmer"
    if not _is_latin(references):
        words, variant = SimpleNamespace(tokenize=_letters_and_digits), "letters of every script, no stemmer"
    names = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL", "ROUGE-Lsum": "rougeLsum"}
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(list(names.values()), use_stemmer=True, tokenizer=words)
    found = [scorer.score(_sentences(reference), _sentences(text)) for text, reference in zip(hypotheses, references)]
    signature = f"rouge_score {_version('rouge_score')}, F1, {variant}, mean over sentences"
    notes = {"ROUGE-L": ", each text one sentence", "ROUGE-Lsum": ", texts split after '.', as files2rouge's ROUGE-L"}
    return {name: _mean([score[key].fmeasure for score in found], signature + notes.get(name, "")) for name, key in names.items()}


def _is_latin(texts: Sequence[str]) -> bool:
    """Whether at least half of the letters are a to z, which is what ROUGE's own tokenizer knows."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return 2 * sum(map(str.isascii, letters)) >= len(letters)


def _letters_and_digits(text: str) -> list[str]:
    """Words of any script, their vowel signs with them; an ideograph is a word."""
    kept = []
    for letter in unicodedata.normalize("NFKC", text).lower():
        is_ideograph = unicodedata.name(letter, "").startswith("CJK UNIFIED")
        is_kept = unicodedata.category(letter)[0] in "LMN"
        kept.append(f" {letter} " if is_ideograph else letter if is_kept else " ")
    return "".join(kept).split()


def _sentences(text: str) -> str:
    """The text with a line for each sentence."""
    return re.sub(r"(?<=\.) ", "\n", text)


def _questions(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """BLEU-4 and ROUGE-L as the scripts of question generation have them, from image captioning (Chen et al. 2015).

    Lower case, split at blanks, no stemmer. ROUGE-L is F with recall counted beta = 1.2 times as much as precision.
    The scripts pool the references of equal sources; here each text has one.
    """
    bleu = _library("sacrebleu.metrics").BLEU(tokenize=tokenizer, lowercase=True, smooth_method="none", force=True)
    tokens = SimpleNamespace(tokenize=_tokens(tokenizer))
    rouge, values = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=tokens), []
    for hypothesis, reference in zip(hypotheses, references):
        precision, recall, _ = rouge.score(reference, hypothesis)["rougeL"]
        values.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0)
    score = bleu.corpus_score(hypotheses, [references])
    return {
        "QG-BLEU-4": Score(score.score, f"sacrebleu {bleu.get_signature()}"),
        "QG-ROUGE-L": _mean(values, f"F with beta {BETA}, lower case, {tokenizer} tokens, no stemmer, mean over sentences"),
    }


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
    # Four weights, as papers give them: the smoothing of an order looks at the next one.
    weights = {"sentence-BLEU-1": (1, 0, 0, 0), "sentence-BLEU-2": (0.5, 0.5, 0, 0)}
    return {
        name: _mean(
            [bleu.sentence_bleu([reference], hypothesis, weight, smoothing) for reference, hypothesis in pairs],
            f"{signature}, weights {weight}",
        )
        for name, weight in weights.items()
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
        meteor([tokens(reference)], tokens(hypothesis), wordnet=wordnet) for hypothesis, reference in zip(hypotheses, references)
    ]
    signature = (
        f"nltk {_version('nltk')}, lower case, {tokenizer} tokens, mean over sentences; not METEOR 1.5, which papers report"
    )
    return {"METEOR": _mean(values, signature)}


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
    "rouge": _rouge, "bleu": _sacrebleu("bleu"), "chrf": _sacrebleu("chrf"), "questions": _questions,
    "dialogue": _dialogue, "meteor": _meteor, "distinct": _distinct, "faults": _faults,
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
        raise UserError(f"evaluation needs the package {package}: {install_command(package, 'eval')}") from None


def _version(package: str) -> str:
    return metadata.version(package)
