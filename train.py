"""Train one network in every bit mode: ``python train.py model=resnet18 data=cifar100`` (conf/train.yaml)."""

import os
import re
import sys
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

MENDABLE = (ValueError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException)
FAILED: list[str] = []  # the errors of a sweep's runs
# shows where an error came from; not in the other processes of a run, which inherit what is set below
FULL = os.environ.get("HYDRA_FULL_ERROR") == "1" and "LOCAL_RANK" not in os.environ


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    from quantizable.training.configuration import read_settings

    try:
        read_settings(config)  # before the imports of training, which take seconds
        from quantizable.training.run import train

        train(config)
    except MENDABLE as error:
        if FULL:
            raise
        line = f"error: {one_line(error)}"
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            sys.exit(line)
        print(line, file=sys.stderr)  # the other runs of a sweep go on
        FAILED.append(line)


def one_line(error: BaseException) -> str:
    """What a user can mend, on one line."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__  # Hydra wraps what a class says of its arguments
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be parsed: {' '.join(str(error).split())}"
    if typo := re.match(r"Could not override '([\w./@]+)'", str(error)):
        close = get_close_matches(typo[1], settings(), n=1)
        hint = f"did you mean {close[0]!r}" if close else "see conf/train.yaml for what there is"
        return f"there is no setting {typo[1]!r}; {hint}"
    return " ".join(str(error).partition("Config search path:")[0].split())


def settings() -> set[str]:
    """The names of all groups and settings, as ``data`` and ``data.root``."""
    conf = Path(__file__).parent / "conf"
    names: set[str] = set()
    for file in conf.rglob("*.yaml"):
        group = [] if file.parent == conf else [file.parent.name]
        names.update(".".join([*group, key]) for key in leaves(OmegaConf.to_container(OmegaConf.load(file))))
        names.update(group)
    return names


def leaves(node: object, prefix: str = "") -> set[str]:
    """The dotted keys of a configuration, those of its inner nodes too."""
    if not isinstance(node, dict):
        return set()
    keys = {key: inner for key, inner in node.items() if key not in ("defaults", "hydra")}
    return {prefix + key for key in keys}.union(*(leaves(v, f"{prefix}{k}.") for k, v in keys.items()))


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    try:
        main()
    except MENDABLE as error:
        if FULL:
            raise
        sys.exit(f"error: {one_line(error)}")
    if FAILED:
        sys.exit(1)
