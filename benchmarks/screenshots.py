"""Pictures of the report and the demo as a browser shows them, at desktop and at phone width.

    pip install PySide6 plotly gradio
    python benchmarks/screenshots.py --report RUN... --demo model.qz --image photo.png --output docs/pictures

Those in docs/pictures are of ``docs/results/cifar10_resnet20`` with the results of ``cost``, ``assess`` and
``verify`` beside it, and of ``checkpoints/cifar10_resnet20.qz`` with the guard of
``docs/results/assess_cifar10``.
The browser is the Chromium of Qt WebEngine, which comes from PyPI and needs no screen. Errors of a page's own
script and requests to other machines end this one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_DISABLE_SANDBOX", "1")  # a container has none to offer
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--disable-gpu --hide-scrollbars")

from PySide6.QtCore import QEventLoop, QSize, Qt, QTimer, QUrl
from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

WIDTHS = {"desktop": 1280, "phone": 390}
LOCAL = ("file", "data", "blob", "about", "qrc")


class Requests(QWebEngineUrlRequestInterceptor):
    """Notes what a page asks of other machines, and refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def interceptRequest(self, info: Any) -> None:
        url = info.requestUrl()
        if url.scheme() not in LOCAL and url.host() not in ("127.0.0.1", "localhost"):
            self.refused.append(url.toString())
            info.block(True)


class Page(QWebEnginePage):
    """A page that keeps what its script reports as errors."""

    def __init__(self, profile: QWebEngineProfile) -> None:
        super().__init__(profile)
        self.errors: list[str] = []

    def javaScriptConsoleMessage(self, level: Any, message: str, line: int, source: str) -> None:
        if level == QWebEnginePage.JavaScriptConsoleMessageLevel.ErrorMessageLevel:
            self.errors.append(f"{source.rpartition('/')[2][:60]}:{line}: {message[:200]}")


class Browser:
    """A window of a width that needs no screen.

    Args:
        width, height: in CSS pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.app = QApplication.instance() or QApplication([])
        self.profile, self.requests = QWebEngineProfile(), Requests()
        self.profile.setUrlRequestInterceptor(self.requests)
        self.page, self.view = Page(self.profile), QWebEngineView()
        self.view.setPage(self.page)
        self.view.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
        self.view.resize(QSize(width, height))
        self.view.show()

    def wait(self, seconds: float) -> None:
        """Let the page run."""
        loop = QEventLoop()
        QTimer.singleShot(int(1000 * seconds), loop.quit)
        loop.exec()

    def open(self, url: str) -> None:
        """Load a page; ``RuntimeError`` if it cannot be loaded."""
        loop, done = QEventLoop(), []
        self.page.loadFinished.connect(lambda ok: (done.append(ok), loop.quit()))
        self.page.load(QUrl(url))
        QTimer.singleShot(60_000, loop.quit)
        loop.exec()
        if not any(done):
            raise RuntimeError(f"{url} could not be loaded")
        self.wait(1.5)

    def run(self, script: str) -> Any:
        """The value of a script, as plain types."""
        loop, found = QEventLoop(), []
        plain = f"JSON.stringify((0, eval)({json.dumps(script)}) ?? null)"  # Qt gives back no arrays
        self.page.runJavaScript(plain, 0, lambda value: (found.append(value), loop.quit()))
        QTimer.singleShot(20_000, loop.quit)
        loop.exec()
        if not found:
            raise RuntimeError(f"no answer to {script[:80]}")
        return json.loads(found[0] or "null")

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait until a script's value is true; ``RuntimeError`` if it never is."""
        for _ in range(int(4 * seconds)):
            if self.run(script):
                return
            self.wait(0.25)
        raise RuntimeError(f"this never came true: {script}")

    def picture(self, path: Path, shown: str, height: int | None = None) -> None:
        """Save what is seen as PNG of 128 colors; with a height, of so much of the page.

        The words of the element that ``shown`` selects go into the file, under the key ``words``: a test sees
        by them that the picture is of today's page.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        about = PngInfo()
        about.add_itxt("words", " ".join(self.run(f"document.querySelector('{shown}').innerText").split()))
        before = self.view.size()
        if height:
            self.view.resize(QSize(before.width(), height))
            self.wait(1.5)
        self.view.grab().save(str(path))
        self.view.resize(before)
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        small.save(path, optimize=True, pnginfo=about)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")

    def pdf(self, path: Path) -> None:
        """Print to a PDF file."""
        loop = QEventLoop()
        self.page.pdfPrintingFinished.connect(lambda *_: loop.quit())
        self.page.printToPdf(str(path))
        QTimer.singleShot(60_000, loop.quit)
        loop.exec()

    def close(self) -> None:
        """Let go of the page before its profile."""
        self.view.setPage(None)
        self.page.deleteLater()
        self.wait(0.1)

    def check(self) -> None:
        """``RuntimeError`` if the page's script failed, or asked another machine for something."""
        if self.page.errors or self.requests.refused:
            raise RuntimeError(f"errors {self.page.errors}, requests {self.requests.refused}")


