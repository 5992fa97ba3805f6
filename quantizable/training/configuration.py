"""The composed configuration as a plain dictionary; what cannot work is refused before anything is built."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from quantizable.bits import parse_modes
from quantizable.data.layout import check_there, has_validation
from quantizable.interface.choices import LOWEST_BITS, TEXT_MODELS
from quantizable.interface.errors import unknown as is_unknown
from quantizable.interface.model_names import check_model_name
from quantizable.report.files import check_folder
from quantizable.storage.network_file import check_checkpoint, check_network_file
from quantizable.training.accelerator import check_gpu
from quantizable.training.run_names import resumed
from quantizable.training.samplers import check_one_mode

# what is read key by key, the configuration itself first; classes refuse by themselves what they do not know
KEYS = {
    "": (
        *("data", "model", "bits", "quantizer", "scheme", "strategy", "schedule", "trainer", "logger"),
        *("seed", "run", "output", "resume", "start", "finetune", "test", "train"),
    ),
    "model": ("name", "pretrained", "weights", "reset_head", "cifar_stem", "options"),
    "bits": ("modes", "first_last", "norms", "exclude", "overrides"),
    "quantizer": ("name", "per_channel", "attention", "embedding", "residual"),
    "schedule": ("epochs", "augment", "optimizer"),
    "train": (
        *("label_smoothing", "accumulate", "clip_norm", "noise_sigma", "recompute_activations", "ema"),
        *("keep_weights", "teacher", "teacher_weights", "histograms_every"),
    ),
}
EXAMPLES = {
    "model.name": "mobilenetv2_100",
    "data.root": "my_images",
    "data.file": "Samson.mat",
    "data.train": "train.tsv",
}


def read_settings(config: DictConfig) -> dict[str, Any]:
    """The configuration in plain types.

    Raises:
        ValueError: a key without a value, one that nothing reads, or a number that nothing else would
            refuse before training.
        ImportError: the logger is not installed.
    """
    try:
        cfg: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ValueError(f"{key} has no value; give {key}={EXAMPLES.get(key, '...')}, for example") from error
    names = [(cfg, key) for key in ("run", "output", "resume", "start", "finetune")]
    names += [(cfg["train"], key) for key in ("teacher", "teacher_weights") if key in cfg["train"]]
    for place, key in names:
        place[key] = None if place[key] is None else str(place[key])  # run=1 and run=nan are names too
    cfg["model"]["name"] = str(cfg["model"]["name"])
    check(cfg)
    check_modes(cfg)
    return cfg


def check_modes(cfg: dict[str, Any]) -> None:
    """``ValueError`` for modes that the quantizer does not define, or the scheme cannot train."""
    modes, quantizer, scheme = parse_modes(cfg["bits"]["modes"]), cfg["quantizer"]["name"], cfg["scheme"]
    if quantizer not in LOWEST_BITS:
        raise ValueError(is_unknown("quantizer", quantizer, LOWEST_BITS))
    lowest = min(bits for mode in modes for bits in (mode.weight, mode.activation))
    if lowest < LOWEST_BITS[quantizer]:
        others = ", ".join(name for name, bits in LOWEST_BITS.items() if bits <= lowest)
        raise ValueError(
            f"bits.modes={cfg['bits']['modes']}: quantizer={quantizer} is not defined at {lowest} bit; give "
            f"{LOWEST_BITS[quantizer]} or more, or choose another quantizer ({others})"
        )
    if scheme.get("single_mode"):
        check_one_mode(modes)
    instantiate(scheme["sampler"]).check(modes)


def check_files(cfg: dict[str, Any]) -> None:
    """Refuse data, files and devices that are not there, before what uses them is imported.

    Args:
        cfg: of :func:`read_settings`.

    Raises:
        OSError: no such file or folder, or the run's folder cannot be written.
        ValueError: no checkpoint, no file of weights, no GPU, or no network of that name.
    """
    check_gpu(cfg["trainer"]["accelerator"])
    check_model_name(cfg["model"]["name"])
    check_folder(Path(cfg["output"]))
    package, _, kind = str(cfg["data"].get("_target_")).rpartition(".")
    if package == "quantizable.data":
        check_there(kind, cfg["data"])
    teacher, weights = cfg["train"]["teacher"], [cfg["model"]["weights"], cfg["train"]["teacher_weights"]]
    checkpoints = [cfg["start"], resumed(cfg), teacher if teacher and teacher.endswith(".ckpt") else None]
    if teacher and not teacher.endswith(".ckpt"):
        check_model_name(teacher)
    for path in checkpoints:
        if path is not None:
            check_checkpoint(Path(path))
            check_network_file(Path(path))
    for path in weights:
        if path is not None:
            check_weights(Path(path))


def check(cfg: dict[str, Any]) -> None:
    """Errors: see :func:`read_settings`."""
    for group, known in KEYS.items():
        if unknown := sorted((cfg[group] if group else cfg).keys() - set(known)):
            name, where = (f"{group}.{unknown[0]}", f"{group} has") if group else (unknown[0], "there are")
            raise ValueError(f"{name} is no setting; {where} {', '.join(known)}")
    if not isinstance(cfg["model"]["options"], dict | None):
        options = cfg["model"]["options"]
        raise ValueError(
            f"model.options is {options!r}; it is a mapping, in quotes, as a shell splits it at its commas: "
            "'model.options={drop_rate:0.1,embedding_dim:64}'"
        )
    if not isinstance(cfg["bits"]["exclude"], str | list):
        raise ValueError(f"bits.exclude is {cfg['bits']['exclude']!r}; it lists patterns, as [layer4.*]")
    epochs, ema = cfg["schedule"]["epochs"], cfg["train"]["ema"]
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"schedule.epochs is {epochs!r}; it must be an integer of at least 1")
    if ema is not None and not (isinstance(ema, float) and 0 < ema < 1):
        raise ValueError(f"train.ema is {ema!r}; it is a decay between 0 and 1, or null for no average")
    if not isinstance(cfg["seed"], int) or not 0 <= cfg["seed"] < 1 << 32:
        raise ValueError(f"seed={cfg['seed']!r} is no integer from 0 to {(1 << 32) - 1}")
    clip = cfg["train"]["clip_norm"]
    if clip is not None and not isinstance(clip, int | float):
        raise ValueError(
            f"train.clip_norm is {clip!r}; it is a number greater than 0, or null for no clipping"
        )
    sigma = cfg["train"]["noise_sigma"]
    if not isinstance(sigma, int | float) or not 0 <= sigma < float("inf"):
        raise ValueError(f"train.noise_sigma is {sigma!r}; it is a standard deviation, finite and at least 0")
    teacher, weights = cfg["train"]["teacher"], cfg["train"]["teacher_weights"]
    run = teacher is not None and teacher.endswith(".ckpt")
    if run and weights is not None:
        raise ValueError(f"train.teacher={teacher} has its weights in it; leave out train.teacher_weights")
    if "" in (teacher, weights) or (not run and (teacher is None) != (weights is None)):
        raise ValueError(
            f"train.teacher={teacher} and train.teacher_weights={weights}: a teacher needs both, the name of "
            "a float network and its checkpoint, as train.teacher=resnet56 train.teacher_weights=resnet56.th "
            "(or a run's checkpoint alone, as train.teacher=checkpoints/run/best.ckpt)"
        )
    _check_kept_weights(cfg["train"], cfg["trainer"]["compile"])
    _check_amounts(cfg)
    _check_kind(cfg)
    if "augment" not in cfg["data"] and cfg["schedule"]["augment"] != "none":
        ignored = f"schedule.augment={cfg['schedule']['augment']} would be ignored"
        raise ValueError(f"this data set takes no augmentation: {ignored}; give schedule.augment=none")
    if "TensorBoard" in cfg["logger"]["_target_"] and not (
        find_spec("tensorboard") or find_spec("tensorboardX")
    ):
        raise ImportError("logger=tensorboard needs tensorboard: pip install 'quantizable[tensorboard]'")
    if "MLFlow" in cfg["logger"]["_target_"] and not find_spec("mlflow"):
        raise ImportError("logger=mlflow needs MLflow: pip install mlflow")


def check_weights(path: Path) -> None:
    """``FileNotFoundError`` or ``ValueError`` for what is no file of weights by its first bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    with path.open("rb") as file:
        start = file.read(9)
    # what torch.save writes, and wrote once, and safetensors: the length of a header in JSON
    if not (start.startswith((b"PK", b"\x80")) or start[8:] == b"{"):
        raise ValueError(f"{path} is truncated or no file of weights; copy or download it again")


