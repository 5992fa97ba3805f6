"""Which errors a user can mend, and how they are said: in one line, with the nearest right word."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from opcode import opmap
from pathlib import Path

CHECKED = (ValueError, ImportError, RuntimeError)  # as this library raises them of what it was given


def mendable(error: BaseException) -> bool:
    """True if a user can mend the error; all others are faults of ours and need their traceback.

    A user can mend what a ``raise`` of this library refuses, what the operating system refuses (a missing
    file, a full disk), a library that is not installed, and too little memory. A ``ValueError`` that
    comes out of any other line, as of ``int("x")`` or of torch, says that a check of ours is missing.
    """
    if isinstance(error, OSError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, ModuleNotFoundError):
        return (error.name or "").partition(".")[0] != "quantizable"
    return isinstance(error, CHECKED) and raised_here(error)


def raised_here(error: BaseException) -> bool:
    """True if the error comes from a ``raise`` statement in this library and not from a line that failed."""
    last = error.__traceback__
    if last is None:
        return False
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    here = Path(__file__).parents[1] in Path(code.co_filename).parents
    return here and code.co_code[last.tb_lasti] == opmap["RAISE_VARARGS"]


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like ``word`` (capital letters aside), or None if none is like it."""
    lowered = {one.lower(): one for one in known}
    return next((lowered[one] for one in get_close_matches(word.lower(), lowered, n=1)), None)


def unknown(what: str, word: object, known: Iterable[str]) -> str:
    """The message that ``word`` is no known ``what``: the known ones, and the one that was meant.

    >>> unknown("engine", "opnvino", ["onnxruntime", "openvino"])
    "engine 'opnvino' is unknown; choose from onnxruntime, openvino; did you mean 'openvino'?"
    """
    known = list(known)
    close = nearest(str(word), known)
    hint = f"; did you mean {close!r}?" if close else ""
    return f"{what} {word!r} is unknown; choose from {', '.join(known)}{hint}"
