"""`benchmarks/speed.py` and `exports.py`: verdicts from made-up numbers, and whole runs at the smallest size."""

import json
import shutil
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest
from conftest import DEBIAN, GOLDEN, ROOT, VOCAB_SMALL

from bang.text.vocabulary import read_vocabulary

sys.path.insert(0, str(ROOT / "benchmarks"))
import exports  # noqa: E402
import report  # noqa: E402
import serving  # noqa: E402
import speed  # noqa: E402
import systems  # noqa: E402


def row(system, mode, batch, speed, cpu):
    return {"system": system, "mode": mode, "batch": batch, "sentences_per_second": speed, "lowest": speed - 1,
            "highest": speed + 1, "cpu_milliseconds_per_sentence": cpu, "passes": 12 if mode == "ar greedy" else 1,
            "peak_memory_gib": 0.5, "gpu_memory_gib": None}  # fmt: skip


def told(rows, length=12, source_length=None, batches=(1, 36), **settings):
    settings = {"arch": "bang_ar_nar_mixed_base", "device": "cpu", "threads": 2, "length": length, "batches": batches,
                "source_length": source_length, **settings}  # fmt: skip
    found = {"settings": settings, "rows": rows, "ratios": report.ratios(rows)}
    found["targets"] = report.verdicts(found)
    return found


ROWS = [
    row("onnx-int8", "nar", 1, 60.0, 30.0), row("onnx-int8", "nar", 36, 70.0, 20.0),
    row("onnx-int8", "ar greedy", 1, 9.0, 130.0), row("onnx-int8", "ar greedy", 36, 30.0, 36.0),
    row("ctranslate2-int8", "ar greedy", 1, 10.0, 120.0), row("ctranslate2-int8", "ar greedy", 36, 40.0, 32.0),
]  # fmt: skip


def test_what_is_reached_and_what_is_missed():
    found = told(ROWS)
    reached = {x["target"]: x["reached"] for x in found["targets"]}
    assert reached == {
        "onnx-int8 nar against ctranslate2-int8 ar greedy, batch 1": True,  # 6.0 times
        "onnx-int8 nar against ctranslate2-int8 ar greedy, batch best": False,  # 1.75, of 1.8
        "onnx-int8 ar greedy against ctranslate2-int8 ar greedy, batch 1": True,  # 0.9, of 0.8
    }
    table = report.table(found)
    assert "batch best | 1.8 | 1.75 | 1.60 | missed |" in table and "batch 1 | 6 | 6 | 4.00 | reached |" in table
    assert "| onnx-int8 | nar | 60.0 (59.0–61.0) | 70.0 (69.0–71.0) | 30.0 / 20.0 | 1 | 0.5 |" in table
    assert "| CPU ms a sentence | passes | GiB |\n" in table


def test_memory_of_a_gpu_is_that_of_torch():
    rows = [{**row(system, "nar", size, 60.0, 30.0), "passes": 4.25, "gpu_memory_gib": memory}
            for system, memory in (("torch-float16", 1.26), ("onnx-float16", None)) for size in (1, 36)]  # fmt: skip
    table = report.table(told(rows, device="cuda"))
    assert "| passes | GiB | GPU GiB |\n" in table and "| 4.25 | 0.5 | 1.3 |\n" in table and "| 4.25 | 0.5 |  |\n" in table


def test_versions_of_what_is_there():
    assert list(report.versions("numpy", "onnxruntime-of-nobody", "torch")) == ["numpy", "torch"]


@pytest.mark.parametrize("settings, targets", [
    (dict(length=32), {12, 3, 0.8}), (dict(length=20), {0.8}), (dict(source_length=512), set()), (dict(arch="bang_nar"), set()),
])  # fmt: skip
def test_targets_are_of_their_sizes_and_lengths(settings, targets):
    assert {x["least"] for x in told(ROWS, **settings)["targets"]} == targets


