"""The n-gram link against slow counts in plain Python; its file, whole and damaged."""

import math
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bang.decoding.counting import make_link
from bang.decoding.link import UNIT, Link, Weights, vocabulary_of

EOS, SIZE = 2, 9
PIECES = [f"piece{number}" for number in range(SIZE)]
TOKENS = st.integers(3, SIZE - 1)
TEXTS = st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=6)
ROUNDING = 1.6 / UNIT  # up to three numbers, each off by half a unit


def slow_model(texts, others=(), share=0.1):
    """p(y | context) of Witten-Bell, by dictionaries: a function of a context, the shorter ones included."""
    counts = defaultdict(Counter)
    for of_kind, worth in ((texts, 1), (others, share)):
        for text in of_kind:
            row = [EOS, *text, EOS]
            for at in range(1, len(row)):
                for width in range(min(at, 2) + 1):
                    counts[tuple(row[at - width : at])][row[at]] += worth

    def p(token, context):
        seen = counts[context]
        shorter = p(token, context[1:]) if context else 1 / SIZE
        kinds = sum(min(count, 1) for count in seen.values()) if context else len(seen)
        return (seen[token] + kinds * shorter) / (sum(seen.values()) + kinds) if seen else shorter

    return p


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS | st.just([]), st.sampled_from([2, 3]), st.lists(TOKENS | st.just(EOS), min_size=0, max_size=3))
def test_probabilities_are_those_of_a_slow_count(texts, others, order, context):
    link, p = make_link(texts, PIECES, EOS, order, threshold=0, others=others), slow_model(texts, others)
    if EOS in context[1:]:
        context = context[:1]  # eos is a context at the start of a text alone
    expected = [math.log(p(token, tuple(context[len(context) - min(len(context), order - 1) :]))) for token in range(SIZE)]
    np.testing.assert_allclose(link.log_probs(context), expected, rtol=0, atol=ROUNDING)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.sampled_from([2, 3]), st.integers(1, 3), st.lists(TOKENS | st.just(EOS), min_size=0, max_size=2))
def test_probabilities_sum_to_one_whatever_the_threshold_drops(texts, order, threshold, context):
    link = make_link(texts, PIECES, EOS, order, threshold)
    assert math.isclose(np.exp(link.log_probs(context)).sum(), 1, abs_tol=ROUNDING)


def test_a_threshold_says_what_it_drops():
    texts = [[3, 4, 5], [3, 4, 6]]
    whole, cut = make_link(texts, PIECES, EOS), make_link(texts, PIECES, EOS, threshold=2)
    assert (whole.dropped, len(whole.keys2), len(whole.keys3)) == (0, 6, 5)
    assert (cut.dropped, len(cut.keys2), len(cut.keys3)) == (4 + 2, 2, 1)  # kept: eos 3, 3 4; eos 3 4
    assert cut.keys2.tolist() == [EOS * SIZE + 3, 3 * SIZE + 4]


def test_texts_of_another_kind_count_their_share():
    link = make_link([[3, 4]], PIECES, EOS, others=[[3, 5]], share=0.1, threshold=0)
    assert link.log_probs([3])[4] > link.log_probs([3])[5] > link.log_probs([3])[6]


def test_eos_within_a_text_is_passed_over():
    a, b = make_link([[3, EOS, 4], [EOS]], PIECES, EOS), make_link([[3, 4]], PIECES, EOS)
    assert a.keys3.tolist() == b.keys3.tolist() and a.ratios2.tolist() == b.ratios2.tolist()


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ([], {}, "no text"),
        ([[]], {}, "no text"),
        ([[SIZE]], {}, f"id {SIZE} is outside the vocabulary of {SIZE}"),
        ([[-1]], {}, "id -1 is outside"),
        ([[3]], {"order": 4}, "order=4"),
        ([[3]], {"share": 0}, "share=0"),
    ],
)
def test_what_no_link_is_made_of(texts, options, message):
    with pytest.raises(ValueError, match=message):
        make_link(texts, PIECES, EOS, **options)


@pytest.mark.parametrize(
    "option, value", [("weight", math.nan), ("gain", "2"), ("candidates", 0), ("width", 1.5), ("bonus", True)]
)
def test_weights_are_checked(option, value):
    with pytest.raises(ValueError, match=f"{option}="):
        Weights(**{option: value})


