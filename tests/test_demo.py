"""The page of `bang demo`, by its functions and in a real browser."""

import html
import re
import shutil
import struct

import demo_screenshot
import pytest
from conftest import CHECKPOINT, VOCAB_SMALL, debian

from bang import Bang
from bang.__main__ import main
from bang.inference.api import Generation
from bang.options import Options


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("gradio")
    from bang.inference import demo

    return demo


@pytest.fixture(scope="module")
def text():
    return debian("test.src")[1]


def test_words_are_coloured_by_pass_and_escaped(demo):
    generation = Generation(
        "<b>cats & co", ["<b>", "cat", "##s", "&", "co"], -0.5, [-0.1, -0.2, -2.5, -0.3, -0.1], passes=[1, 1, 2, 2, 3, 3]
    )
    page = demo.render([demo.Shown("semi-nar", generation, 12.4), demo.Shown("<i>", Generation("", []), 0.1)], "a <hint>")
    pattern = r'<span class="(.*?)" title="(.*?)" style="background: hsl\((\d+), 75%, 85%\)">(.*?)<sub>(\d)</sub></span>'
    spans = re.findall(pattern, page)
    assert [(word, number) for *_, word, number in spans] == [
        ("&lt;b&gt;", "1"),
        ("cat", "1"),
        ("s", "2"),
        ("&amp;", "2"),
        ("co", "3"),
    ]
    assert len({colour for _, _, colour, _, _ in spans}) == 3
    assert [kind for kind, *_ in spans] == ["", "", "unsure", "", ""] and spans[2][1] == "log-probability -2.50"
    assert re.search(r"cat<sub>1</sub></span><span [^>]*>s<", page)  # pieces of a word stand together
    assert '<td class="number passes">3</td><td class="number ms">12</td>' in page and "<th>semi-NAR</th>" in page
    assert '<td class="number score">-0.50</td>' in page and '<div class="hint">a &lt;hint&gt;</div>' in page
    assert "<b>" not in page and "<i>" not in page


def test_what_the_clean_up_drops_is_struck_out(demo):
    pieces = ["go", "go", "c", "+", "+", "go", "##es", "go", "##es"]
    scores, passes = [-0.1] * 10, [1] * 10
    for mode, struck in (("nar", ["go", "go", "es"]), ("ar", [])):
        page = demo.render([demo.Shown(mode, Generation("go c++ goes", pieces, -0.1, scores, passes), 1.0)])
        assert re.findall(r'<span class="dropped"[^>]*>(\w+)<sub>', page) == struck


def test_speed_is_a_factor_of_ars(demo):
    generation = Generation("a", ["a"], -0.1, [-0.1, -0.1], [1, 2])
    shown = [demo.Shown("nar", generation, 10.0), demo.Shown("ar", generation, 42.0)]
    page = demo.render(shown)
    assert re.findall(r'class="number factor">(.*?) ×<', page) == ["4.2", "1.0"] and "speed of AR" in page
    page = demo.render([demo.Shown("nar", generation, 10.0), demo.Shown("semi-nar", generation, 15.0)])
    assert re.findall(r'class="number factor">(.*?) ×<', page) == ["1.5", "1.0"] and "speed of the slowest" in page


def test_compare(demo, model, text):
    found = demo.compare(model, text, ["ar", "nar"], beam=1)
    assert [shown.mode for shown in found] == ["ar", "nar"] and all(shown.milliseconds > 0 for shown in found)
    assert [shown.generation for shown in found] == [model.generate(text, mode, beam=1, details=True) for mode in ("ar", "nar")]
    assert all(shown.without is None for shown in demo.compare(model, text, ["nar"], both=True))  # it has no link
    with pytest.raises(demo.gr.Error, match="mode 'x': this model has"):
        demo.compare(model, text, ["x"])


def test_with_and_without_the_link(demo, model, link_file, text):
    linked = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, link=link_file)
    ar, nar = demo.compare(linked, text, ["ar", "nar"], both=True)
    assert ar.without is None and nar.generation == linked.generate(text, "nar", details=True)
    assert nar.without == model.generate(text, "nar", details=True) != nar.generation
    page = demo.render([ar, nar])
    assert page.count('<div class="pair">') == 1
    assert '<div class="without"><h4>without</h4>' in page and page.count('<div class="text">') == 3


def test_a_hint_for_text_that_is_not_english(demo, model):
    english = "A library for parsing the headers of files and writing them back to disk again."
    for text in (english, "python3-numpy", "", "naïve café library for the web"):
        assert demo.hint(model, text) == ""
    for text in (
        "Dieses Paket enthält Module zum Lesen und Schreiben von Dateien sowie deren Kopfzeilen",
        "Пакет для чтения файлов",
        "用于读取文件的软件包",
    ):
        assert "not English" in demo.hint(model, text)
    assert demo.hint(Bang(model.engine, [piece if piece != "the" else "der" for piece in model.pieces]), "Пакет для чтения") == ""


