"""fairseq's search over our AR: its options, and what of it is mended."""

import math

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints
from support.generation import decode, options

from bang.generation.beam_search import NgramBlocker


def test_limits_by_source_are_kept_in_one_search(golden_model, make_task, pairs, monkeypatch):
    """And each sentence's are those that fairseq's own search has for it alone."""
    settings = dict(beam=3, max_len_a=0.29, max_len_b=1, min_len=7)
    generator = make_task().build_generator([golden_model("mixed")], options(**settings))
    passes = []
    forward = generator.model.forward_decoder
    monkeypatch.setattr(generator.model, "forward_decoder", lambda *args: passes.append(1) or forward(*args))
    (batch,) = pairs("test", 36)
    together = generator.generate(None, batch)
    lengths = batch["net_input"]["src_lengths"]
    assert len(set(lengths.tolist())) > 8 and len(passes) <= int(0.29 * lengths.max() + 1) + 1
    for alone in pairs("test", 1):
        (width,) = alone["net_input"]["src_lengths"].tolist()
        limit = int(0.29 * width + 1)
        plain = SequenceGenerator(
            [golden_model("mixed")], generator.tgt_dict, beam_size=3, max_len_b=limit, min_len=min(7, limit)
        )
        (wanted,) = plain.generate(None, alone)
        found = together[batch["id"].tolist().index(alone["id"].item())]
        assert [hypo["tokens"].tolist() for hypo in found] == [hypo["tokens"].tolist() for hypo in wanted]
        for one, other in zip(found, wanted):
            torch.testing.assert_close(one["positional_scores"], other["positional_scores"], atol=1e-4, rtol=0)


def test_ngram_blocker_by_loops():
    torch.manual_seed(0)
    tokens = torch.randint(5, 9, (12, 20))
    tokens[:, 0] = 2
    for size in (1, 2, 3, 4):
        for step in range(12):
            buffer = tokens.clone()
            buffer[:, step + 1 :] = 0  # fairseq's buffer is padded
            got = NgramBlocker(size)(buffer, torch.zeros(12, 10), 4, 3, step)
            for row in range(12):
                past = tokens[row, : step + 1].tolist()
                seen = {tuple(past[i : i + size]) for i in range(len(past) - size + 1)} - {(2,)}
                banned = {piece for piece in range(10) if tuple(past[len(past) - size + 1 :] + [piece]) in seen}
                assert set(got[row].isinf().nonzero().flatten().tolist()) == (banned if step + 1 >= size else set())


def test_no_repeat_ngram_size_holds(golden_model, make_task, pairs, dictionary):
    model = golden_model("mixed")

    def bigrams_repeat(found):
        texts = [text.split() for _, text, _ in found.values()]
        return [len(set(zip(text, text[1:]))) < len(text) - 1 for text in texts]

    task = make_task()
    free = decode(task.build_generator([model], options(beam=2, min_len=25)), pairs(), dictionary)
    held = decode(task.build_generator([model], options(beam=2, min_len=25, no_repeat_ngram_size=2)), pairs(), dictionary)
    assert any(bigrams_repeat(free)) and not any(bigrams_repeat(held))


def teacher_forced(model, batch, row, tokens):
    """Log-probabilities (T, V) of each next token of a hypothesis, and the attention on the source (T, S)."""
    source = batch["net_input"]["src_tokens"][row : row + 1, -batch["net_input"]["src_lengths"][row] :]  # padded on the left
    before = torch.cat([tokens[-1:], tokens[:-1]])  # eos first
    with torch.no_grad():
        logits, extra = model(source, torch.tensor([source.size(1)]), before[None])
    return logits[0].log_softmax(1), extra["attn"][0]


@pytest.mark.parametrize("search", [{}, {"sampling_topk": 3}, {"sampling_topp": 0.4}])
def test_sampling(search, golden_model, make_task, pairs):
    """Every token is one that may be drawn, has the score that the model gives it, and they are not always the best."""
    torch.manual_seed(1)
    model = golden_model("mixed")
    (batch,) = pairs("test", 36)
    hypos = make_task().build_generator([model], options(beam=2, sampling=True, max_len_b=20, **search)).generate([model], batch)
    ranks = []
    for row, found in enumerate(hypos):
        for hypo in found:
            lprobs, _ = teacher_forced(model, batch, row, hypo["tokens"])
            free = range(min(20, len(hypo["tokens"])))  # the limit forces eos
            own = lprobs[free, hypo["tokens"][list(free)]]
            torch.testing.assert_close(hypo["positional_scores"][list(free)], own, atol=1e-4, rtol=1e-4)
            lprobs[0, hypo["tokens"][-1]] = -math.inf  # no text is empty
            better = lprobs[list(free)] > own[:, None] + 1e-5
            if "sampling_topk" in search:
                assert better.sum(1).max() < 3
            if "sampling_topp" in search:
                assert (lprobs[list(free)].exp() * better).sum(1).max() < 0.4 + 1e-4
            ranks += better.sum(1).tolist()
    assert 0.05 < sum(rank > 0 for rank in ranks) / len(ranks) < 0.95


def beams(search, golden_model, make_task, pairs):
    model = golden_model("mixed")
    (batch,) = pairs("test", 36)
    hypos = make_task().build_generator([model], options(beam=4, **search)).generate([model], batch)
    return batch, [[hypo["tokens"].tolist() for hypo in found] for found in hypos]


