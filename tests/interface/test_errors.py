"""What a user can mend is told from our own faults; wrong words get the nearest right one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import quantizable
import quantizable.data
import quantizable.deploy
from quantizable.bits import BitMode
from quantizable.interface.errors import mendable, nearest, one_line, unknown


def caught(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011
        call()
    return info.value


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: BitMode.parse("banana"), True),  # raised by this library
        (lambda: BitMode.parse(99), True),
        (lambda: Path("/nowhere/file").read_text(), True),  # by the operating system
        (lambda: __import__("no_such_library"), True),
        (lambda: __import__("quantizable.no_such_module"), False),
        (lambda: BitMode(*range(5)), False),  # a wrong call
        (lambda: int("x"), False),  # elsewhere: a check of ours is missing
        (lambda: BitMode.parse.__func__(None, "4"), False),
        (lambda: torch.zeros(2) @ torch.zeros(3), False),
        (lambda: unknown("word", 1, 5), False),  # a line of this library that fails, and does not raise
    ],
)
def test_mendable(call: Callable[[], object], expected: bool) -> None:
    assert mendable(caught(call)) is expected


def test_a_line_that_fails_in_this_library_is_a_fault_of_ours() -> None:
    error = caught(lambda: quantizable.bits.int_range(2.5, signed=True))  # a shift by a float
    assert not mendable(error)
    failing = compile("int('x')", quantizable.bits.__file__, "exec")  # as a line of bits.py would
    assert not mendable(caught(lambda: exec(failing)))
    refusing = compile("raise ValueError('x')", quantizable.bits.__file__, "exec")
    assert mendable(caught(lambda: exec(refusing)))
    assert not mendable(ValueError("never raised"))


def test_an_error_raised_again_keeps_its_origin() -> None:
    def again() -> None:
        try:
            int("x")
        except ValueError as error:
            kept = error
        refusing = compile("raise kept", quantizable.bits.__file__, "exec")
        exec(refusing, {"kept": kept})

    assert not mendable(caught(again))


def test_one_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("word", "expected"), [("opnvino", "openvino"), ("OpenVINO", "openvino"), ("tensorrt", None)]
)
def test_nearest(word: str, expected: str | None) -> None:
    assert nearest(word, ["onnxruntime", "openvino", "torch"]) == expected


def test_lazy_names() -> None:
    assert "DATAMODULES" in dir(quantizable.data)
    assert "Session" in dir(quantizable.deploy)
    with pytest.raises(AttributeError, match="module 'quantizable' has no attribute 'qantize'"):
        quantizable.qantize  # noqa: B018
    for name in quantizable.__all__:
        assert getattr(quantizable, name) is not None
