"""What the file of a trained network says of itself, read without torch: a typo is answered at once."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from quantizable.interface.damage import check_entries
from quantizable.interface.errors import nearest

LONGEST = 100 << 20  # bytes of a .qz file's header; safetensors' own limit
DTYPES = {  # safetensors' names of types, and torch's
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip
CHANGED = "{} was changed or damaged: its checksum does not fit; copy or export it again"
NOT_OURS = "{} is no checkpoint of a quantizable network; float weights load with load_float_weights"


def assignment_name(path: Path) -> str:
    """The name under which a network holds the assignment of a file: the file's, its dots as ``_``."""
    return path.stem.replace(".", "_")


def check_file(path: Path) -> None:
    """``FileNotFoundError`` if there is no such file; it names one that may have been meant."""
    if path.is_file():
        return
    if path.parts[:1] == ("hf:",):
        name = "/".join(path.parts[1:])
        raise FileNotFoundError(
            f"hf://{name} is read by quantizable.load; for a command fetch its file first: "
            f"hf download {name} model.qz --local-dir ."
        )
    if path.is_dir():
        best = path / "best.ckpt"
        hint = f"did you mean {best}?" if best.is_file() else "give a file in it"
        raise FileNotFoundError(f"{path} is a folder; {hint}")
    close, trained = _nearest_path(path), path.suffix in (".ckpt", "")
    hint = "; training writes checkpoints/<run>/best.ckpt" if trained else ""
    hint = f"; did you mean {close}?" if close else hint
    raise FileNotFoundError(f"there is no {'checkpoint' if trained else 'file'} {path}{hint}")


def check_checkpoint(path: Path) -> None:
    """Refuse what is no checkpoint of training by its first bytes, before anything long begins.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a ``.qz`` file, bytes that ``torch.save`` did not write, or that were changed since.
    """
    check_file(path)
    if path.suffix == ".qz":
        raise ValueError(f"{path} holds integers, which cannot be trained; give the run's checkpoint")
    with path.open("rb") as file:
        pickled = file.read(1) == pickle.PROTO
    if not pickled and not _pickles_in(path):
        raise ValueError(f"{path} is truncated or no checkpoint; training writes checkpoints/<run>/best.ckpt")
    check_entries(path)


def check_network_file(path: Path) -> None:
    """Refuse what holds no network of ours by what it says of itself, before anything long begins.

    Args:
        path: a ``.qz`` file, or a checkpoint of training.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is neither, is cut short or changed, or is a checkpoint of float weights.
    """
    if path.suffix == ".qz":
        check_file(path)
        _check_header(path)
        return
    check_checkpoint(path)
    try:
        contents = _pickled(path)
    except Exception:  # damaged bytes fail in any way; what loads the file says why
        return
    if not isinstance(contents, dict) or "quantizable" not in contents:
        raise ValueError(NOT_OURS.format(path))


def check_graph_file(path: Path) -> None:
    """``FileNotFoundError`` if an ``.onnx`` or ``.xml`` file is not there, or the weights of the latter."""
    check_file(path)
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.is_file():
        raise FileNotFoundError(
            f"there is no {weights}, which holds the weights of {path}; copy or export both again"
        )


def read_about(path: Path) -> dict[str, Any] | None:
    """Modes and assignments, by name, quantizer, options, data and model of a ``.qz`` file or a checkpoint.

    None where they cannot be read this way; what loads the file says why. No code of the file is run.
    """
    try:
        about = _of_qz(path) if path.suffix == ".qz" else _of_checkpoint(path)
        named = about.get("quantize") or about["config"]
        return {
            "model": about.get("model"),
            "quantizer": named["quantizer"],
            "modes": [str(mode) for mode in about["modes"]],
            "assignments": [*named.get("assignments", {})],
            "quantize": named,
            "data": about.get("data") or about["info"],
        }
    except Exception:  # damaged bytes fail in any way
        return None


def _of_qz(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, LONGEST)))
    return json.loads(header["__metadata__"]["quantizable"])


def _check_header(path: Path) -> None:
    """``ValueError`` if a ``.qz`` file is not as long as its header says, or says nothing of a network."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, LONGEST)))
        about = header.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if path.stat().st_size != 8 + length + end:
            raise ValueError("its length is not what its header says")
        wanted, found = about.get("sha256"), _checksum(path, 8 + length, header, about)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or no .qz file ({error}); copy or export it again") from error
    if "quantizable" not in about:
        raise ValueError(f"{path} is no .qz file of this library: it lacks the metadata 'quantizable'")
    if wanted is not None and found not in (None, wanted):
        raise ValueError(CHANGED.format(path))


def _checksum(path: Path, begin: int, header: dict[str, Any], about: dict[str, Any]) -> str | None:
    """As ``storage.qz.checksum``; None where it would not know a type."""
    if any(entry["dtype"] not in DTYPES for entry in header.values()):
        return None
    digest = hashlib.sha256(about.get("quantizable", "").encode())
    with path.open("rb") as file:
        for name in sorted(header):
            entry = header[name]
            first, last = entry["data_offsets"]
            digest.update(f"{name} torch.{DTYPES[entry['dtype']]} {tuple(entry['shape'])}".encode())
            file.seek(begin + first)
            digest.update(file.read(last - first))
    return digest.hexdigest()


def _of_checkpoint(path: Path) -> dict[str, Any]:
    return _pickled(path)["quantizable"]


def _pickled(path: Path) -> Any:
    (name,) = _pickles_in(path)
    with zipfile.ZipFile(path) as archive:
        return _Plain(io.BytesIO(archive.read(name))).load()


def _pickles_in(path: Path) -> list[str]:
    """Names of the entries of a zip file that hold what ``torch.save`` was given; none in any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if name.endswith("/data.pkl")]
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


class _Nothing:
    """Stands for a tensor, and for everything else that is no plain value."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Plain(pickle.Unpickler):
    """Reads plain values; whatever class or function the file names, it gets :class:`_Nothing`."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Nothing

    def persistent_load(self, pid: object) -> Any:
        return _Nothing()


def _nearest_path(path: Path) -> Path | None:
    """An existing file whose name, or whose folder's name, is much like the one asked for."""
    if path.parent.is_dir():
        close = nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_file()])
        return path.parent / close if close else None
    above = path.parent.parent
    runs = [run.name for run in above.iterdir() if (run / path.name).is_file()] if above.is_dir() else []
    close = nearest(path.parent.name, runs)
    return above / close / path.name if close else None
