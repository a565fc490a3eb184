"""What the link does for NAR and semi-NAR: candidates of a checkpoint, weights tuned on validation pairs, test scores.

    python research/link_prototype.py CHECKPOINT DATA FOLDER

DATA holds {train,valid,test}.{src,tgt}, raw. FOLDER keeps candidates and texts, so that a second run is a matter of minutes.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from bang import Bang
from bang.decoding.candidates import Slots, likeliest
from bang.decoding.counting import make_link
from bang.decoding.link import Link, Weights
from bang.decoding.passes import Pass
from bang.decoding.search import PathSearch, Rules, best_paths
from bang.decoding.source_pairs import SourcePairs
from bang.decoding.tune import tune
from bang.generation.session import TorchSession
from bang.text.cleanup import to_text
from bang.text.evaluate import evaluate, read_texts

SLOTS, CANDIDATES, ROWS, MOST = 24, 24, 36, 200
PAD, UNK, EOS = 0, 100, 102


def ids_of(model: Bang, texts: list[str]) -> list[list[int]]:
    return [model._source(text, number, truncate=True).ids[:-1].tolist() for number, text in enumerate(texts)]


def padded(rows: list[list[int]]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([[*row, *[PAD] * (width - len(row))] for row in rows])


def batches(sources: list[list[int]], rows: int = ROWS):
    """Indices of sources of like length."""
    order = np.argsort([len(source) for source in sources], kind="stable")
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def session_of(network, sources: list[list[int]]) -> TorchSession:
    tokens = padded([[*source, EOS] for source in sources])
    lengths = torch.tensor([len(source) + 1 for source in sources])
    return TorchSession([network], torch.from_numpy(tokens), lengths, None, [np.zeros(len(sources))] * 3)


def slots_of(session: TorchSession, step: Pass, count: int = CANDIDATES) -> Slots:
    """Runs a pass; the likeliest tokens of its slots."""
    (decoder,), (cache,) = session.decoders, session.caches
    features, _ = decoder.step(torch.from_numpy(step.tokens), session._sight(step, decoder.buckets), cache)
    log_probs = torch.log_softmax(decoder.output_layer(features).float(), -1).numpy()
    end = log_probs[..., EOS].copy()
    log_probs[..., [PAD, EOS]] = -np.inf
    return Slots(*likeliest(log_probs, count), end)


@torch.inference_mode()
def candidates(network, sources: list[list[int]], path: Path) -> Slots:
    """Of one NAR pass over each source; stored."""
    if not path.exists():
        found = Slots(
            *(
                np.zeros((len(sources), SLOTS, *more), kind)
                for more, kind in [((CANDIDATES,), "i4"), ((CANDIDATES,), "f4"), ((), "f4")]
            )
        )
        for rows in batches(sources, 12):
            nothing = np.zeros(len(rows), dtype=np.int64)
            step = Pass(np.zeros((len(rows), 0), dtype=np.int64), nothing, nothing[:, None] - 1, (SLOTS,), SLOTS - 1)
            for whole, part in zip(found, slots_of(session_of(network, [sources[row] for row in rows]), step)):
                whole[rows] = part
        np.savez(path, **found._asdict())
    with np.load(path) as stored:
        return Slots(*(stored[name][:, :SLOTS] for name in Slots._fields))


def nar(link: Link, weights: Weights, sources: list[list[int]], slots: Slots, rows: int = ROWS) -> tuple[list[list[int]], float]:
    """Tokens of each text, and the seconds of CPU time of the search."""
    found, spent = [[]] * len(sources), 0.0
    for batch in batches(sources, rows):
        part = Slots(
            slots.tokens[batch, :, : weights.candidates], slots.log_probs[batch, :, : weights.candidates], slots.end[batch]
        )
        ones, start = np.ones(len(batch), dtype=np.int64), np.full((len(batch), 1), EOS)
        source = SourcePairs(padded([sources[row] for row in batch]), link.size, (PAD, EOS))
        rules = Rules(ones, ones * (SLOTS - 1), PAD, EOS, UNK)
        began = time.thread_time()
        paths = best_paths(link, source, start, ones, rules, part, weights=weights)
        spent += time.thread_time() - began
        for row, tokens, length in zip(batch, paths.tokens[:, 0], paths.length[:, 0]):
            found[row] = tokens[:length][tokens[:length] != EOS].tolist()
    return found, spent


@torch.inference_mode()
def semi_nar(
    network, link: Link, weights: Weights, sources: list[list[int]], block: int, ahead: int
) -> tuple[list[list[int]], float]:
    """Blocks of the search's paths, from the last kept token on; `ahead` slots are looked at behind a block.

    Returns:
        Tokens of each text, and passes a text.
    """
    found, passes = [[]] * len(sources), 0
    for batch in batches(sources):
        session, row = session_of(network, [sources[row] for row in batch]), np.arange(len(batch))
        source = SourcePairs(padded([sources[row] for row in batch]), link.size, (PAD, EOS))
        text = np.full((len(batch), 1), EOS)
        while len(row):
            passes += len(row)
            kept = text.shape[1]  # in all open rows
            new = 1 if kept == 1 else block
            same = np.full(len(row), kept)
            step = Pass(text[:, -new:], same - new, same[:, None] - 1, (block + ahead,), block + ahead - 1)
            rules = Rules(same * 0 + 1, same * 0 + MOST, PAD, EOS, UNK)
            search = PathSearch(link, source.of(row), text, same, rules, weights=weights)
            search.extend(slots_of(session, step, weights.candidates))
            paths = search.best()
            tokens = paths.tokens[:, 0, :block]
            ended = (tokens == EOS).any(1) | (kept + block > 60)
            for index in ended.nonzero()[0]:
                whole = [*text[index, 1:], *tokens[index]]
                found[batch[row[index]]] = [int(token) for token in whole if token not in (EOS, PAD)]
            alive = (~ended).nonzero()[0]
            row, text = row[alive], np.concatenate([text, tokens], axis=1)[alive]
            session.keep(alive)
    return found, passes / len(sources)


def report(name: str, texts: list[str], references: list[str], **more) -> dict:
    scores = evaluate({"texts": texts}, references, ("rouge",))["systems"]["texts"]
    words = [text.split() for text in texts]
    twice = sum(any(a == b for a, b in zip(row, row[1:])) for row in words) / len(words)
    length = sum(map(len, words)) / sum(len(reference.split()) for reference in references)
    line = {
        "system": name,
        "ROUGE-L": scores["ROUGE-L"],
        "ROUGE-2": scores["ROUGE-2"],
        "a word twice in a row, %": 100 * twice,
        "length": length,
    }
    print(
        json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in (line | more).items()}),
        flush=True,
    )
    return line


def main(checkpoint: str, data: str, folder: str) -> None:
    folder = Path(folder)
    torch.set_num_threads(1)
    model = Bang.load(checkpoint)
    network = model.engine._network
    raw = {part: read_texts(Path(data, part)) for part in ("train.tgt", "valid.src", "valid.tgt", "test.src", "test.tgt")}
    ids = {part: ids_of(model, raw[part]) for part in ("train.tgt", "valid.src", "test.src")}
    slots = {part: candidates(network, ids[f"{part}.src"], folder / f"{part}.npz") for part in ("valid", "test")}

    def text(tokens: list[int]) -> str:
        return to_text(" ".join(model.pieces[token] for token in tokens), keep_repeats=True)

    for mode, options in {"ar": {"beam": 1}, "nar": {}, "semi-nar": {"block_size": 4}}.items():
        stored = folder / f"test.{mode}"
        if not stored.exists():
            stored.write_text("\n".join(model.generate(raw["test.src"], mode=mode, truncate=True, **options)) + "\n")
        report(f"{mode}, no link", read_texts(stored), raw["test.tgt"])
    for order, width, count in ((2, 1, 16), (3, 2, 16), (3, 2, 24)):
        link = make_link(ids["train.tgt"], model.pieces, EOS, order)
        chosen = folder / f"weights{order}-{count}.json"
        if not chosen.exists():

            def score(weights: Weights, link: Link = link) -> float:
                texts = [text(tokens) for tokens in nar(link, weights, ids["valid.src"], slots["valid"])[0]]
                line = report(f"valid, {weights}", texts, raw["valid.tgt"])
                return line["ROUGE-L"] + line["ROUGE-2"] / 2

            best, _ = tune(score, Weights(0.4, 4.0, 0.6, candidates=count, width=width))
            chosen.write_text(json.dumps(asdict(best)))
        weights = Weights(**json.loads(chosen.read_text()))
        for rows in (1, ROWS):
            tokens, spent = nar(link, weights, ids["test.src"], slots["test"], rows)
            report(
                f"nar, order {order}, {count} candidates",
                list(map(text, tokens)),
                raw["test.tgt"],
                weights=str(weights),
                rows=rows,
                search_ms=1e3 * spent / len(tokens),
            )
        for ahead in (0, 2):
            tokens, passes = semi_nar(network, link, weights, ids["test.src"], 4, ahead)
            report(f"semi-nar 4 + {ahead}, order {order}", list(map(text, tokens)), raw["test.tgt"], passes=passes)


if __name__ == "__main__":
    main(*sys.argv[1:])
