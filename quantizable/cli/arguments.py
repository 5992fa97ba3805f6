"""The arguments that mean the same in every command, and their checks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from quantizable.bits import BitMode, parse_modes
from quantizable.data.layout import check_there
from quantizable.interface.choices import DATA, ENGINES
from quantizable.interface.errors import unknown
from quantizable.interface.words import listed
from quantizable.report.files import check_folder
from quantizable.storage.network_file import check_file, check_network_file, read_about

ASSIGNMENTS = (".yaml", ".yml")


class Parser(argparse.ArgumentParser):
    """argparse's, which also says the nearest right word and keeps the lines of examples."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter} | options)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action.choices, Iterable | Container) and value not in action.choices:
            what = action.option_strings[0] if action.option_strings else str(action.metavar).lower()
            raise argparse.ArgumentError(None, unknown(what, value, action.choices))

    def options(self, command: str | None = None) -> list[str]:
        """The options of a command and its parts, by default of all, with those that any has."""
        found: list[str] = []
        for action in self._actions:
            found += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for name, parser in action.choices.items():
                    found += parser.options() if command in (None, name) else []
        return found


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """``CHECKPOINT``: what ``storage.load`` takes."""
    text = "a checkpoint of training, or a .qz file, as checkpoints/<run>/best.ckpt"
    parser.add_argument("checkpoint", type=Path, help=text)


def add_data(parser: argparse.ArgumentParser, what: str = "") -> None:
    """``data=NAME data.KEY=VALUE``, as for train; by default the data of training."""
    text = f"{what}default: the data it was trained on"
    parser.add_argument("data", nargs="*", metavar="data=NAME data.KEY=VALUE", help=text)


def add_bits(
    parser: argparse.ArgumentParser, default: str, files: bool = True, value: str | None = None
) -> None:
    """``--bits 2,4,found.yaml``: modes and, with ``files``, assignment files, separated by commas."""
    what = "modes and assignment files (.yaml)" if files else "modes"
    text = f"{what}, separated by commas; default: {default}"
    parser.add_argument("--bits", default=value, metavar="BITS", help=text)


def add_engine(parser: argparse.ArgumentParser, default: str, text: str) -> None:
    """``--engine onnxruntime,openvino``: what runs the integers."""
    text = f"{text}: {', '.join(ENGINES)}; default: {default or 'none'}"
    parser.add_argument("--engine", default=default, metavar="ENGINE", help=text)


def add_output(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """``--output FOLDER``: where files are written; refused while it is parsed if they cannot be."""
    text = f"folder {text}"
    parser.add_argument("--output", type=_folder, metavar="FOLDER", default=default, help=text)


def _folder(text: str) -> Path:
    return check_folder(Path(text))


def check_listed(what: str, text: str, known: Sequence[str]) -> None:
    """``ValueError`` if a word of the list is not among the known ones, or the list is empty."""
    if not listed(text):
        raise ValueError(f"{text!r} names no {what}; choose from {', '.join(known)}")
    for word in listed(text):
        if word not in known:
            raise ValueError(unknown(what, word, known))


def check_network(path: Path, bits: str | None = None, data: Sequence[str] = ()) -> None:
    """Refuse at once, before torch is imported, what a network's file cannot be asked for.

    Args:
        path: a checkpoint or a ``.qz`` file.
        bits: of ``--bits``.
        data: words ``data=NAME data.KEY=VALUE``.

    Raises:
        FileNotFoundError: no such checkpoint, assignment file, or folder of images.
        ValueError: no network, a mode that it lacks, an unknown data set.
    """
    check_network_file(path)
    about = read_about(path) or {}
    check_bits(bits, path, about.get("modes"), about.get("assignments", ()))
    check_data(data, about.get("data") or {})


def check_bits(text: str | None, path: Path, held: Sequence[str] | None, named: Sequence[str] = ()) -> None:
    """``FileNotFoundError`` or ``ValueError`` for a mode or an assignment file that is not there.

    Args:
        text: of ``--bits``; None is always right.
        path: the network's file, for the message.
        held: names of its modes; None if they are not known.
        named: of its assignments.
    """
    words = listed(text or "")
    if text is not None and not words:
        raise ValueError("--bits names no mode; give some, as --bits 2,4")
    for word in words:
        if word.endswith(ASSIGNMENTS) and not Path(word).is_file():
            raise FileNotFoundError(f"there is no assignment file {word}; search bits writes them")
    modes = [word for word in words if not word.endswith(ASSIGNMENTS) and word not in named]
    for mode in parse_modes(modes) if modes else []:
        if held is not None and mode not in map(BitMode.parse, held):
            raise ValueError(f"{path} has no mode {mode.name}; it has {', '.join([*held, *named])}")


def check_data(words: Sequence[str], trained: dict[str, Any]) -> None:
    """``ValueError`` or ``FileNotFoundError`` for data that are unknown, or not where they are said to be.

    Args:
        words: ``data=NAME data.KEY=VALUE``; what is wrong with their form is said later.
        trained: ``{"data": NAME, "class_names": NAMES}`` of training.
    """
    pairs = [word.partition("=")[::2] for word in words]
    name = next((value for key, value in pairs if key == "data"), trained.get("data"))
    if any(key == "data" for key, _ in pairs) and name not in DATA:
        raise ValueError(unknown("data set", name, DATA))
    if name in DATA:
        own = [(key.removeprefix("data."), value) for key, value in pairs if key.startswith("data.")]
        given: dict[str, Any] = dict(own)
        if name == trained.get("data"):  # the test set can be read by the names that the network knows
            given.setdefault("class_names", trained.get("class_names"))
        check_there(DATA[name], given)


def check_guard(path: Path, network: Path, held: Sequence[str] | None) -> None:
    """``FileNotFoundError`` or ``ValueError`` for a guard that is none, or is of modes that are not there.

    Args:
        path: of ``--guard``.
        network: the network's file, for the message.
        held: names of its modes; None if they are not known.
    """
    guard = read_json(path, "guard of quantizable assess")
    try:
        modes = [BitMode.parse(guard[key]).name for key in ("low", "high")]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no guard of quantizable assess ({error!r})") from error
    check_bits(",".join(modes), network, held)


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds; ``FileNotFoundError`` without it, ``ValueError`` if it is no ``what``."""
    check_file(path)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no {what} ({error})") from error
