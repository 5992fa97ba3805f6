"""How far a command is, and how long it will still take: on a terminal alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
_shown: list[str] = []  # what the bar on the terminal counts: there is room for one


def progress(
    items: Iterable[Item], what: str, total: int | None = None, *, still: bool = False
) -> Generator[Item, None, None]:
    """The items, with a bar on stderr that tells how many are done and the time left, and goes at the end.

    Nothing is shown where stderr is no terminal, or where fewer than two items leave nothing to foresee.

    Args:
        items: what to go through.
        what: is done with them, as ``"evaluating"``.
        total: how many there are; by default ``len(items)``.
        still: draw between items only, as a thread that draws would disturb what is timed.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with counting(what, total, still=still) as done:
        for item in items:
            yield item
            done()


@contextmanager
def counting(what: str, total: int | None, *, still: bool = False) -> Iterator[Callable[[], None]]:
    """The bar of :func:`progress` where what is counted is no loop: call what it gives after each item.

    It shows nothing within another bar, whose items these are parts of.
    """
    if _shown or not sys.stderr.isatty() or (total is not None and total < 2):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        auto_refresh=not still,
        speed_estimate_period=24 * 3600,  # seconds; of a proof that takes a minute each, 30 hold but one
        redirect_stdout=sys.stdout.isatty(),  # what goes to a file must not end up in the terminal
    )
    _shown.append(what)
    try:
        with bar:
            task = bar.add_task(what, total=total)
            bar.refresh()

            def done() -> None:
                bar.advance(task)
                bar.refresh()

            yield done
    finally:
        _shown.clear()
