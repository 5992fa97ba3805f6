"""Each natural mistake on the command line of training is one line that says what to write instead."""

import inspect

import pytest
import pytorch_lightning as pl
from hydra.core.override_parser.overrides_parser import OverridesParser

from quantizable.training.familiar_words import ADDED, FAMILIAR, SET
from quantizable.training.overrides import check_words, nearest_setting, options, settings
from tests.tiny import CONF, TINY, config


def said(*words: str) -> str:
    with pytest.raises(ValueError, match=r".") as refused:
        check_words(words)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("word", "right"),
    [
        # a value where a group wants the name of a file
        ("bits=[2,4]", "bits.modes=[2,4]"),
        ("bits=4", "bits.modes=[4]"),
        ("bits=2,4", "bits.modes=[2,4]"),
        ("bits=[w4a8,32]", "bits.modes=[w4a8,32]"),
        ("model=[resnet18]", "model=resnet18"),
        ("model={name:resnet18}", "model.name=resnet18"),
        ("data={root:my_images}", "data.root=my_images"),
        ("data=./my_images", "data=folder data.root=./my_images"),
        ("scheme={alpha:1}", "scheme.objective.alpha=1"),
        ("quantizer=[lsq]", "quantizer=lsq"),
        ("schedule=10", "schedule.epochs=10"),
        ("schedule={lr:0.1}", "schedule.optimizer.lr=0.1"),
        ("trainer=2", "trainer.devices=2"),
        ("debug=fst", "debug=fast"),
        ("+experiment=cifar100_resnet02", "experiment=cifar100_resnet20"),
        # a name that is nearly right
        ("model=resnet19", "model=resnet18 or model=timm model.name=resnet19"),
        ("model=efficientnet_lite0", "model=timm model.name=efficientnet_lite0"),
        ("data=cifar", "data=cifar10"),
        ("scheme=sandwhich", "scheme=sandwich"),
        ("quantizer=LSQ", "quantizer=lsq"),
        ("schedule=fine_tune", "schedule=finetune"),
        ("trainer=GPU", "trainer=gpu"),
        ("logger=wanbd", "logger=wandb"),
        ("strategy=mix_up", "strategy=mixup"),
        # a setting that is nearly right
        ("schedule.lr=0.1", "schedule.optimizer.lr=0.1"),
        ("lr=0.1", "schedule.optimizer.lr=0.1"),
        ("epochs=3", "schedule.epochs=3"),
        ("modes=[2,4]", "bits.modes=[2,4]"),
        ("schedul.epochs=1", "schedule.epochs=1"),
        ("modle=resnet18", "model=resnet18"),
        ("train.emma=0.9", "train.ema=0.9"),
        ("data.val-size=1", "data.val_size=1"),
        ("scheme.alpha=0.5", "scheme.objective.alpha=0.5"),
        # words of Lightning's Trainer and of other programs
        ("trainer.max_epochs=6", "schedule.epochs=6"),
        ("+trainer.max_epochs=6", "schedule.epochs=6"),
        ("max_epochs=6", "schedule.epochs=6"),
        ("trainer.gradient_clip_val=1.0", "train.clip_norm=1.0"),
        ("trainer.accumulate_grad_batches=4", "train.accumulate=4"),
        ("trainer.gpus=2", "trainer.devices=2"),
        ("trainer.fast_dev_run=true", "debug=fast"),
        ("trainer.default_root_dir=runs", "output=runs"),
        ("learning_rate=0.1", "schedule.optimizer.lr=0.1"),
        ("optimizer=adamw", "schedule.optimizer.name=adamw"),
        ("optimizer.weight_decay=0.1", "schedule.optimizer.weight_decay=0.1"),
        ("scheduler=linear", "schedule.optimizer.schedule=linear"),
        ("batch_size=64", "data.batch_size=64"),
        ("dataset=cifar10", "data=cifar10"),
        ("arch=resnet18", "model=resnet18"),
    ],
)
def test_what_was_meant_is_said_and_can_be_composed(word: str, right: str, tmp_path: object) -> None:
    assert f"did you mean {right}?" in said(word)
    check_words(right.split(" or ")[-1].split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scheme=3"], "scheme=3 is no scheme; there are adabits, any_precision, cascade"),
        (["data=null"], "data=null is no data; there are cifar10"),
        (["logger=false"], "logger=false is no logger; there are csv, mlflow, tensorboard, wandb"),
        (["~data"], "~data: training needs data; there are cifar10"),
        (["-m", "scheme=adabits,individal"], "did you mean scheme=individual?"),
        (["schedule.optimizer=sgd"], "give one of them, as schedule.optimizer.name=..."),
        (["train=3"], "train holds label_smoothing, "),
        (["data.banana=1"], "no setting 'data.banana'; data has root, batch_size, "),
        (["banana=1"], "no setting 'banana'; there are seed, run, output"),
        (["model.options.drop_rate=0.1"], "write model.options={drop_rate:0.1}"),
        (["bits.overrides.fc.bits=8"], "write bits.overrides={fc:{bits:8}}"),
        (["bits.modes=2,4"], "add -m to run each, or write bits.modes=[2,4]"),
        (["bits.modes=[2"], "'bits.modes=[2' cannot be parsed"),
        (["resnet18"], "'resnet18' is no setting; write model=resnet18"),
        (["lr"], "write schedule.optimizer.lr=..."),
        (["--lr=0.1"], "--lr=0.1 is no flag; settings have no dashes: schedule.optimizer.lr=0.1"),
        (["--batch-size", "8"], "settings have no dashes: data.batch_size=8"),
        (["-x"], "-x is no flag"),
        (["seed=abc"], "seed='abc' is no number; give one, as seed=0"),
        (["schedule.optimizer.lr=fast"], "no number; give one, as schedule.optimizer.lr=0.05"),
        (["-m", "seed=0,abc"], "seed='abc' is no number"),
        (["bits.modes={a:1}"], "bits.modes is a list, as bits.modes=[2,4,8,32]"),
        (["test=1"], "test='1' is neither true nor false"),
        (["+data.size=many"], "data.size='many' is no number"),
        (["trainer.max_steps=9"], "to hand it to Lightning write +trainer.max_steps=9"),
        (["+trainer.logger=false"], "trainer.logger is set by the run itself; leave it out"),
    ],
)
def test_what_cannot_be_composed(words: list[str], message: str) -> None:
    assert message in said(*words)