def test_the_page_answers(demo, model, text):
    """Over HTTP: the texts of the modes, and the drawing of what they see, the same as `bang visibility` makes."""
    client = pytest.importorskip("gradio_client").Client(demo.serve(model, "127.0.0.1", port=None, wait=False), verbose=False)
    page = client.predict(text, ["nar", "semi-nar"], 4, 1, False, api_name="/generate")
    for mode in ("nar", "semi-nar"):
        assert f'<div class="text">{html.escape(model.generate(text, mode))}</div>' in page
    assert client.predict(["semi-nar"], 6, 2, api_name="/draw") == demo.drawing.svg("semi-nar", 6, 2)
    shown = str(client.view_api(return_format="dict", print_info=False))
    assert "/generate" in shown and demo.EXAMPLES[0] in shown  # the text that it begins with


def test_a_model_whose_texts_are_long(demo, model):
    """By its packed defaults; the page is warmed up with short ones."""
    long = Bang(model.engine, model.pieces, Options(min_len=9, max_len=20))
    assert demo.serve(long, "127.0.0.1", port=None, wait=False).startswith("http://127.0.0.1:")


def test_without_gradio(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^bang demo: error: the page needs gradio, .* pip install '\.\[demo\]'"):
        main(["demo", "model"])


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs Debian's chromium and chromium-driver")
    with demo_screenshot.browser() as chrome:
        yield chrome


@pytest.mark.slow
def test_in_a_browser(demo, model, text, browser):
    """Type, choose, press: the texts are the model's, with as many passes as each mode takes; and the README's picture."""
    from selenium.webdriver.common.by import By

    address = demo.serve(model, "127.0.0.1", port=None, wait=False)
    ticked, rows = demo_screenshot.generate(browser, address, text)
    assert [mode for mode, is_ticked in zip(model.modes, ticked, strict=True) if is_ticked] == ["ar", "nar"]  # trained
    assert {row.get_attribute("data-mode") for row in rows} == set(model.modes)
    for row in rows:
        mode = row.get_attribute("data-mode")
        expected = model.generate(text, mode, beam=1, details=True)
        assert row.find_element(By.CSS_SELECTOR, ".text").text == expected.text
        passes, milliseconds = (row.find_element(By.CSS_SELECTOR, f".{name}").text for name in ("passes", "ms"))
        assert passes == str(expected.passes[-1]) and int(milliseconds) >= 0
        shown = row.find_elements(By.CSS_SELECTOR, ".words span")
        assert [span.find_element(By.TAG_NAME, "sub").text for span in shown] == [str(n) for n in expected.passes[:-1]]
        colours = {span.value_of_css_property("background-color") for span in shown}
        assert len(colours) == len(set(expected.passes[:-1]))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and address not in entry["message"]] == []
    picture = demo_screenshot.picture(browser)
    width, height = struct.unpack(">II", picture[16:24])  # of a PNG's header
    bottom = browser.find_element(By.CSS_SELECTOR, "#output").rect
    assert picture.startswith(b"\x89PNG") and width == 1100 and height >= bottom["y"] + bottom["height"]


@pytest.fixture(scope="module")
def address(demo, model):
    from starlette.middleware import Middleware

    from bang.serving.guard import LocalOnly

    return demo.serve(model, "127.0.0.1", port=None, wait=False, middleware=[Middleware(LocalOnly)])


@pytest.mark.parametrize("method, path, headers, body, status", [
    ("GET", "", {}, None, 200),
    ("GET", "", {"Host": "evil.example:7860"}, None, 403),
    ("GET", "config", {"Origin": "http://evil.example"}, None, 403),
    ("POST", "gradio_api/upload", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 403),
    ("POST", "gradio_api/queue/join", {"Content-Type": "application/json"}, b"{}" + b" " * (1 << 20), 413),
    ("POST", "gradio_api/queue/join", {"Content-Type": "text/plain", "Origin": "null"}, b"{}", 403),
])  # fmt: skip
def test_other_peoples_pages_are_refused(method, path, headers, body, status, address):
    httpx = pytest.importorskip("httpx")
    assert httpx.request(method, address + path, headers=headers, content=body).status_code == status


def test_a_body_of_no_length_is_refused(address):
    httpx = pytest.importorskip("httpx")
    pieces = iter([b"x" * (1 << 16)] * 4)
    assert httpx.post(f"{address}gradio_api/queue/join", content=pieces).status_code == 413
