"""The hypotheses of a fairseq-generate or fairseq-interactive log, in the order of the input."""

import re

from . import files

# Searched for, not matched at the start of a line: what a progress bar wrote may stand before it.
# Texts hold no tab, so nothing else looks like this.
_RECORD = re.compile(r"([SH])-(\d+)\t([^\t]*)\t?(.*)")


def read_log(log: str) -> tuple[dict[int, str], int]:
    """Reads the best hypothesis of each sentence.

    Args:
        log: what fairseq-generate or fairseq-interactive printed in one run.

    Returns:
        Hypotheses by sentence id, and one more than the highest id of a source or a hypothesis.

    Raises:
        ValueError: no hypothesis in the log, or more than one run.
    """
    hypotheses: dict[int, str] = {}
    sources: set[int] = set()
    for number, line in enumerate(files.read_lines(log), start=1):
        record = _RECORD.search(line)
        if record is None:
            continue
        kind, sentence, text = record[1], int(record[2]), record[4]
        if kind == "H":
            hypotheses.setdefault(sentence, text)  # the first of --nbest is the best
        elif sentence in sources:
            raise ValueError(
                f"{log}, line {number}: source S-{sentence} for the second time: "
                "keep one run, of one --gen-subset, in a log"
            )
        else:
            sources.add(sentence)
    if not hypotheses:
        raise ValueError(
            f"{log}: no hypothesis, which would be a line 'H-<id><tab><score><tab><text>': "
            "give the output of fairseq-generate or fairseq-interactive, run without --quiet"
        )
    return hypotheses, max(sources | hypotheses.keys()) + 1


def collect(
    log: str, output: str, total: int | None = None, source: str | None = None, fill: str | None = None
) -> tuple[int, int]:
    """Writes the hypotheses of a log, one line a sentence.

    Args:
        log: see `read_log`.
        output: the file to write.
        total: how many sentences the input has; None: as many as the highest id in the log asks for.
        source: the tokenized input, whose lines are counted in place of `total`.
        fill: a file whose lines, the references for instance, stand in for hypotheses that are missing or empty.

    Returns:
        How many lines were written, and how many of them for lack of a hypothesis are empty or filled.

    Raises:
        ValueError: see `read_log`; also more sentences in the log than in the input, or not as many lines in `fill`.
    """
    inputs = [path for path in (log, source, fill) if path is not None]
    files.refuse_overwriting(output, inputs)
    hypotheses, seen = read_log(log)
    if source is not None:
        total = sum(1 for _ in files.read_lines(source))
    if total is None:
        total = seen
    elif seen > total:
        asked = f"--total says {total}" if source is None else f"{source} has {total}"
        raise ValueError(f"{log}: sentence {seen - 1} (ids start at 0), but {asked}: they do not belong together")
    if fill is not None:
        hypotheses = {sentence: text for sentence, text in hypotheses.items() if text.strip()}
        others = list(files.read_lines(fill))
        if len(others) != total:
            raise ValueError(f"{fill} has {len(others)} lines for {total} sentences: give one for each")
    with files.replacing(output) as file:
        for sentence in range(total):
            file.write(f"{hypotheses.get(sentence, '' if fill is None else others[sentence])}\n".encode())
    return total, total - len(hypotheses)
