"""``quantizable train model=resnet18 data=cifar100``: one network in every bit mode (conf/train.yaml)."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quantizable.interface.errors import mendable, one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand; Hydra reads the words behind it, and has a help of its own."""
    subparsers.add_parser("train", help="train one network in every bit mode", add_help=False)


def run(words: Sequence[str], debug: bool = False) -> int:
    """Train as the words say; of a sweep (``-m``) go on after a run that failed, and return 1 at the end.

    Args:
        words: ``KEY=VALUE``, and Hydra's flags.
        debug: show the traceback of every error.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from quantizable.training.overrides import check_words, conf_folder

    check_words(words)
    given = sys.argv
    failed: list[Exception] = []
    sweep = False

    def job(config: DictConfig) -> None:
        nonlocal sweep
        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        sys.argv = given  # Lightning starts the other processes by these words
        try:
            with explained():
                train(config)
        except Exception as error:  # not raised here: Hydra would print it, and end a sweep
            failed.append(error)
            if sweep:
                print_error(error, debug)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    sys.argv = [given[0], *words]
    try:
        with explained():
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(job)()
    finally:
        sys.argv = given
    if failed and not sweep:
        raise failed[0]
    return 1 if failed else 0


def train(config: DictConfig) -> Any:
    """Check the settings, which is quick, then import what trains."""
    from quantizable.training.configuration import check_files, read_settings

    check_files(read_settings(config))
    from quantizable.training.run import train

    return train(config)


@contextmanager
def explained() -> Iterator[None]:
    """Raise, for an error of Hydra's, what is behind it: what a class says of its arguments, or one line."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    from quantizable.training.overrides import explanation

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        inner = error.__cause__ if isinstance(error, InstantiationException) else None
        if isinstance(inner, Exception) and not isinstance(inner, TypeError | ImportError):
            raise inner from error
        # TypeError: an argument that the class does not have, or of another type; ImportError: no such class
        raise ValueError(explanation(inner or error)) from error


def print_error(error: Exception, debug: bool) -> None:
    """One line for what a user can mend, else the traceback."""
    if debug or not mendable(error):
        traceback.print_exception(error)
    else:
        print(f"quantizable: error: {one_line(error)}", file=sys.stderr)
