"""The service of `bang serve`: a real server and a real HTTP client."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn
from conftest import GOLDEN, ROOT, TEXTS, VOCAB_SMALL
from prometheus_client import parser
from support.pages import DOCS, blocks

from bang import Bang
from bang.__main__ import main
from bang.inference.api import Generation
from bang.modes import MODES
from bang.options import DESCRIBED
from bang.serving import app, server
from bang.serving.app import Service
from bang.serving.openapi import EXAMPLE
from bang.serving.requests import Limits

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
LIMITS = Limits(body=20_000, texts=8, requests=6, hypotheses=8)
OPTIONS = {
    "ar": dict(mode="ar", beam=1, max_len=12),
    "beam": dict(mode="ar", beam=3, max_len=12, no_repeat_ngram_size=2),
    "semi-nar": dict(mode="semi-nar", block_size=3, max_len=20),
    "nar": dict(mode="nar"),
    "nar, longer": dict(mode="nar", eos_penalty=1.5, drop_repeats=False, truncate=True),
    "speculative": dict(mode="speculative", draft_length=2, max_len=12),
}


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def serving(model, limits=LIMITS, guarded=True, wait=0.01, names=()):
    """The address of a service in a thread of this process, and its `Service`."""
    model = Bang(model.engine, model.pieces, model.defaults)  # the service changes its engine
    service = Service(model, limits, rows=8, wait=wait, version="1")
    with server.listen("127.0.0.1", 0) as bound:
        running = uvicorn.Server(server._config(service, bound, guarded, names))
        thread = threading.Thread(target=running.run, args=([bound],))
        thread.start()
        try:
            wait_until(lambda: running.started)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", service
        finally:
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def expected(model):
    """What the model generates of each text with each of OPTIONS, as JSON."""
    return {name: [plain(found) for found in model.generate(TEXTS, details=True, **options)] for name, options in OPTIONS.items()}


@pytest.fixture(scope="module")
def service(model):
    with serving(model) as started:
        yield started


@pytest.fixture
def client(service):
    with httpx.Client(base_url=service[0], timeout=60) as opened:
        yield opened


def plain(generation):
    return json.loads(json.dumps(dataclasses.asdict(generation)))


def same(found, wanted):
    """Equal but for the last digits of scores: another batch sums in another order."""
    scores = ("score", "piece_scores")
    assert {k: v for k, v in found.items() if k not in scores} == {k: v for k, v in wanted.items() if k not in scores}
    assert [found["score"], *found["piece_scores"]] == pytest.approx([wanted["score"], *wanted["piece_scores"]], abs=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_text_and_a_list(name, client, expected):
    one = client.post("/generate", json={"texts": TEXTS[0], **OPTIONS[name]})
    assert one.status_code == 200 and one.headers["content-type"] == "application/json"
    same(one.json(), expected[name][0])
    several = client.post("/generate", json={"texts": TEXTS[:4], **OPTIONS[name]}).json()
    for found, wanted in zip(several, expected[name][:4], strict=True):
        same(found, wanted)


@pytest.fixture
def patient_client(model):
    """Of a service that waits so long for a batch that requests sent at once meet in one."""
    with serving(model, wait=0.2) as (address, _), httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


def test_requests_at_once_get_their_own_answers_and_wrong_ones_fail_alone(patient_client, expected):
    client = patient_client
    before = metrics(client)
    wrong = {"mode": "nar", "texts": ["a", 5]}

    def post(number):
        name = list(OPTIONS)[number % len(OPTIONS)]
        body = wrong if number % 7 == 3 else {"texts": TEXTS[number % len(TEXTS)], **OPTIONS[name]}
        return number, name, client.post("/generate", json=body)

    with ThreadPoolExecutor(LIMITS.requests) as pool:
        for number, name, answer in pool.map(post, range(60)):
            if number % 7 == 3:
                assert answer.status_code == 400
                assert answer.json() == {"error": "text 2 is no text but of type int: give str"}
            else:
                same(answer.json(), expected[name][number % len(TEXTS)])
    after = metrics(client)
    wrong_ones = len([number for number in range(60) if number % 7 == 3])
    assert after[("bang_requests_total", "200")] - before[("bang_requests_total", "200")] == 60 - wrong_ones
    assert after[("bang_requests_total", "400")] - before[("bang_requests_total", "400")] == wrong_ones
    served, texts = ("bang_batch_texts_count", ""), ("bang_batch_texts_sum", "")
    assert after[texts] - before[texts] == 60 - wrong_ones  # none of a wrong request
    assert after[served] - before[served] < 60 - wrong_ones  # several went together


def metrics(client):
    """Samples by name and label."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    families = parser.text_string_to_metric_families(answer.text)
    found = {(sample.name, "".join(sample.labels.values())): sample.value for family in families for sample in family.samples}
    return {("bang_requests_total", "200"): 0, ("bang_requests_total", "400"): 0, **found}


