"""What the processor's integer kernels do: whether they add products exactly.

On x86 an integer kernel multiplies an unsigned and a signed byte. With VNNI or AMX it adds such products in
int32, which is exact. Without them it adds pairs of products in int16 with saturation (``vpmaddubsw``), so
that a pair beyond 32767 is cut off, silently. ARM processors with the dot product (``asimddp``) add in int32.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

VARIABLE = "QUANTIZABLE_INTEGER_KERNELS"  # overrides what the processor says, to try the other path anywhere
EXACT, SATURATING = "exact", "saturating"
ACCUMULATE_IN_INT32 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


def exact_kernels() -> bool:
    """True if integer kernels add products exactly, by the processor's flags or by the variable's word.

    ``QUANTIZABLE_INTEGER_KERNELS=saturating`` or ``=exact`` overrides the answer. Where the flags cannot be
    read, the answer is False, the safe one.

    Raises:
        ValueError: the variable holds another word.
    """
    check_kernels()
    said = os.environ.get(VARIABLE)
    return _processor_is_exact() if said is None else said == EXACT


def check_kernels() -> None:
    """``ValueError`` if the variable holds another word; asked before a file could be blamed for it."""
    said = os.environ.get(VARIABLE)
    if said not in (None, EXACT, SATURATING):
        raise ValueError(f"{VARIABLE} is {said!r}; give {EXACT} or {SATURATING}, or leave it unset")


@cache
def _processor_is_exact() -> bool:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return True  # every Apple M processor has the dot product
    return bool(_flags() & set(ACCUMULATE_IN_INT32))


@cache
def processor_name() -> str:
    """The processor as the system names it, with its integer units: what stands beside a figure."""
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return done.stdout.strip() or platform.machine()
    name = _cpuinfo("model name", "Model") or platform.processor() or platform.machine()
    units = [unit for unit in ACCUMULATE_IN_INT32 if unit in _flags()]
    vector = next((unit for unit in ("avx512bw", "avx2", "asimd") if unit in _flags()), "")
    return f"{name} ({', '.join(units or [vector, 'no VNNI'])})" if units or vector else name


def _flags() -> set[str]:
    return set(_cpuinfo("flags", "Features").split())


@cache
def _cpuinfo(*keys: str) -> str:
    """The first value of one of the keys in ``/proc/cpuinfo``; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for key, value in pairs if key.strip() in keys), "")
