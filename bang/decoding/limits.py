"""How long a text may be, and how long it must: numpy alone, for torch and the runtime alike."""

import numpy as np

from ..errors import UserError


def length_limits(source_lengths: np.ndarray, max_len_a: float, max_len_b: int, max_len: int) -> np.ndarray:
    """Most tokens of each text, eos not counted, (B); in double precision, as fairseq counts for AR.

    Args:
        source_lengths: eos included, (B).
        max_len_a, max_len_b: the limit is `max_len_a` times the source's length plus `max_len_b`, at least 0.
        max_len: limit whatever the source.
    """
    return np.clip((max_len_a * source_lengths.astype(np.float64) + max_len_b).astype(np.int64), 0, max_len)


def least_length(min_len: int, anchored: bool, eos_penalty: float = 0.0) -> int:
    """Tokens before which no eos may be chosen.

    NAR (not `anchored`) needs no masking for the default of 1: its canvas may begin with eos, and the cut skips
    leading eos, so one token is there anyway. An `eos_penalty` below 0 may fill the canvas with eos: then the first slot gives
    another token.
    """
    return min_len if anchored or min_len != 1 or eos_penalty < 0 else 0


def check_lengths(max_len_a: float, max_len_b: int, min_len: int, max_len: int = 0) -> None:
    """Refuses a least length that no text can reach.

    Args:
        max_len: 0: no such limit.

    Raises:
        ValueError: in one line.
    """
    longest = min(max_len_b, max_len or max_len_b)
    if not max_len_a and min_len > longest:
        raise UserError(
            f"--min-len {min_len} is larger than the longest text allowed, {longest} tokens (--max-len-b, --max-nar-length)"
        )
