"""The library of loops is built, kept, tried, and never a reason to fail."""

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quantizable.functional import fake_quantize
from quantizable.kernels import library as module
from quantizable.kernels import loops
from quantizable.kernels.library import VARIABLE, library

no_compiler = shutil.which("g++") is None or not sys.platform.startswith("linux")
needs_compiler = pytest.mark.skipif(no_compiler, reason="no g++ here, or not Linux")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "FLAGS", module.FLAGS.replace("-O3", "-O0"))  # builds sooner
    library.cache_clear()
    module.file_name.cache_clear()
    yield
    library.cache_clear()
    module.file_name.cache_clear()


def quantized() -> list[float]:
    out = fake_quantize(torch.tensor([0.2, 0.3, 9.0]), torch.tensor(0.5), None, -8, 7)
    return out.tolist()


def openmps() -> set[str]:
    """The OpenMP runtimes in this process: threads of a second one and torch's would wait for each other."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "omp" in line and ".so" in line}


@needs_compiler
def test_is_built_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = openmps()
    assert library(loops.same) is not None
    assert openmps() == before
    (kept,) = (tmp_path / "cache" / "quantizable").iterdir()  # and no folder of the build is left
    assert kept.name == module.file_name()
    library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library(loops.same) is not None


@needs_compiler
def test_a_cache_that_cannot_be_written_and_one_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert library(loops.same) is not None
    library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    (tmp_path / "other" / "quantizable").mkdir(parents=True)
    (tmp_path / "other" / "quantizable" / module.file_name()).write_bytes(b"\x7fELF cut off")
    assert library(loops.same) is not None
    assert quantized() == [0, 0.5, 3.5]


@pytest.mark.parametrize("said", [None, "on"])
def test_without_a_compiler_torch_runs(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O0")
    if said:
        monkeypatch.setenv(VARIABLE, said)
        with pytest.warns(UserWarning, match=r"one by one.*no-such-compiler|Linux only"):
            assert library(loops.same) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library(loops.same) is None
        assert quantized() == [0, 0.5, 3.5]


@needs_compiler
def test_other_numbers_than_torchs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "loops.cpp"
    source.write_text(module.SOURCES[0].read_text().replace("std::rint", "std::floor"))
    monkeypatch.setattr(module, "SOURCES", [source, *module.SOURCES[1:]])
    monkeypatch.setenv(VARIABLE, "on")
    with pytest.warns(UserWarning, match="do not compute torch's numbers"):
        assert library(loops.same) is None


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    assert library(loops.same) is None
    library.cache_clear()
    monkeypatch.setenv(VARIABLE, "maybe")
    with pytest.raises(ValueError, match="is 'maybe'; give on or off"):
        quantized()


def test_a_home_that_is_none_and_no_processor_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    def unreadable(*args: object) -> str:
        raise OSError("no /proc here")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert library(loops.same) is None
    assert quantized() == [0, 0.5, 3.5]