def _check_amounts(cfg: dict[str, Any]) -> None:
    trainer, model = cfg["trainer"], cfg["model"]
    batches, smoothing = cfg["train"]["accumulate"], cfg["train"]["label_smoothing"]
    if trainer["limit_train_batches"] == 0:
        raise ValueError("trainer.limit_train_batches=0 leaves no training batches; give more than 0")
    if cfg["test"] and trainer["limit_test_batches"] == 0:
        raise ValueError("trainer.limit_test_batches=0 leaves nothing to test on; give more, or test=false")
    if not cfg["test"] and not (has_validation(cfg["data"]) and trainer["limit_val_batches"]):
        raise ValueError("test=false measures on the validation set, and there is none; leave out test=false")
    if not isinstance(batches, int) or batches < 1:
        raise ValueError(f"train.accumulate is {batches!r}; it is a number of batches, at least 1")
    if not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
        raise ValueError(f"train.label_smoothing is {smoothing!r}; it must be in [0, 1)")
    if cfg["start"] is not None and (model["weights"] is not None or model["pretrained"]):
        raise ValueError("start brings weights of its own; leave out model.weights and model.pretrained")
    if cfg["finetune"] is not None and cfg["start"] is None:
        raise ValueError("finetune needs the checkpoint to start from: start=checkpoints/<run>/best.ckpt")


def _check_kept_weights(train: dict[str, Any], compiled: bool) -> None:
    keeps = train["keep_weights"]
    if keeps and train["accumulate"] == 1:
        raise ValueError(
            "train.keep_weights=true saves nothing with train.accumulate=1; give train.accumulate above 1"
        )
    if keeps and compiled:
        raise ValueError("train.keep_weights=true is for eager runs; leave out trainer.compile=true")


def _check_kind(cfg: dict[str, Any]) -> None:
    """Refuse a network of images for words, and the reverse."""
    package, _, kind = str(cfg["data"].get("_target_")).rpartition(".")
    if package != "quantizable.data":
        return
    words, teacher = kind == "Text", cfg["train"]["teacher"]
    names = {"model": cfg["model"]["name"]}
    if teacher is not None and not teacher.endswith(".ckpt"):
        names["train.teacher"] = teacher
    for key, name in names.items():
        if words and name not in TEXT_MODELS:
            raise ValueError(
                f"{key}={name} reads images, data=text gives words; choose {key}={', '.join(TEXT_MODELS)}"
            )
        if not words and name in TEXT_MODELS:
            raise ValueError(f"{key}={name} reads words, this data gives images; choose data=text")
    if words and cfg["model"]["pretrained"]:
        raise ValueError(f"there are no published weights of {names['model']}; leave out model.pretrained")
    if words and cfg["train"]["noise_sigma"]:
        raise ValueError("train.noise_sigma adds noise to images, data=text gives words; leave it at 0")
