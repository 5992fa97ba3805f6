"""``quantizable demo model.qz``: drop an image on a local page, and see what every mode says to it.

Nothing leaves this machine: gradio's analytics are off, and the pages forbid the browser to ask others.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

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
.answer {overflow-x: auto} .answer table {border-collapse: collapse; width: 100%; font-size: .92rem}
.answer th, .answer td {padding: .35rem .6rem; border-bottom: 1px solid #d9dee6; text-align: right;
  white-space: nowrap}
.answer th:first-child, .answer td:first-child, .answer td.classes {text-align: left}
.answer tr.chosen td, .answer td.chosen {background: #e8f0fc; color: #1c2330}
.answer .differs {color: #b42318; font-weight: 600} .answer p {margin: .5rem 0}
.answer .said {font-size: 1.3rem; font-weight: 600} .answer .small {font-size: .85rem; opacity: .75}
"""
ANSWER = """<div class=answer>
<p class=said>Mode {{ chosen.mode }} says {{ chosen.top[0].class }} ({{ "%.1f" | format(100 * chosen.top[0].probability) }} %)</p>
<p>{% if differing %}<span class=differs>Modes differ</span>: {% for one in differing %}mode {{ one.mode }} says {{ one.top[0].class }}{{ ", " if not loop.last }}{% endfor %}; mode {{ highest.mode }} says {{ highest.top[0].class }}.{% else %}All modes agree.{% endif %}</p>
<p>{% if guard %}<b>Guard:</b> the {{ guard.indicator | replace("_", " ") }} of mode {{ guard.low }} is {{ "%.3g" | format(guard.score) }}, {% if guard.escalated %}at least the threshold {{ "%.3g" | format(guard.threshold) }}: it asks mode {{ guard.high }}{% else %}below the threshold {{ "%.3g" | format(guard.threshold) }}: mode {{ guard.low }} is enough{% endif %}, and answers {{ guard.answer }}.{% else %}<b>Guard:</b> none given; quantizable assess chooses one (guard.json).{% endif %}</p>
<table><tr><th>mode</th><th>top 5</th><th>latency, ms</th><th>energy, µJ</th><th>weights, kB</th></tr>
{% for one in modes %}<tr{% if one.mode == chosen.mode %} class=chosen{% endif %}><td>{{ one.mode }}</td><td class=classes>{% for c in one.top %}<span{% if loop.first and one in differing %} class=differs{% endif %}>{{ c.class }} {{ "%.1f" | format(100 * c.probability) }} %</span>{{ ", " if not loop.last }}{% endfor %}</td><td>{{ "%.3g" | format(one.milliseconds) }}</td><td>{{ "%.3g" | format(one.microjoules) }}</td><td>{{ "%.1f" | format(one.weight_bytes / 1000) }}</td></tr>
{% endfor %}</table>
<p class=small>Latency: median of one image on this machine. The energy is an estimate of the multiplications and additions alone (45 nm, Horowitz 2014).</p>
<table><tr><th>logits</th>{% for one in modes %}<th>mode {{ one.mode }}</th>{% endfor %}</tr>
{% for name, values in logits %}<tr><td>{{ name }}</td>{% for value in values %}<td{% if modes[loop.index0].mode == chosen.mode %} class=chosen{% endif %}>{{ "%.2f" | format(value) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>"""  # noqa: E501


def run(args: argparse.Namespace) -> int:
    """Show the page until Ctrl-C."""
    gradio()
    demo = Demo(args.model, args.engine, args.threads, args.guard)
    with serve(demo, args.port) as (url, wait):
        print(f"{args.model} in modes {', '.join(demo.modes)}: {url} (Ctrl-C ends it)", flush=True)
        wait()
    return 0


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
    highest = answer.modes[-1]
    order = np.argsort(-highest.logits, kind="stable")[:SHOWN]
    logits = [(names[i] if names else str(i), [float(one.logits[i]) for one in answer.modes]) for i in order]
    differing = [one for one in answer.modes if one.mode in answer.differing]
    return Environment(autoescape=True).from_string(ANSWER).render(
        modes=answer.modes, chosen=answer.modes[chosen], highest=highest, differing=differing,
        guard=answer.guard, logits=logits,
    )  # fmt: skip


def page(demo: Demo) -> Any:
    """The gradio page."""
    gr = gradio()
    names, last = demo.session.info.get("class_names"), len(demo.modes) - 1

    def ask(file: str | None, chosen: float) -> tuple[Answer | None, str]:
        try:
            answer = demo.answer(Path(file)) if file else None
        except ValueError as error:  # no image
            raise gr.Error(str(error).replace(str(file), "the file"), print_exception=False) from error
        return answer, render(answer, int(chosen), names)

    with gr.Blocks(title=f"{demo.session.path.name} at every bit-width", analytics_enabled=False) as blocks:
        held = gr.State(None)
        gr.Markdown(f"## {demo.session.path.name} at every bit-width")
        with gr.Row():
            with gr.Column(scale=1):
                image = gr.Image(type="filepath", label="image", height=260, sources=["upload", "clipboard"])
                bits = gr.Slider(0, last, value=last, step=1, label="bits", elem_id="bits")
                gr.HTML(f"<div class=modes>{''.join(f'<span>{name}</span>' for name in demo.modes)}</div>")
            with gr.Column(scale=2):
                shown = gr.HTML(render(None, last, names))
        image.change(ask, [image, bits], [held, shown], api_name="answer")
        bits.change(lambda answer, at: render(answer, int(at), names), [held, bits], shown, api_name=False)
    return blocks


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