def test_a_gpu_has_targets_of_its_own():
    speeds = {"torch-float32": (9000.0, 9000.0), "onnx-float16": (600.0, 4000.0), "torch-bfloat16": (700.0, 5000.0)}
    rows = [row(system, "nar", size, speed, 1.0) for system, of in speeds.items() for size, speed in zip((1, 36), of)]
    found = told(rows, 32, 512, device="cuda")
    assert [(x["found"], x["reached"]) for x in found["targets"]] == [(700.0, True), (5000.0, False)]
    assert "| NAR in half precision, best batch, sentences a second | 6000 | 5000 |  | missed |" in report.table(found)
    assert told(rows, 12, None, device="cuda")["targets"] == []


@pytest.mark.slow
def test_speed_from_start_to_end(tmp_path, monkeypatch, capsys):
    others = [("ctranslate2-int8", "ar greedy", 3)] if find_spec("ctranslate2") else []
    arguments = ["--arch", "bang_ar_nar_mixed", "--systems", "torch-float32", "plain", "fairseq", *(name for name, *_ in others),
                 "--modes", "nar", "nar link", "nar link rescore 4", "ar greedy", "speculative 4", "--batches", "1", "2",
                 "--length", "3", "--source-length", "20", "--sentences", "3", "--rounds", "2", "--threads", "1",
                 "--cache", tmp_path / "cache", "--out", tmp_path / "out", "--name", "small"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, arguments)])
    speed.main()
    found = json.loads((tmp_path / "out" / "small.json").read_text())
    passes = [
        ("torch-float32", "nar", 1),
        ("torch-float32", "nar link", 1),
        ("torch-float32", "nar link rescore 4", 1),  # that which chooses gives no token
        ("torch-float32", "ar greedy", 4),
        ("plain", "nar", 1),
        ("fairseq", "ar greedy", 4),
        *others,
    ]
    assert [(x["system"], x["mode"], x["batch"], x["passes"]) for x in found["rows"] if x["mode"] != "speculative 4"] == [
        (system, mode, size, number) for system, mode, number in passes for size in (1, 2)
    ]  # the end of three tokens takes a pass of AR
    assert all(1 <= x["passes"] <= 4 for x in found["rows"]) and ("ctranslate2" in found["versions"]) == bool(others)
    assert all(x["lowest"] <= x["sentences_per_second"] <= x["highest"] and x["peak_memory_gib"] > 0.1 for x in found["rows"])
    assert [x["batch"] for x in found["ratios"] if x["other"] == "plain nar"] == [1, 2, "best"]
    assert found["source_tokens"] == {"mean": 20, "longest": 20} and found["targets"] == []
    assert capsys.readouterr().out == (tmp_path / "out" / "small.md").read_text()
    assert (tmp_path / "out" / "small.png").read_bytes().startswith(b"\x89PNG")


def write_parts(folder):
    pieces = [piece for piece in read_vocabulary(VOCAB_SMALL) if piece.isalpha()]
    for side, start in (("src", 0), ("tgt", 3)):
        (folder / f"test.{side}").write_text("".join(" ".join(pieces[start + i : start + i + 5]) + "\n" for i in range(8)))


@pytest.mark.slow
def test_exports_from_start_to_end(link_file, tmp_path, monkeypatch, capsys):
    write_parts(tmp_path)
    shutil.copy(GOLDEN / "mixed" / "checkpoint.pt", tmp_path)
    shutil.copy(link_file, tmp_path)
    arguments = [tmp_path / "checkpoint.pt", tmp_path, "--vocab", VOCAB_SMALL, "--out", tmp_path / "out",
                 "--sentences", 6, "--max-len", 8, "--threads", 1]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["exports.py", *map(str, arguments)])
    exports.main()
    found = json.loads((tmp_path / "out" / "exports.json").read_text())
    assert [x["mode"] for x in found["rows"]] == list(exports.MODES)
    assert all(x["agree"]["torch"] == x["agree"]["float32"] == found["sentences"] == 6 for x in found["rows"])
    assert all(x["ROUGE-L"]["torch"] == x["ROUGE-L"]["float32"] for x in found["rows"])
    table = (tmp_path / "out" / "exports.md").read_text()
    assert capsys.readouterr().out == table and "every text as torch's: reached" in table


