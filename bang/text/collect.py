"""The hypotheses of a fairseq-generate or fairseq-interactive log, in the order of the input."""

import contextlib
import os
import re
from collections.abc import Callable, Sequence

from ..errors import UserError
from . import files

# Searched for, not matched at the start of a line: what a progress bar wrote may stand before it.
# Texts hold no tab, so nothing else looks like this.
_RECORD = re.compile(r"([SH])-(\d+)\t([^\t]*)\t?(.*)")


def read_log(log: str) -> tuple[dict[int, list[str]], int]:
    """Reads the hypotheses of each sentence.

    Args:
        log: what fairseq-generate or fairseq-interactive printed in one run.

    Returns:
        Hypotheses by sentence id, the best first, and one more than the highest id of a source or a hypothesis.

    Raises:
        ValueError: no hypothesis in the log, or more than one run.
    """
    hypotheses: dict[int, list[str]] = {}
    sources: set[int] = set()
    for number, line in enumerate(files.read_lines(log), start=1):
        record = _RECORD.search(line)
        if record is None:
            continue
        kind, sentence, text = record[1], int(record[2]), record[4]
        if kind == "H":
            hypotheses.setdefault(sentence, []).append(text)
        elif sentence in sources:
            raise UserError(
                f"{log}, line {number}: source S-{sentence} for the second time: keep one run, of one --gen-subset, in a log"
            )
        else:
            sources.add(sentence)
    if not hypotheses:
        raise UserError(
            f"{log}: no hypothesis, which would be a line 'H-<id><tab><score><tab><text>': "
            "give the output of fairseq-generate or fairseq-interactive, run without --quiet"
        )
    return hypotheses, max(sources | hypotheses.keys()) + 1


def make_closest() -> Callable[[Sequence[str], str], str]:
    """What finds the text nearest to a reference, of equals the first.

    Nearest by BLEU of the sentence over what stands between blanks (word pieces are words here), n-gram counts smoothed
    by one (Lin and Och 2004), as Kim and Rush 2016 choose. Unlike ROUGE's F1 it does not prefer the shortest.
    """
    from sacrebleu.metrics import BLEU  # fairseq brings it

    bleu = BLEU(tokenize="none", smooth_method="add-k", smooth_value=1, effective_order=True)
    return lambda texts, reference: max(texts, key=lambda text: bleu.sentence_score(text, [reference]).score)


def collect(
    log: str,
    output: str,
    total: int | None = None,
    source: str | None = None,
    fill: str | None = None,
    closest_to: str | None = None,
    pairs: str | None = None,
) -> tuple[int, int, int]:
    """Writes the hypotheses of a log, one line a sentence.

    Args:
        log: see `read_log`.
        output: the file to write.
        total: how many sentences the input has; None: as many as the highest id in the log asks for.
        source: the tokenized input, whose lines are counted in place of `total`.
        fill: a file whose lines, the references for instance, stand in for hypotheses that are missing or empty.
        closest_to: the tokenized references: of a sentence's hypotheses (fairseq-generate's --nbest) the one nearest
            to its line by BLEU is taken, not the likeliest; the likeliest where the line is empty.
        pairs: a file for the lines of `source` that have a text, as many as `output` then has: a sentence without a
            hypothesis, which `fill` does not fill, is left out of both.

    Returns:
        How many sentences there are, how many of them for lack of a hypothesis are empty or filled, and how many are
        left out.

    Raises:
        ValueError: see `read_log`; also more sentences in the log than in the input, not as many lines in `fill` or
            `closest_to`, or `pairs` without `source`.
    """
    inputs = [path for path in (log, source, fill, closest_to) if path is not None]
    files.refuse_overwriting(output, inputs)
    if pairs is not None:
        if source is None:
            raise UserError("--pairs FILE takes its lines from --source FILE: give it too")
        files.refuse_overwriting(pairs, inputs)
        if os.path.realpath(pairs) == os.path.realpath(output):
            raise UserError(f"--pairs {pairs} is where the hypotheses go: choose another file")
    found, seen = read_log(log)
    if source is not None:
        total = sum(1 for _ in files.read_lines(source))
    if total is None:
        total = seen
    elif seen > total:
        asked = f"--total says {total}" if source is None else f"{source} has {total}"
        raise UserError(f"{log}: sentence {seen - 1} (ids start at 0), but {asked}: they do not belong together")
    others, references = _read_beside(fill, total), _read_beside(closest_to, total)
    closest = make_closest() if references else None
    missing = left_out = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(files.replacing(output))
        kept = None if pairs is None else stack.enter_context(files.replacing(pairs))
        for sentence, line in enumerate(range(total) if source is None else files.read_lines(source)):
            texts = found.get(sentence, [])
            reference = references[sentence] if references else ""
            text = closest(texts, reference) if closest and texts and reference.strip() else "".join(texts[:1])
            if fill is None:
                missing += not texts
            elif not text.strip():
                missing += 1
                text = others[sentence]
            if kept is not None:
                if not text.strip():
                    left_out += 1
                    continue
                kept.write(f"{line}\n".encode())
            file.write(f"{text}\n".encode())
    return total, missing, left_out


def _read_beside(path: str | None, total: int) -> list[str]:
    """The lines of a file that has one for each sentence; none without a file."""
    lines = [] if path is None else list(files.read_lines(path))
    if path is not None and len(lines) != total:
        raise UserError(f"{path} has {len(lines)} lines for {total} sentences: give one for each")
    return lines