def test_metrics(client, expected):
    before = metrics(client)
    generated = client.post("/generate", json={"texts": TEXTS[0], **OPTIONS["nar"]}).json()
    after = metrics(client)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown[("bang_tokens_total", "generated")] == len(generated["pieces"]) > 0
    assert grown[("bang_tokens_total", "source")] > 0 and grown[("bang_request_seconds_count", "")] == 1
    assert grown[("bang_request_seconds_bucket", "+Inf")] == 1 and grown[("bang_active_requests", "")] == 0
    assert after[("process_resident_memory_bytes", "")] > 1e6


def test_health(client):
    assert client.get("/health").json() == {"status": "ok", "modes": list(MODES)}


REFUSED = {
    "no JSON": (b"texts", 400, "the body is no JSON: "),
    "no body": (b"", 400, "the body is no JSON: "),
    "half of one": (b'{"texts": "a"', 400, "the body is no JSON: "),
    "no UTF-8": (b'{"texts": "\xff"}', 400, "the body is no JSON: 'utf-8' codec can't decode"),
    "deep": (b"[" * 15_000, 400, "the body is nested too deeply"),
    "digits": (b'{"beam": 1%s}' % (b"0" * 5000), 400, "the body is no JSON: Exceeds the limit"),
    "a great number": (b'{"texts": "a", "max_len": 1%s}' % (b"0" * 400), 400, "max_len=1000"),
    "infinite": (b'{"texts": "a", "eos_penalty": 1e999}', 400, "eos_penalty=inf: give a number, from -100 to 100"),
    "NaN": (b'{"texts": "a", "eos_penalty": NaN}', 400, "the body is no JSON: NaN"),
    "a list": (b'["a"]', 400, 'the body is a list: give an object, as {"texts": ["some text"]}'),
    "null": (b"null", 400, "the body is null"),
    "no texts": (b'{"mode": "nar"}', 400, "texts: give a text or a list of texts"),
    "a number": (b'{"texts": 5}', 400, "texts: give a text or a list of texts"),
    "an object": (b'{"texts": {"a": "b"}}', 400, "texts: give a text or a list of texts"),
    "a list of lists": (b'{"texts": [["a"]]}', 400, "text 1 is no text but of type list"),
    "half a character": (b'{"texts": ["a", "b\\ud800"]}', 400, "text 2 is no Unicode text: half a surrogate pair"),
    "too long": (b'{"texts": ["a", "%s"]}' % (b"a " * 700), 413, "text 2 has over 511 word pieces"),
    "too many": (b'{"texts": [%s"a"]}' % (b'"a",' * 8), 413, "9 texts in one request; the limit is 8"),
    "too large": (b'{"texts": "%s"}' % (b"a" * 20_000), 413, "the body is over the limit of 20000 bytes"),
    "a misspelt argument": (b'{"texts": "a", "beams": 2}', 400, "'beams': no such argument, maybe beam is meant; there are"),
    "arguments of the library": (b'{"texts": "a", "read_ahead": 2}', 400, "'read_ahead': no such argument"),
    "another mode": (b'{"texts": "a", "mode": "fast"}', 400, "mode 'fast': this model has ar, semi-nar, nar, speculative"),
    "a mode that is none": (b'{"texts": "a", "mode": ["nar"]}', 400, "mode=['nar']: give the name of a mode"),
    "an option of another mode": (b'{"texts": "a", "mode": "nar", "block_size": 2}', 400, "block_size: no effect in mode nar"),
    "a beam in NAR": (b'{"texts": "a", "mode": "nar", "beam": 2}', 400, "beam=2: mode nar has no beam search"),
    "a wide beam": (b'{"texts": "a", "mode": "ar", "beam": 9}', 400, "beam=9: this service's limit is 8"),
    "half a beam": (b'{"texts": "a", "mode": "ar", "beam": 2.5}', 400, "beam=2.5: give a whole number"),
    "a true beam": (b'{"texts": "a", "mode": "ar", "beam": true}', 400, "beam=True: give a whole number"),
    "a number as the beginning": (b'{"texts": "a", "prefix": 5}', 400, "prefix=5: give what all texts begin with"),
    "a beginning in NAR": (b'{"texts": "a", "mode": "nar", "prefix": "b"}', 400, "prefix: mode nar sees no token"),
    "no switch": (b'{"texts": "a", "truncate": "no"}', 400, 'truncate="no": give one of true, false'),
    "a switch of 1": (b'{"texts": "a", "truncate": 1}', 400, "truncate=1: give one of true, false"),
    "another way": (b'{"texts": "a", "on_error": "stop"}', 400, 'on_error="stop": give one of "raise", "blank"'),
    "a link that is not there": (b'{"texts": "a", "mode": "nar", "link": true}', 400, "link=True: this model has no link"),
    "long nonsense": (b'{"texts": "a", "max_len": "%s"}' % (b"x" * 5000), 400, "max_len='xxx"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, client):
    body, status, message = REFUSED[name]
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status and list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert error.startswith(message) and "\n" not in error and len(error) < 500
    assert client.post("/generate", json={"texts": "a", "mode": "nar"}).status_code == 200


def test_what_texts_begin_with(client, model):
    texts = {"texts": TEXTS[:2], "mode": "ar", "beam": 1}
    for prefix in ("a library", ["a library", ""]):
        found = client.post("/generate", json={**texts, "prefix": prefix}).json()
        wanted = model.generate(TEXTS[:2], "ar", beam=1, prefix=prefix, details=True)
        for one, other in zip(found, wanted, strict=True):
            same(one, plain(other))
    assert found[0]["text"].startswith("a library")


def test_errors_left_blank(client):
    found = client.post("/generate", json={"texts": ["a", 5, "a"], "mode": "nar", "on_error": "blank"}).json()
    assert [one["error"] is None for one in found] == [True, False, True] and found[1]["text"] == ""


def test_what_asks_for_nothing_is_no_option_of_another_mode(client):
    for options in ({"beam": 1}, {"link": None}, {"mode": "ar", "beam": 2, "link": False}):
        assert client.post("/generate", json={"mode": "nar", "texts": "a", **options}).status_code == 200


def test_other_pages_and_methods(client):
    for method, path, status in (("GET", "/generate", 405), ("POST", "/health", 405), ("GET", "/x", 404)):
        answer = client.request(method, path)
        assert answer.status_code == status and "POST /generate and GET /health" in answer.json()["error"]
    form = client.post("/generate", data={"texts": "a"})
    assert form.status_code == 415 and "send JSON" in form.json()["error"]
    parts = client.post("/generate", files={"texts": b"a" * 100_000})
    assert parts.status_code == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Host": "127.0.0.1.evil.example"}, {"Host": ""},
        {"Host": "10.0.0.1"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"},
        {"Origin": "http://[bad"},
    ],
    ids=str,
)  # fmt: skip
def test_foreign_pages_are_refused(headers, client):
    for answer in (
        client.post("/generate", json={"texts": "a"}, headers=headers),
        client.get("/metrics", headers=headers),
        client.get("/docs", headers=headers),
    ):
        assert answer.status_code == 403 and answer.json()["error"].startswith(f"the {list(headers)[0]} header names another")