SORT = """(() => {
  const table = document.querySelector("#TAB table"), head = table && table.tHead.rows[0].cells[1];
  if (!table) return true;
  const read = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
  const before = read(); head.firstChild.click(); head.firstChild.click();
  const same = JSON.stringify([...before].sort()) === JSON.stringify([...read()].sort());
  return same && head.getAttribute("aria-sort") === "descending"; })()"""


def report(runs: list[str], kept: list[str], output: Path) -> None:
    """The report's tabs at both widths; each is drawn, can be sorted, and is no wider than the window.

    Args:
        runs: as ``quantizable report`` takes them.
        kept: the tabs whose pictures are kept; empty: all.
    """
    from quantizable.cli import main

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        if main(["report", *runs, "--output", str(page)]):
            raise SystemExit(2)
        for name, width in WIDTHS.items():
            browser = Browser(width, 900)
            browser.open(page.as_uri())
            tabs = browser.run("[...document.querySelectorAll('nav button')].map(b => b.textContent)")
            for tab in tabs:
                browser.run(f"document.getElementById('to-{tab}').click(); scrollTo(0, 0)")
                browser.wait(0.5)
                if not kept or tab in kept:
                    browser.picture(output / f"report-{tab}-{name}.png", f"#{tab}")
                charts = f"[...document.querySelectorAll('#{tab} .chart')]"
                if not browser.run(
                    f"{charts}.every(c => c.querySelector('svg.main-svg') && c.clientWidth > 200)"
                ):
                    raise RuntimeError(f"a chart of tab {tab} is not drawn at {name}")
                if not browser.run(SORT.replace("TAB", tab)):
                    raise RuntimeError(f"the table of tab {tab} is not sorted by its second column")
                wide = browser.run("document.documentElement.scrollWidth")
                if wide > width:
                    raise RuntimeError(f"tab {tab} is {wide} pixels wide at {name}")
            browser.check()
            browser.close()


def demo(model: Path, guard: Path | None, image: Path, output: Path) -> None:
    """The demo after an image was dropped, at both widths."""
    from quantizable.deploy.demo import Demo
    from quantizable.deploy.demo_page import serve

    with serve(Demo(model, guard=guard)) as (url, _):
        for name, width in WIDTHS.items():
            browser = Browser(width, 900)
            browser.open(url)
            drop(browser, image)
            browser.until("document.body.innerText.includes('energy')")
            said = browser.run("document.querySelector('.answer .said').innerText")
            slide = "const bits = document.querySelector('#bits input[type=range]'); bits.value = 0;"
            browser.run(f"(() => {{ {slide} bits.dispatchEvent(new Event('input', {{bubbles: true}})); }})()")
            browser.until(f"document.querySelector('.answer .said').innerText !== {json.dumps(said)}")
            browser.wait(2)
            browser.picture(output / f"demo-{name}.png", ".answer", 1000 if name == "desktop" else 1600)
            browser.check()
            browser.close()


def drop(browser: Browser, image: Path) -> None:
    """Give an image to the page's file input, as dropping one does."""
    import base64

    content = base64.b64encode(image.read_bytes()).decode()
    browser.until("!!document.querySelector('input[type=file]')")
    browser.run(
        f"""(() => {{
        const bytes = Uint8Array.from(atob("{content}"), c => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "{image.name}", {{type: "image/png"}}));
        const input = document.querySelector("input[type=file]");
        input.files = transfer.files;
        input.dispatchEvent(new Event("change", {{bubbles: true}}));
        return true; }})()"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--tabs", nargs="+", default=[], help="keep pictures of these only; default: all")
    parser.add_argument("--demo", type=Path, metavar="MODEL")
    parser.add_argument("--guard", type=Path, help="guard.json for the demo")
    parser.add_argument("--image", type=Path, help="what is dropped on the demo")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    steps: list[Callable[[], None]] = []
    if options.report:
        steps.append(lambda: report(options.report, options.tabs, options.output))
    if options.demo:
        steps.append(lambda: demo(options.demo, options.guard, options.image, options.output))
    for step in steps:
        step()


if __name__ == "__main__":
    sys.exit(main())
