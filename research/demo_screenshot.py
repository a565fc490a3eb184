"""Takes the picture of the page of `bang demo` that the README shows: a text in every mode that the model has.

    python research/demo_screenshot.py models/debian-synopsis/checkpoint.pt docs/images/demo.png

needs Debian's chromium and chromium-driver, and pip install '.[browser]'.
"""

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from bang import Bang
from bang.errors import UserError, exit_on_mistakes
from bang.text.files import replacing

TEXT = ("djangorestframework-gis extends the Django REST Framework to also handle geographic data as used by GeoDjango during "
        "serialization and deserialization.")  # fmt: skip


@contextlib.contextmanager
def browser() -> Iterator:
    """A chromium without a window.

    Raises:
        ValueError: there is none.
    """
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise UserError("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1000"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def generate(chrome, address: str, text: str) -> tuple[list, list]:
    """Types a text into the page, ticks all modes and presses the button.

    Returns:
        Whether each mode's box was ticked before; the rows of what was generated.
    """
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    chrome.get(address)
    wait = WebDriverWait(chrome, 120)
    source = wait.until(lambda page: page.find_element(By.CSS_SELECTOR, "#source textarea"))
    source.clear()  # of the example
    source.send_keys(text)
    boxes = chrome.find_elements(By.CSS_SELECTOR, "#modes input[type=checkbox]")
    ticked = [box.is_selected() for box in boxes]
    for box in boxes:
        if not box.is_selected():
            box.click()
    chrome.find_element(By.CSS_SELECTOR, "#generate").click()
    return ticked, wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#output tr[data-mode]"))


def picture(chrome) -> bytes:
    """PNG of the page from its top to the end of what was generated."""
    from selenium.webdriver.common.by import By

    output = chrome.find_element(By.CSS_SELECTOR, "#output").rect
    chrome.execute_script("document.activeElement.blur()")
    chrome.set_window_size(1100, 140 + int(output["y"] + output["height"]) + 40)  # 140: the window's own frame
    return chrome.get_screenshot_as_png()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or a folder of bang pack or bang export")
    parser.add_argument("picture", type=Path, metavar="PNG", help="the file to write")
    parser.add_argument("--vocab", metavar="FILE", help="a checkpoint's vocabulary")
    parser.add_argument("--text", default=TEXT, help="what is typed (default: %(default)s)")
    args = parser.parse_args()
    with exit_on_mistakes(parser.prog):
        model = Bang.load(args.model, vocab=args.vocab)
        from bang.inference.demo import serve

        address = serve(model, "127.0.0.1", port=None, wait=False)
        with browser() as chrome, replacing(args.picture) as file:
            generate(chrome, address, args.text)
            file.write(picture(chrome))


if __name__ == "__main__":
    main()