def test_this_machines_pages_are_served(client, service):
    port = service[0].rpartition(":")[2]
    for host in ("localhost", "127.0.0.1", "[::1]"):
        for headers in ({"Host": f"{host}:{port}"}, {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}):
            assert client.get("/health", headers=headers).status_code == 200


def test_names_that_are_allowed(model):
    with serving(model, names=("Texts.example",)) as (address, _):
        for host, status in (("texts.example", 200), ("other.example", 403)):
            headers = {"Host": host, "Origin": f"https://{host}"}
            assert httpx.get(f"{address}/health", headers=headers).status_code == status
    with serving(model, guarded=False) as (address, _):  # bound to an address that others reach
        assert httpx.get(f"{address}/health", headers={"Host": "any.example"}).status_code == 200


def test_a_body_is_given_up_while_it_comes(service):
    """An endless one is answered as soon as it is over the limit."""
    host, port = service[0].removeprefix("http://").split(":")
    for head, chunk in (("Transfer-Encoding: chunked", b"1000\r\n" + b"a" * 4096 + b"\r\n"), ("Content-Length: 900000000", b"")):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            lines = ["POST /generate HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/json", head, "", ""]
            connection.sendall("\r\n".join(lines).encode() + chunk * 5)
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come(service, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    host, port = service[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        lines = ["POST /generate HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Content-Length: 9", "", "{"]
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_too_many_at_once(model):
    with serving(model, Limits(requests=2)) as (address, service):
        go = threading.Event()

        class Slow:
            def __getattr__(self, name):
                return getattr(model.engine, name)

            def generate(self, sources, options):
                go.wait(30)
                return model.engine.generate(sources, options)

        service._engine._engine = Slow()
        with ThreadPoolExecutor(2) as pool:
            first = [pool.submit(httpx.post, f"{address}/generate", json={"texts": "a", "mode": "nar"}) for _ in range(2)]
            wait_until(lambda: service._active == 2)
            refused = httpx.post(f"{address}/generate", json={"texts": "a", "mode": "nar"})
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"].startswith("2 requests are being served")
            assert httpx.get(f"{address}/health").status_code == 200
            go.set()
            assert [future.result().status_code for future in first] == [200, 200]
        assert httpx.post(f"{address}/generate", json={"texts": "a", "mode": "nar"}).status_code == 200


def test_our_own_bug_is_a_500_with_its_traceback_in_the_log(model, monkeypatch, capsys):
    with serving(model) as (address, service):
        monkeypatch.setattr(service._model, "_generation", lambda *_: 1 / 0)
        answer = httpx.post(f"{address}/generate", json={"texts": "a", "mode": "nar"})
        assert answer.status_code == 500 and answer.json() == {"error": "internal error; the service's log has it"}
        monkeypatch.undo()
        assert httpx.post(f"{address}/generate", json={"texts": "a", "mode": "nar"}).status_code == 200
        assert b'status="500"} 1.0' in service.metrics.exposition()
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_description(client, service):
    described = client.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    assert set(DESCRIBED) < set(schemas["Request"]["properties"])
    assert schemas["Request"]["properties"]["beam"]["maximum"] == LIMITS.hypotheses
    assert list(schemas["Generation"]["properties"]) == [field.name for field in dataclasses.fields(Generation)]
    assert list(client.post("/generate", json={"texts": "a"}).json()) == schemas["Generation"]["required"]
    assert client.post("/generate", json=EXAMPLE).status_code == 200
    assert set(described["paths"]) == {"/generate", "/health", "/metrics"}
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)):
        assert name in schemas


