"""``quantizable demo model.qz``: drop an image on a local page, and see what every mode says to it.

Nothing leaves this machine: gradio's analytics are off, and the pages forbid the browser to ask others.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from quantizable.deploy.demo import Answer, Demo

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'"
)
SHOWN = 10  # classes among the logits
STYLE = """
#bits input[type=number], #bits .min_value, #bits .max_value, #bits .reset-button, footer {
  display: none !important}
.modes {display: flex; justify-content: space-between; font-weight: 600; margin: -.6rem .2rem 0}
.answer {overflow-x: auto} .answer p {margin: .5rem 0} .answer .said {font-size: 1.3rem; font-weight: 600}
.answer table, .answer tr, .answer tbody {border: 0 !important}
.answer table {border-collapse: collapse; font-size: .92rem; min-width: 100%}
.answer th, .answer td {padding: .35rem .7rem !important; border: 0 !important; text-align: right !important;
  border-bottom: 1px solid #d9dee6 !important; white-space: nowrap}
.answer th:first-child, .answer td:first-child {text-align: left !important}
.answer .chosen {background: #e8f0fc; color: #1c2330}
.answer .differs {color: #b42318; font-weight: 600}
.answer .head td {padding-top: 1rem !important; font-weight: 600}
.answer .small {font-size: .85rem; opacity: .75}
#image img {width: 100%; height: 100%; object-fit: contain}
@media (max-width: 600px) {
  .answer table {font-size: .78rem}
  .answer th, .answer td {padding: .3rem .3rem !important; white-space: normal}
}
"""
ANSWER = Path(__file__).with_name("demo_answer.html")


def run(args: argparse.Namespace) -> int:
    """Show the page until Ctrl-C."""
    gradio()
    check_port(args.port)
    demo = Demo(args.model, args.engine, args.threads, args.guard)
    with serve(demo, args.port) as (url, wait):
        print(f"{args.model} in modes {', '.join(demo.modes)}: {url} (Ctrl-C ends it)", flush=True)
        wait()
    return 0


def check_port(port: int | None) -> None:
    """``OSError`` if another program has the port; asked before long work."""
    if port is None:
        return
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed a moment ago is free
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error.strerror}); choose another --port") from error


def gradio() -> Any:
    """The library, with its analytics off; ``ImportError`` in one line if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError("the demo needs gradio: pip install quantizable[demo]") from error
    return gradio


def render(answer: Answer | None, chosen: int, names: list[str] | None) -> str:
    """What is shown beside an image, as HTML; every word is escaped.

    Args:
        answer: of all modes; None before there is an image.
        chosen: number of the mode that the slider is at.
        names: of the classes; without, their numbers stand in.
    """
    if answer is None:
        return "<div class=answer><p>Drop an image to see what every mode says to it.</p></div>"
    modes = answer.modes
    order = np.argsort(-modes[-1].logits, kind="stable")[:SHOWN]
    shown = {
        "latency": [f"{one.milliseconds:.3g}" for one in modes],
        "energy": [f"{one.microjoules:.3g}" for one in modes],
        "weights": [f"{one.weight_bytes / 1000:.1f}" for one in modes],
        "logits": [(names[i] if names else str(i), [f"{one.logits[i]:.2f}" for one in modes]) for i in order],
        "differing": [one for one in modes if one.mode in answer.differing],
    }
    template = Environment(autoescape=True).from_string(ANSWER.read_text())
    return template.render(modes=modes, chosen=chosen, guard=answer.guard, **shown)


def page(demo: Demo) -> Any:
    """The gradio page."""
    gr = gradio()
    names, last = demo.session.info.get("class_names"), len(demo.modes) - 1

    def ask(file: str | None, chosen: float) -> tuple[Answer | None, str]:
        try:
            answer = demo.answer(Path(file)) if file else None
        except ValueError as error:  # of too many bits a channel, or truncated
            raise gr.Error(str(error).replace(str(file), "the file"), print_exception=False) from error
        return answer, render(answer, int(chosen), names)

    with gr.Blocks(title=f"{demo.session.path.name} at every bit-width", analytics_enabled=False) as blocks:
        held = gr.State(None)
        gr.Markdown(f"## {demo.session.path.name} at every bit-width")
        with gr.Row():
            with gr.Column(scale=1):
                image = gr.Image(
                    type="filepath",
                    image_mode=None,  # as the file is: not converted, so not compressed anew
                    label="image",
                    elem_id="image",
                    height=260,
                    sources=["upload", "clipboard"],
                )
                image.preprocess = refusing(image.preprocess)
                bits = gr.Slider(0, last, value=last, step=1, label="bits", elem_id="bits")
                gr.HTML(f"<div class=modes>{''.join(f'<span>{name}</span>' for name in demo.modes)}</div>")
            with gr.Column(scale=2):
                shown = gr.HTML(render(None, last, names))
        image.change(ask, [image, bits], [held, shown], api_name="answer")
        bits.change(lambda answer, at: render(answer, int(at), names), [held, bits], shown, api_name=False)
    return blocks


def refusing(preprocess: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """gradio's reading of an image, which says on the page if a file is none, instead of in the terminal."""

    def read(payload: Any) -> Any:
        try:
            return preprocess(payload)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            message = "the file is no image, or is damaged; give one such as PNG or JPEG"
            raise gradio().Error(message, print_exception=False) from error

    return read


@contextmanager
def serve(demo: Demo, port: int | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve the page on this machine; its address, and what waits until Ctrl-C.

    Args:
        port: None: the first that is free from 7860 on.

    Raises:
        OSError: the port is taken.
    """
    gr = gradio()
    blocks = page(demo)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # none is fetched
    from starlette.middleware import Middleware  # gradio's own web framework

    _, url, _ = blocks.launch(
        server_name="127.0.0.1", server_port=port, share=False, ssr_mode=False, prevent_thread_lock=True,
        quiet=True, theme=gr.themes.Default(**fonts), css=STYLE, footer_links=[],
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
    )  # fmt: skip
    try:
        yield url, blocks.block_thread
    finally:
        blocks.close(verbose=False)


class LocalOnly:
    """Tells the browser with every answer to ask no other machine for anything."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)
