"""Train one network in every bit mode: ``python train.py model=resnet18 data=cifar100`` (conf/train.yaml)."""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    from quantizable.training import train

    try:
        train(config)
    except (ValueError, OSError, RuntimeError) as error:
        # what a user can mend is one line; --debug shows where it came from
        if hydra.core.hydra_config.HydraConfig.get().verbose:
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
