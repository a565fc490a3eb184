"""`bang serve` under load: many clients at once against one, and a soak with wrong requests mixed in.

    python benchmarks/serving.py MODEL DATA
    python benchmarks/serving.py MODEL DATA --minutes 30

MODEL is a folder of `bang export`; DATA holds raw texts, test.src. The service is a process of its own, the clients are threads
of this one. Every answer is compared with what `Bang.generate` gives of its text alone. One client and many take turns, --rounds
times. The soak's clients use every mode; one request in ten is wrong and must get its own status. Writes serving.json and a
table, serving.md, into --out.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from report import cpu_name, versions, write_results  # noqa: E402

from bang import Bang  # noqa: E402
from bang.errors import exit_on_mistakes  # noqa: E402
from bang.text.files import read_lines  # noqa: E402

SPEED_UP, TAIL, GROWTH = 1.5, 4.0, 0.5
"""Targets: sentences a second against one client's; p99 over p50; most MB a minute that the soak's memory may grow."""

MODES = {"nar": dict(mode="nar"), "semi-nar": dict(mode="semi-nar"), "ar greedy": dict(mode="ar", beam=1),
         "ar beam": dict(mode="ar", beam=4), "speculative": dict(mode="speculative")}  # fmt: skip

WRONG = [
    ({"texts": ["a text", 5], "mode": "nar"}, 400),
    ({"texts": "a text", "mode": "nar", "block_size": 4}, 400),
    ({"texts": "a text", "beams": 4}, 400),
    ({"texts": "a b " * 2000, "mode": "nar"}, 413),
    ({"texts": ["a text"] * 1000, "mode": "nar"}, 413),
    (b'{"texts": "a te', 400),
    (b'{"texts": "' + b"a" * 2_000_000 + b'"}', 413),
]
"""Requests that must fail, and their status."""


class Answer(NamedTuple):
    """What came of a request.

    Attributes:
        kind: what was asked.
        seconds: that it took.
        verdict: "right", "mixed up" (another answer than the one expected) or "lost" (none).
    """

    kind: str
    seconds: float
    verdict: str


@contextlib.contextmanager
def service(model: str, *options: str) -> Iterator[str]:
    """The address of `bang serve`, in a process of its own."""
    command = [sys.executable, "-m", "bang", "serve", model, "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()
            if not address:
                sys.exit("the service did not start")
            yield address[0]
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0, process.returncode


class Client:
    """One connection, opened anew where it was lost."""

    def __init__(self, address: str):
        self._place = urlsplit(address).netloc
        self._connection = http.client.HTTPConnection(self._place, timeout=120)

    def post(self, body: dict | bytes) -> tuple[int, object]:
        """Status and JSON of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request("POST", "/generate", content, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def get(self, path: str) -> str:
        """The page's text."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()


Request = tuple[str, dict | bytes, Callable[[int, object], bool]]
"""What is asked, its body, and whether status and answer are the ones expected."""


def load(address: str, clients: int, requests: Iterator[Request]) -> list[Answer]:
    """The answers to requests that so many clients send, each its next one when it has an answer."""
    lock, answers = threading.Lock(), []

    def send() -> None:
        client = Client(address)
        while True:
            with lock:
                request = next(requests, None)
            if request is None:
                return
            kind, body, is_right = request
            start = time.perf_counter()
            try:
                verdict = "right" if is_right(*client.post(body)) else "mixed up"
            except (OSError, http.client.HTTPException, ValueError):
                verdict, client = "lost", Client(address)
            answers.append(Answer(kind, time.perf_counter() - start, verdict))

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def right(mode: str, text: str, expected: str) -> Request:
    """A request and its text."""
    wanted = lambda status, answer: status == 200 and isinstance(answer, dict) and answer["text"] == expected
    return mode, {"texts": text, **MODES[mode]}, wanted


def wrong(body: dict | bytes, status: int) -> Request:
    """A request that must fail."""
    return "wrong", body, lambda found, answer: found == status and isinstance(answer, dict) and list(answer) == ["error"]


def speed(address: str, texts: list[str], expected: list[str], clients: int, count: int, rounds: int) -> dict:
    """One client and many, NAR, in turns; the median of the rounds."""
    rows: dict[int, list] = {1: [], clients: []}
    for _, many in itertools.product(range(rounds), rows):
        pairs = itertools.islice(itertools.cycle(zip(texts, expected)), count if many > 1 else max(count // 4, 1))
        start = time.perf_counter()
        answers = load(address, many, (right("nar", *pair) for pair in pairs))
        took = time.perf_counter() - start
        assert all(answer.verdict == "right" for answer in answers), Counter(answer.verdict for answer in answers)
        p50, p99 = np.percentile([answer.seconds for answer in answers], [50, 99])
        rows[many].append((len(answers) / took, 1000 * p50, 1000 * p99, p99 / p50))
    found = {many: np.median(row, axis=0).round(2).tolist() for many, row in rows.items()}
    ratios = [of_many[0] / of_one[0] for of_one, of_many in zip(rows[1], rows[clients])]
    names = ("sentences_per_second", "p50_ms", "p99_ms", "p99_over_p50")
    return {
        "clients": {many: dict(zip(names, values)) for many, values in found.items()},
        "requests": count,
        "speed_up": round(float(np.median(ratios)), 2),
        "speed_up_of_rounds": [round(ratio, 2) for ratio in ratios],
    }


def soak(address: str, expected: dict[str, dict[str, str]], clients: int, minutes: float) -> dict:
    """Every mode and wrong requests, for so long.

    Args:
        expected: texts by source, by mode.
    """
    end = time.monotonic() + 60 * minutes
    numbers = np.random.default_rng(1)
    modes, texts = list(expected), list(next(iter(expected.values())))

    def requests() -> Iterator[Request]:
        for number in itertools.count():
            if time.monotonic() > end:
                return
            if number % 10 == 9:
                yield wrong(*WRONG[number // 10 % len(WRONG)])
            else:
                mode, text = modes[numbers.integers(len(modes))], texts[numbers.integers(len(texts))]
                yield right(mode, text, expected[mode][text])

    memory: list[tuple[float, float]] = []
    ended = threading.Event()

    def watch() -> None:
        start = time.monotonic()
        while not ended.wait(min(5, 2 * minutes)):
            found = re.search(r"^process_resident_memory_bytes (\S+)", Client(address).get("/metrics"), flags=re.M)
            assert found is not None
            memory.append(((time.monotonic() - start) / 60, float(found[1]) / 1e6))

    watcher = threading.Thread(target=watch)
    watcher.start()
    answers = load(address, clients, requests())
    ended.set()
    watcher.join()
    steady = memory[len(memory) // 3 :]  # the first third warms up
    slope = float(np.polyfit(*zip(*steady), 1)[0]) if len(steady) > 2 else float("nan")
    return {
        "minutes": minutes,
        "answers": dict(Counter(answer.kind for answer in answers)),
        "verdicts": {"right": 0, "lost": 0, "mixed up": 0, **Counter(answer.verdict for answer in answers)},
        "memory_mb": [round(megabytes, 1) for _, megabytes in memory],
        "growth_mb_per_minute": round(slope, 3),
    }


def table(report: dict) -> str:
    """Markdown, with the targets."""
    speeds = report["speed"]
    row = "| {} | {:.1f} | {:.0f} | {:.0f} | {:.1f} |"
    lines = [
        f"NAR, {speeds['requests']} requests a round, the median of {len(speeds['speed_up_of_rounds'])} rounds; "
        f"{report['cpu']}, {report['cores']} cores, load {report['load_before']:.1f} before the run.", "",
        "| clients | sentences/s | p50, ms | p99, ms | p99 / p50 |", "| --- | --- | --- | --- | --- |",
        *(row.format(many, *values.values()) for many, values in speeds["clients"].items()), "",
        "| | target | found |", "| --- | --- | --- |",
        f"| times the sentences a second of one client | {SPEED_UP} | {speeds['speed_up']} |",
        f"| p99 / p50 of many clients | under {TAIL:.0f} | {list(speeds['clients'].values())[1]['p99_over_p50']} |",
    ]  # fmt: skip
    if "soak" in report:
        found, verdicts = report["soak"], report["soak"]["verdicts"]
        answers, wrong_ones = sum(found["answers"].values()), found["answers"].get("wrong", 0)
        asked = f"soak of {found['minutes']:g} minutes, {answers} requests, {wrong_ones} of them wrong"
        lines += [
            f"| {asked}: lost | 0 | {verdicts['lost']} |",
            f"| mixed up | 0 | {verdicts['mixed up']} |",
            f"| memory after the first third, MB a minute | under {GROWTH} | {found['growth_mb_per_minute']:.2f} |",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=400, help="of many clients, in a round; a quarter of them of one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0, help="of the soak")
    parser.add_argument("--texts", type=int, default=100, help="different ones")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="further options of bang serve")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    args = parser.parse_args()
    with exit_on_mistakes("serving.py"):
        texts = list(dict.fromkeys(itertools.islice(read_lines(args.data / "test.src"), args.texts)))
        model = Bang.load(args.model)
        used = MODES if args.minutes else {"nar": MODES["nar"]}
        expected = {mode: {text: model.generate(text, **options) for text in texts} for mode, options in used.items()}
        del model
    report = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "versions": versions("onnxruntime", "starlette", "uvicorn"),
    }
    with service(args.model, *args.serve.split()) as address:
        report["speed"] = speed(address, texts, list(expected["nar"].values()), args.clients, args.requests, args.rounds)
        if args.minutes:
            report["soak"] = soak(address, expected, args.clients, args.minutes)
        counted = Client(address).get("/metrics")
    rows = {name: float(value) for name, value in re.findall(r"^bang_batch_texts_(sum|count) (\S+)$", counted, flags=re.M)}
    report["texts_per_batch"] = round(rows["sum"] / rows["count"], 2)
    write_results(args.out, "serving", report, table(report))


if __name__ == "__main__":
    main()