@pytest.mark.parametrize(
    "words",
    [
        TINY,
        ["-m", "bits.modes=[2],[4]", "seed=0,1", "scheme=adabits,individual", "hydra/launcher=joblib"],
        ["experiment=null", "~debug", "hydra.verbose=true", "model.options={drop_rate:0.1}"],
        ["bits.first_last=mode", "trainer.devices=auto", "trainer.deterministic=warn", "train.ema=null"],
        ["data.val_size=0.1", "schedule.optimizer.lr=1e-3", "trainer.limit_train_batches=3"],
        ["trainer.devices=2", "+trainer.max_steps=9", "+trainer.detect_anomaly=true"],
        ["seed=range(0,3)", "data.split_seed=${seed}", "+anything=1", "--cfg", "job"],
    ],
)
def test_what_is_right_passes(words: list[str]) -> None:
    check_words(["-m", *words])


def test_every_option_and_every_default_passes() -> None:
    for group, names in options().items():
        for name in names:
            check_words([f"{group}={name}"])
    for key, setting in settings().items():
        value = setting.default
        if isinstance(value, int | float) and not isinstance(value, bool):
            check_words([f"{key}={value}"])


def test_settings_are_those_that_hydra_composes(tmp_path: object) -> None:
    """The key of each group's each option, by Hydra itself."""

    def keys(node: object, prefix: str = "") -> set[str]:
        if not hasattr(node, "items"):
            return set()
        return {prefix + key for key in node} | {
            found for key in node if not str(node._get_node(key)).startswith("?")
            for found in keys(node._get_node(key), f"{prefix}{key}.")
        }  # fmt: skip

    for words in (["data=samson", "scheme=random_k"], ["data=folder", "schedule=short"], ["trainer=slurm"]):
        composed = config(CONF, *words, small=False)  # type: ignore[arg-type]
        assert keys(composed) <= settings().keys()


def test_nearest_setting_prefers_the_group() -> None:
    assert nearest_setting("data.seed") == "data.seed"
    assert nearest_setting("strategy.epss") == "strategy.eps"
    assert nearest_setting("zzz") is None


def test_the_parser_is_hydras() -> None:
    assert OverridesParser.create().parse_override("bits=[2,4]").value() == [2, 4]


def test_familiar_words_are_settings_here_and_lightnings_own() -> None:
    assert {right for right in FAMILIAR.values() if right not in settings()} == set()
    values = [key for key, setting in settings().items() if not isinstance(setting.default, dict)]
    assert not FAMILIAR.keys() & {key.rpartition(".")[2] for key in values}
    known = inspect.signature(pl.Trainer).parameters.keys()
    assert {*ADDED, *SET} <= known
    named = {key.removeprefix("trainer.") for key in settings() if key.startswith("trainer.")}
    assert not {*ADDED, *SET, *FAMILIAR} & named