def test_what_exports_lose_is_told():
    def mode(name, float32, int8, agree):
        return {
            "mode": name,
            "agree": {"torch": 9, "float32": agree, "int8": 5},
            "ROUGE-L": {"torch": 40.0, "float32": float32, "int8": int8},
        }

    rows = [mode("nar", 40.0, 39.7, 9), mode("ar greedy", 40.0, 40.5, 9)]
    told = exports.table({"sentences": 9, "rows": rows})
    assert "lower in every mode: reached (nar changes most for the worse, by -0.30)" in told and "(every text is torch's)" in told
    told = exports.table({"sentences": 9, "rows": [*rows, mode("semi-nar 4", 40.0, 39.69, 7)]})
    assert "missed (not torch's: 2 of semi-nar 4)" in told and "missed (semi-nar 4 changes most for the worse, by -0.31)" in told


@pytest.mark.parametrize("arguments, message", [
    (["--rounds", "0"], "--rounds 0: give 1 or more"),
    (["--batches", "8", "0"], "--batches 0: give 1 or more"),
    (["--sources", "gone.src"], "gone.src: no such file or directory"),
    (["--systems", "ctranslate2-int8"],
     "ctranslate2-int8 needs the package ctranslate2: pip install '.[benchmarks]', or leave it out"),
])  # fmt: skip
def test_speed_refuses_before_anything_is_made(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(systems, "find_spec", lambda name: None if name == "ctranslate2" else find_spec(name))
    made = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["speed.py", "--systems", "torch-float32", *arguments, *made])
    with pytest.raises(SystemExit) as stop:
        speed.main()
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("speed.py: error: ") and message in said and "\n" not in said and not list(tmp_path.iterdir())


def test_a_mistake_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["exports.py", "no-such.pt", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        exports.main()
    assert str(stop.value.code).startswith("exports.py: error: ") and "\n" not in str(stop.value.code)


class Echo(BaseHTTPRequestHandler):
    """Answers with the text itself, "other" with another one, and "drop" not at all."""

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"]
        if text == "drop":
            self.connection.close()
            return
        answer = json.dumps({"text": {"other": "x"}.get(text, text)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_answers_that_are_lost_or_mixed_up_are_counted():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        texts = ["a", "other", "b", "drop", "c"] * 4
        requests = [serving.right("nar", text, text) for text in texts] + [serving.wrong({"texts": "a"}, 400)]
        answers = serving.load(f"http://127.0.0.1:{server.server_port}", 3, iter(requests))
        server.shutdown()
    assert Counter(answer.verdict for answer in answers) == {"right": 12, "mixed up": 4 + 1, "lost": 4}


@pytest.mark.slow
def test_a_short_run_of_serving(exported, tmp_path, monkeypatch, capsys):
    command = [exported, DEBIAN, "--texts", 12, "--requests", 24, "--rounds", 1, "--clients", 8]
    command += ["--minutes", 0.1, "--serve=--threads 1", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["serving.py", *map(str, command)])
    serving.main()
    report = json.loads((tmp_path / "serving.json").read_text())
    verdicts = report["soak"]["verdicts"]
    assert verdicts == {"right": sum(report["soak"]["answers"].values()), "lost": 0, "mixed up": 0} and verdicts["right"] > 20
    assert set(report["soak"]["answers"]) == {*serving.MODES, "wrong"} and report["texts_per_batch"] > 1
    assert list(report["speed"]["clients"]) == ["1", "8"]
    table = (tmp_path / "serving.md").read_text()
    assert table in capsys.readouterr().out and "| mixed up | 0 | 0 |" in table