LINK = make_link([[3, 4, 5, 3, 4], [6, 3, 4], [7]], PIECES, EOS, weights=Weights(0.7, 3.0, 0.6, 1.5, 12, 2))


@pytest.fixture()
def saved(tmp_path):
    path = tmp_path / "link"
    LINK.save(path)
    return path


@pytest.mark.parametrize("link", [LINK, make_link([[3, 4]], PIECES, EOS, order=2)], ids=["order 3", "order 2"])
def test_a_file_holds_all_of_a_link(link, tmp_path):
    link.save(tmp_path / "link")
    loaded = Link.load(tmp_path / "link", PIECES)
    for name, value in vars(link).items():
        other = getattr(loaded, name)
        if isinstance(value, np.ndarray):
            assert other.dtype == value.dtype and other.tolist() == value.tolist(), name
        else:
            assert other == value, name
    with pytest.raises(ValueError, match="read-only"):
        loaded.keys2[0] = 0


def test_a_file_is_mapped_not_read(saved):
    array = Link.load(saved).keys2
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)
    assert Link.load(saved).keys3.ctypes.data % 64 == 0


def test_the_same_texts_give_the_same_file(saved, tmp_path):
    LINK.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_damage_is_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("link") / "link"
    LINK.save(path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [whole[:at], whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :], whole + b"x"]
        )
    )
    path.write_bytes(damaged)
    with pytest.raises(ValueError) as error:
        Link.load(path)
    assert str(path) in str(error.value) and "bang link" in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_link_of_ours(saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole.replace(b"link 1 ", b"link 2 ", 1))
    with pytest.raises(ValueError, match="of format 2, and this version of bang reads format 1"):
        Link.load(saved)
    saved.write_bytes(whole)
    with pytest.raises(ValueError, match="another vocabulary .9 pieces, the model has 8"):
        Link.load(saved, PIECES[:-1])
    with pytest.raises(ValueError, match="another vocabulary"):
        Link.load(saved, PIECES[::-1])
    assert vocabulary_of(PIECES) != vocabulary_of(PIECES[::-1])
    with pytest.raises(FileNotFoundError):
        Link.load(saved.with_name("none"))


@pytest.mark.parametrize(
    "change",
    [{"order": 4}, {"eos": SIZE}, {"size": SIZE + 1}, {"lengths": [0] * 7}, {"lengths": None}, {"weights": {"x": 1}}],
)
def test_a_right_checksum_excuses_nothing(saved, change):
    """What a stranger's program wrote is refused where it would be looked up out of bounds."""
    import hashlib
    import json

    first, second, rest = saved.read_bytes().split(b"\n", 2)
    second = json.dumps(json.loads(second) | change).encode()
    body = second + b" " * (-(len(first) + 1 + len(second) + 1) % 64) + b"\n" + rest
    saved.write_bytes(b"bang link 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(ValueError, match="is no link that this version of bang reads"):
        Link.load(saved)


@pytest.mark.parametrize("order", [2, 3])
def test_an_ngram_takes_ten_bytes(order, tmp_path):
    random = np.random.default_rng(0)
    pieces = [str(number) for number in range(30522)]
    texts = (random.zipf(1.25, (8_000, 10)) % 30_000 + 103).tolist()
    link = make_link(texts, pieces, 102, order)
    link.save(tmp_path / "link")
    ngrams, of_vocabulary, head = len(link.keys2) + len(link.keys3), 6 * len(pieces), 1000
    assert ngrams > 20_000
    assert (tmp_path / "link").stat().st_size <= 10 * ngrams + of_vocabulary + head


def test_larger_vocabularies_have_longer_keys(tmp_path):
    pieces = [str(number) for number in range(70_000)]
    link = make_link([[69_999, 69_998, 3], [69_999, 69_998]], pieces, EOS)
    link.save(tmp_path / "link")
    link = Link.load(tmp_path / "link", pieces)
    assert link.keys2.dtype == np.uint64
    assert link.log_probs([69_999]).argmax() == 69_998
    assert link.log_probs([69_999, 69_998])[3] > link.log_probs([69_999, 69_998])[4]


def test_numpy_alone_is_imported():
    code = "import bang.decoding.search, sys; assert not {'torch', 'fairseq', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
