"""``quantizable finetune found.yaml CHECKPOINT``: an assignment becomes one more mode, and is trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantizable.cli.arguments import ASSIGNMENTS, Parser, check_bits
from quantizable.cli.train import run as train
from quantizable.interface.choices import NETWORK_SETTINGS
from quantizable.interface.words import listed
from quantizable.storage.network_file import NOT_OURS, assignment_name, check_checkpoint, read_about

TEXT = "make an assignment of quantizable search one more mode of its network, and train it a few epochs"
SCHEDULED = {"augment": "schedule.augment"}  # settings of the data that a run takes from elsewhere


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand, for the list of commands; :func:`run` reads its words."""
    subparsers.add_parser("finetune", help=TEXT, add_help=False)


def parser() -> Parser:
    """What it takes; settings of train may stand anywhere behind the checkpoint."""
    own = Parser(prog="quantizable finetune", description=TEXT)
    own.add_argument(
        "modes",
        metavar="FOUND",
        help="a file of quantizable search bits; or modes that the network holds, as 2,found, for the same "
        "training without a search",
    )
    own.add_argument("checkpoint", type=Path, help="the checkpoint of training that it was searched on")
    own.add_argument(
        "--alone",
        action="store_true",
        help="train what is named alone, without the other modes: for deployment in it",
    )
    own.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train: schedule.epochs=3 train.teacher=CHECKPOINT resume=last ...",
    )
    return own


def run(words: Sequence[str], debug: bool = False) -> int:
    """Train as ``quantizable train`` does, from the checkpoint's own network, data and modes."""
    args = parser().parse_intermixed_args(words)
    return train(settings(args.modes, args.checkpoint, args.settings, args.alone), debug)


def settings(modes: str, checkpoint: Path, given: Sequence[str], alone: bool = False) -> list[str]:
    """The words of ``quantizable train``: what the checkpoint says, then those given, which count more.

    Args:
        modes: an assignment file, or modes and assignments that the network holds.
        checkpoint: of training.
        given: ``KEY=VALUE``.
        alone: train these modes alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint of training, or one of a module of the user's own.
    """
    check_checkpoint(checkpoint)
    about = read_about(checkpoint)
    if about is None:
        raise ValueError(NOT_OURS.format(checkpoint))
    if about["model"] is None:
        raise ValueError(
            f"{checkpoint} was trained from a module of your own; in Python: network.add_assignment, then "
            "QuantizableClassifier(network, ...)"
        )
    check_bits(modes, checkpoint, about["modes"], about["assignments"])
    files = [word for word in listed(modes) if word.endswith(ASSIGNMENTS)]
    if len(files) > 1 or (files and len(listed(modes)) > 1):
        raise ValueError(f"{modes}: one assignment is fine-tuned at a time; give one file, or modes")
    names = [assignment_name(Path(files[0]))] if files else listed(modes)
    words = {
        **_of_data(about["data"]),
        **_of_model(about["model"]),
        "bits.modes": f"[{','.join(about['modes'])}]",
        "quantizer": about["quantizer"],
        **_of_options(about["quantize"]),
        "schedule": "finetune",
        "start": quoted(str(checkpoint)),
        "finetune": quoted(modes),
        "run": quoted(f"{checkpoint.parent.name}_{'_'.join(names)}{'_alone' if alone else ''}"),
    }
    if alone:
        words |= {"scheme": "only", "scheme.sampler.modes": f"[{','.join(names)}]"}
    own = {word.partition("=")[0] for word in given}
    if "data" in own:  # other data: its own settings
        words = {k: v for k, v in words.items() if not k.startswith("data.") and k not in SCHEDULED.values()}
    return [f"{key}={value}" for key, value in words.items() if key not in own] + [*given]


def _of_data(about: dict[str, Any]) -> dict[str, str]:
    """The data of training with its settings, as far as a run of train.py has such."""
    from quantizable.training.overrides import options, settings

    if about.get("data") not in options()["data"]:
        return {}
    # the seed of order and augmentation is the run's
    kept = {k: value for k, value in (about.get("settings") or {}).items() if k != "seed"}
    kept = {SCHEDULED.get(key, f"data.{key}"): value for key, value in kept.items()}
    here = {key for key, one in settings().items() if f"data={about['data']}" in one.places}
    here |= {*SCHEDULED.values()} if "data.augment" in here else set()
    return {"data": about["data"]} | {key: plain(value) for key, value in kept.items() if key in here}


def _of_options(quantize: dict[str, Any]) -> dict[str, str]:
    """How the network was quantized, as far as a checkpoint says it: older ones do not know every option."""
    kept = {key: group for key, group in NETWORK_SETTINGS.items() if quantize.get(key) not in (None, [], {})}
    return {f"{group}.{key}": plain(quantize[key]) for key, group in kept.items()}


def _of_model(name: str) -> dict[str, str]:
    from quantizable.training.overrides import options

    return {"model": name} if name in options()["model"] else {"model": "timm", "model.name": quoted(name)}


def plain(value: Any) -> str:
    """A setting as Hydra reads it."""
    if isinstance(value, dict):  # Hydra takes no quotes around a key
        return "{" + ",".join(f"{key}:{plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(plain, value))}]"
    if isinstance(value, str):
        return quoted(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    """A word that Hydra leaves as it is."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