def test_the_page_needs_nothing_from_elsewhere(client):
    answer = client.get("/", follow_redirects=True)
    assert answer.url.path == "/docs" and "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text and "src=" not in answer.text
    for word in ("POST /generate", *DESCRIBED, *(field.name for field in dataclasses.fields(Generation)), "429", "curl --json"):
        assert word in answer.text


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "bang", "serve", *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.fixture
def process():
    with command(CHECKPOINT, "--vocab", VOCAB_SMALL, "--port", 0, "--threads", 1) as started:
        try:
            yield started, started.stdout.readline().split()[0]
        finally:
            started.kill()


def test_a_process_answers_what_it_accepted_before_it_ends(process, model):
    started, address = process
    slow = {"mode": "ar", "beam": 2, "min_len": 60, "max_len": 60}
    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(httpx.post, f"{address}/generate", json={"texts": TEXTS[:4], **slow}, timeout=60) for _ in range(6)
        ]
        with httpx.Client(base_url=address) as client:
            wait_until(lambda: metrics(client)[("bang_active_requests", "")] == 6)
        started.send_signal(signal.SIGTERM)
        answers = [future.result() for future in futures]
    texts = model.generate(TEXTS[:4], **slow)
    assert [[one["text"] for one in answer.json()] for answer in answers] == [texts] * 6
    assert started.wait(20) == 0 and started.stderr.read() == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def refusal(*arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", *map(str, arguments)])
    return str(ended.value) if isinstance(ended.value.code, str) else capsys.readouterr().err.splitlines()[-1]


def test_the_command_refuses_in_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ([CHECKPOINT, "--port", port], f"port {port} of 127.0.0.1 is in use: give another with --port"),
            ([tmp_path / "none", "--port", 0], f"{tmp_path / 'none'}: no such model"),
            ([tmp_path / "empty", "--port", 0], f"{tmp_path / 'empty'}"),
            ([CHECKPOINT, "--port", 70000], "port=70000: give a whole number, from 0 to 65535"),
            ([CHECKPOINT, "--port", 0, "--host", "203.0.113.1"], "cannot serve at 203.0.113.1, port 0: "),
            ([CHECKPOINT, "--port", 0, "--host", "no.such.host.invalid"], "cannot serve at no.such.host.invalid, port 0: "),
            ([CHECKPOINT, "--batch", 0], "--batch=0: give a whole number, 1 or more"),
            ([CHECKPOINT, "--wait", -1], "--wait=-1.0: give a number"),
            ([CHECKPOINT, "--max-body", 0], "--max-body=0: give a whole number"),
        ):
            assert refusal(*arguments, capsys=capsys).startswith(f"bang serve: error: {message}"), arguments
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    expected = r"bang serve: error: the service needs starlette, which is not installed: pip install '\.\[serve\]'"
    assert re.match(expected, refusal(CHECKPOINT, capsys=capsys))


def test_the_five_lines_of_the_page(service, monkeypatch, capsys):
    (example,) = blocks(DOCS / "serving.md", language="python")
    assert len(example.strip().splitlines()) == 5
    exec(example.replace("http://127.0.0.1:8000", service[0]), {})
    assert capsys.readouterr().out.strip()
