"""The ``.cpp`` files here as a library: built on first use, kept in the user's cache, never a reason to fail.

It is built where the process runs on Linux, finds g++ and uses GNU's OpenMP already, as torch's packages do.
What it computes must be torch's numbers, bit for bit; this is tried on every start. Elsewhere there is no
library, and torch's operations run one by one, with the same results.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

VARIABLE = "QUANTIZABLE_FUSED_LOOPS"  # "off": torch's operations one by one; "on": say why, if they are
FOLDER = Path(__file__).parent
SOURCES = [FOLDER / name for name in ("loops.cpp", "formulas.cpp", "search.cpp")]
HEADERS = [FOLDER / name for name in ("numbers.h", "sums.h")]
# -march=native: the name under which the library is kept names the processor. The others keep the numbers
# exact (no product and sum in one rounding) and allow vectors (nobody reads errno or floating-point traps).
FLAGS = (
    "-std=c++17 -O3 -march=native -fopenmp -shared -fPIC -ffp-contract=off -fno-math-errno -fno-trapping-math"
)
OF_A_PROCESSOR = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")

Check = Callable[[ctypes.CDLL], bool]


@cache
def library(check: Check) -> ctypes.CDLL | None:
    """The loops, or None where they cannot be had.

    Args:
        check: False if the library computes other numbers than torch, so that it must not be used.

    Raises:
        ValueError: the environment variable ``QUANTIZABLE_FUSED_LOOPS`` is neither ``on`` nor ``off``.
    """
    said = os.environ.get(VARIABLE)
    if said not in (None, "on", "off"):
        raise ValueError(f"{VARIABLE} is {said!r}; give on or off, or leave it unset")
    if said == "off":
        return None
    reasons = []
    for attempt in attempts():
        try:
            found = attempt()
            if check(found):
                return found
            reasons.append("the loops do not compute torch's numbers here")
            break  # nor would they if they were built again
        except subprocess.TimeoutExpired as error:
            reasons.append(str(error))
            break
        except (OSError, RuntimeError) as error:
            reasons.append(str(error))
    if said == "on":
        warnings.warn(
            f"{VARIABLE} is on, but torch's operations run one by one: {'; '.join(reasons)}", stacklevel=2
        )
    return None


def attempts() -> Iterator[Callable[[], ctypes.CDLL]]:
    """Ways to the library: out of the cache, built for the cache, built for this process alone."""
    if not sys.platform.startswith("linux"):
        return iter([refuse])
    return iter([kept, lambda: built(cache_folder()), lambda: built(None)])


def refuse() -> ctypes.CDLL:
    """Nothing, and why."""
    raise OSError("they are built on Linux only")


def kept() -> ctypes.CDLL:
    """The library built before, by this or by another process."""
    return loaded(cache_folder() / file_name())


def built(folder: Path | None) -> ctypes.CDLL:
    """The library built now; put into ``folder`` whole, or, with None, in a folder of this process alone."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as private:
        target = Path(private) / file_name()
        command = [*compiler(), *FLAGS.split(), f"-I{FOLDER}", *map(str, SOURCES), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise OSError(f"{command[0]} cannot build them: {done.stderr.strip()[-300:]}")
        if folder is None:
            return loaded(target)  # what is loaded stays when its file is gone
        os.replace(target, folder / file_name())
        return loaded(folder / file_name())


def compiler() -> list[str]:
    """What compiles C++: ``CXX`` of the environment, or g++."""
    chosen = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(chosen[0]) is None:
        raise OSError(f"there is no {chosen[0]}")
    return chosen


def loaded(file: Path) -> ctypes.CDLL:
    """The library in a file; ``OSError`` where another kind of threads than torch's would come along."""
    ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    return ctypes.CDLL(str(file))


def cache_folder() -> Path:
    """Where the library is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantizable"


@cache
def file_name() -> str:
    """Names the sources, how it is compiled and the processor that it is compiled for."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    processor = [line for line in lines if line.split("\t")[0].split(":")[0].strip() in OF_A_PROCESSOR]
    texts = (source.read_text() for source in (*SOURCES, *HEADERS))
    made_of = "\n".join([*texts, FLAGS, os.uname().machine, *processor])
    return f"loops-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