def test_diverse_beam_groups(golden_model, make_task, pairs):
    """A penalty that nothing outweighs: more sentences get texts that begin differently."""
    alike = {}
    for groups, strength in ((-1, 0.5), (2, 1e3)):
        _, found = beams({"diverse_beam_groups": groups, "diverse_beam_strength": strength}, golden_model, make_task, pairs)
        alike[groups] = sum(len({tokens[0] for tokens in row}) == 1 for row in found)
    assert alike[2] < alike[-1] < 24


def test_diverse_siblings(golden_model, make_task, pairs):
    """A rate of 0 is plain beam search; a high one keeps the best continuation of each beam alone."""
    plain, none, high = (
        beams(search, golden_model, make_task, pairs)[1] for search in ({}, {"diversity_rate": 0.0}, {"diversity_rate": 100.0})
    )
    assert none == plain
    parents = [[tuple(tokens[:-1]) for tokens in row] for row in high]
    assert all(len(set(row)) == len(row) for row in parents) and high != plain


def test_texts_of_the_source_s_length(golden_model, make_task, pairs):
    batch, found = beams({"match_source_len": True}, golden_model, make_task, pairs)
    for length, row in zip(batch["net_input"]["src_lengths"].tolist(), found):
        assert len(row[0]) - 1 == length <= min(len(tokens) - 1 for tokens in row)  # and eos


def test_prefix(golden_model, make_task, pairs):
    (batch,) = pairs("test", 36)
    generator = make_task().build_generator([golden_model("mixed")], options(beam=3))
    hypos = generator.generate(None, batch, prefix_tokens=batch["target"][:, :2])
    for target, row in zip(batch["target"], hypos):
        assert torch.equal(row[0]["tokens"][:2], target[:2])


def test_alignments(golden_model, make_task, pairs):
    """Each target token with the source token, eos apart, that the last layer attends to most."""
    model = golden_model("mixed")
    model.make_generation_fast_(need_attn=True)
    (batch,) = pairs("test", 36)
    hypos = make_task().build_generator([model], options(beam=2, print_alignment="hard")).generate([model], batch)
    for row, found in enumerate(hypos):
        for hypo in found:
            _, attention = teacher_forced(model, batch, row, hypo["tokens"])
            attention = attention[0] if attention.dim() == 3 else attention
            expected = [(int(weights[:-1].argmax()), t) for t, weights in enumerate(attention[:-1])]
            assert [tuple(map(int, pair)) for pair in hypo["alignment"]] == expected
    assert len({pair[0] for found in hypos for pair in found[0]["alignment"]}) > 3


def test_a_least_length_holds_beside_a_longer_prefix(golden_model, make_task, pairs):
    """A row whose own prefix is shorter, or has none, is decoded as if alone."""
    (batch,) = pairs("test", 36)
    generator = make_task().build_generator([golden_model("mixed")], options(beam=2, min_len=6, max_len_b=20))
    prefix = batch["target"][:, :5].clone()
    prefix[1::2] = generator.pad
    prefix[2::4, 1:] = generator.pad
    prefix[prefix == generator.eos] = generator.pad
    together = generator.generate(None, batch, prefix_tokens=prefix)
    assert min(len(hypo["tokens"]) for row in together for hypo in row) >= 6 + 1
    for row in (1, 2):
        alone = {
            **batch,
            "id": batch["id"][row : row + 1],
            "net_input": {k: v[row : row + 1] for k, v in batch["net_input"].items()},
        }
        (found,) = generator.generate(None, alone, prefix_tokens=prefix[row : row + 1])
        assert [hypo["tokens"].tolist() for hypo in found] == [hypo["tokens"].tolist() for hypo in together[row]]


@pytest.mark.parametrize("decoding", ["ar", "nar", "semi-nar", "speculative"])
def test_a_limit_below_nothing_is_nothing(decoding, golden_model, make_task, pairs):
    (batch,) = pairs("test", 36)
    generator = make_task(decoding=decoding).build_generator(
        [golden_model("mixed")], options(beam=1, max_len_a=0.1, max_len_b=-20)
    )
    assert [[hypo["tokens"].tolist() for hypo in row] for row in generator.generate(None, batch)] == [
        [[generator.eos if decoding == "ar" else generator.chooser.eos]]
    ] * 24


@pytest.mark.parametrize("kind", ["ordered", "unordered"])
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_constraints_that_a_limit_has_no_room_for(kind, beam, golden_model, make_task, pairs, caplog):
    """The others keep to theirs; a text that has room keeps to its own."""
    (batch,) = pairs("test", 4)[:1]
    generator = make_task().build_generator([golden_model("mixed")], options(beam=beam, max_len_b=6, constraints=kind))
    phrases = [[[200, 201, 202, 203, 204, 205, 206]], [[300]], [], [[310, 311], [312, 313], [314, 315], [316, 317]]]
    packed = pack_constraints([[torch.tensor(phrase) for phrase in row] for row in phrases])
    found = generator.generate(None, batch, constraints=packed)
    assert all(row and len(row[0]["tokens"]) <= 7 for row in found) and 300 in found[1][0]["tokens"].tolist()
    told = [record.getMessage() for record in caplog.records if "ends without all of its own" in record.getMessage()]
    assert len(told) == 2 and told[0].startswith(f"--constraints: the text of sentence {batch['id'][0]} ends")
    with pytest.raises(ValueError, match="^--constraints: there are none; fairseq-interactive reads them behind a tab"):
        generator.generate(None, batch)
