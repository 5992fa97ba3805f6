"""Train one network in every bit mode: ``python train.py model=resnet18 data=cifar100`` (conf/train.yaml)."""

import os
import sys

import hydra
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    from quantizable.training import train

    train(config)


def one_line(error: BaseException) -> str:
    """What a user can mend, on one line."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__  # Hydra wraps what a class says of its arguments
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be parsed: {' '.join(str(error).split())}"
    return " ".join(str(error).partition("Config search path:")[0].split())


if __name__ == "__main__":
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    try:
        main()
    except (ValueError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException) as error:
        if full:  # HYDRA_FULL_ERROR=1 python train.py ... shows where it came from
            raise
        sys.exit(f"error: {one_line(error)}")
