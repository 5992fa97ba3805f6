"""How Python calls the functions of the library: types of their arguments, addresses, and its variables."""

from __future__ import annotations

from ctypes import CDLL, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

HALF = {torch.float32: 0, torch.bfloat16: 1}  # what the loops call `half`
SIGNATURES = {  # p: pointer, n: count, f: float, i: int
    "fake_quantize": "ippnnppffi",
    "fused_relu": "ipppnpffi",
    "fake_quantize_gradients": "ippppppnnppffi",
    "fake_quantize_gradients_summed": "ppppppnpfffi",
    "fake_quantize_gradients_of_rows": "pppppnnpfffi",
    "clip": "ippnfffi",
    "clip_gradients": "ipppppnffi",
    "unit_codes": "ppnffifi",
    "unit_share": "ipppnffffi",
    "unit_gradients": "ipppnfffffi",
    "nested": "ippnnppfffffi",
    "nested_gradients": "ipppppnnppfffffii",
    "least_error": "ppppnnpnpnffi",
}
TYPES: dict[str, Any] = {"p": c_void_p, "n": c_int64, "f": c_float, "i": c_int}


def typed(found: CDLL) -> CDLL:
    """The library with the types of its functions."""
    for name, signature in SIGNATURES.items():
        getattr(found, name).argtypes = [TYPES[letter] for letter in signature]
        getattr(found, name).restype = None
    found.clip_gradients.restype = c_int
    found.unit_share.restype = c_int64
    return found


def lanes_of_torch(found: CDLL) -> c_int:
    """How many numbers the vectors of torch's sums have; 0: the library does not know torch's order."""
    return c_int.in_dll(found, "lanes_of_torch")


def rows_as_torch(found: CDLL) -> c_int:
    """1 if the library also knows the order in which torch sums the rows of a tensor."""
    return c_int.in_dll(found, "rows_as_torch")


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """The address of each tensor's numbers, None for None; keep the tensors until the loop is over."""
    return [None if x is None else x.data_ptr() for x in tensors]
