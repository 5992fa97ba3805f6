"""What trackers show of a run: read back from W&B's and TensorBoard's own files."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

import quantizable
from quantizable import QuantizableClassifier
from quantizable.report.runs import read_curves
from quantizable.training import trackers
from quantizable.training.loggers import has_wandb_login, make_loggers, mlflow_run, wandb_run
from quantizable.training.mode_logging import ModeLogging, mean_bits
from quantizable.training.run import train
from tests import wandb_records
from tests.tiny import config, loader, trainer

MODES = {"2": 2, "w4a8": 6, "32": 32}  # the place of each on the axis of bits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an offline run of two epochs."""
    output = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(output / "none"))
        patch.setenv("WANDB_CONFIG_DIR", str(output))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DATA_DIR", str(output))
        train(config(output, "logger=wandb", "bits.modes=[2,w4a8,32]", "train.histograms_every=2"))
        assert wandb.run is None  # the next run of a sweep gets its own
        wandb.teardown()  # waits for what is still being written
    return output / "fake_tiny_cnn"


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    (found,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return found


@pytest.fixture(scope="module")
def rows(file: Path) -> list[dict[str, Any]]:
    return wandb_records.history(file)


def series(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows if name in row]


def test_every_name_on_the_dashboard_is_one_that_a_run_logs(rows: list[dict[str, Any]], folder: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="pip install quantizable[dashboard]")
    from quantizable.report.dashboard import workspace
    from tests.cli.test_dashboard import strings

    logged = {name for row in rows for name in row}
    tables = {name.removesuffix("/_type") for row in rows for name in row if row[name] == "table-file"}
    saved = json.loads(workspace("me", "mine", list(MODES))._to_model().model_dump_json())
    stages = ("val/", "test/", "train/", "against_bits/", "throughput/", "cost/")
    shown = {one.removeprefix("summary:") for one in strings(saved)}
    shown = {one for one in shown if one.startswith(stages)}
    assert len(shown) == 4 * 3 + 2 + 3 + 3 + 3 + 1 + 1, "all of the panels"
    assert shown - logged == {"test/modes"} == tables
    fields = [one["field_settings"] for one in nodes(saved) if one.get("panel_def_id") == "wandb/scatter/v0"]
    assert fields
    assert set(fields[0].values()) <= set(table_of(folder)["columns"])


def nodes(node: Any) -> list[dict[str, Any]]:
    """Every mapping anywhere in a JSON value."""
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [one for part in inside for one in nodes(part)] + ([node] if isinstance(node, dict) else [])


def table_of(folder: Path) -> dict[str, Any]:
    (found,) = folder.glob("wandb/offline-run-*/files/media/table/test/modes_*.table.json")
    return json.loads(found.read_text())


def test_there_is_one_table_and_it_holds_the_results(folder: Path, file: Path) -> None:
    artifacts = [one.artifact for one in wandb_records.records(file) if one.HasField("artifact")]
    assert [one.type for one in artifacts].count("run_table") == 1
    table, modes = table_of(folder), json.loads((folder / "results.json").read_text())["modes"]
    assert [row[0] for row in table["data"]] == list(MODES)
    for row in table["data"]:
        cells = dict(zip(table["columns"], row, strict=True))
        assert {key: cells[key] for key in ("top1", "top5", "loss")} == pytest.approx(
            {key: modes[cells["mode"]][key] for key in ("top1", "top5", "loss")}
        )
        assert cells["bits"] == MODES[cells["mode"]]
    # by hand: multiply-adds of each layer on 8 x 8 pixels, times 8 x 8 bits in the first and the last, and
    # times the mode's in between
    ends, between = 4 * 3 * 9 * 16 + 6 * 10, 6 * 4 * 9 * 16
    cost = {"2": 64 * ends + 4 * between, "w4a8": 64 * ends + 32 * between, "32": 1024 * (ends + between)}
    place = table["columns"].index("gbops")
    assert {row[0]: row[place] for row in table["data"]} == pytest.approx(
        {m: v / 1e9 for m, v in cost.items()}
    )


def test_the_summary_keeps_best_and_last(rows: list[dict[str, Any]], file: Path) -> None:
    summary: dict[str, Any] = {}
    for one in wandb_records.records(file):
        if one.HasField("summary"):
            summary |= wandb_records.items(one.summary.update)
    for mode in MODES:
        for name, best in (("top1", max), ("top5", max), ("loss", min), ("disagreement", min)):
            values = series(rows, f"val/{name}/{mode}")
            assert len(values) == 2
            key = "max" if best is max else "min"
            assert summary[f"val/{name}/{mode}"] == {key: best(values), "last": values[-1]}
    defined = wandb_records.metrics(file)
    assert all(defined[f"val/top1/{mode}"].step_metric == "epoch" for mode in (*MODES, "mean", "lowest"))


def test_each_epoch_is_a_line_against_true_bits(rows: list[dict[str, Any]]) -> None:
    points = [row for row in rows if "against_bits/bits" in row]
    assert [(row["against_bits/epoch"], row["against_bits/bits"]) for row in points] == [
        (epoch, bits) for epoch in (0, 1) for bits in MODES.values()
    ]
    for epoch in (0, 1):
        found = [row["against_bits/top1"] for row in points if row["against_bits/epoch"] == epoch]
        assert found == [series(rows, f"val/top1/{mode}")[epoch] for mode in MODES]


def test_histograms_are_those_of_the_integers(rows: list[dict[str, Any]], folder: Path) -> None:
    """Of the last epoch; the weights of last.ckpt, quantized here by the formula of LSQ."""
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    weight = state["network.model.body.0.weight"]
    scale = state["network.model.body.0.weight_quantizer.levels.4.scale"]
    codes = torch.clamp(torch.round(weight / scale.view(-1, 1, 1, 1)), -8, 7)
    name = "weight_codes/body.0/w4a8"
    (counts,), (edges,) = series(rows, f"{name}/values"), series(rows, f"{name}/bins")
    found = {low + 0.5: count for low, count in zip(edges, counts, strict=False) if count}
    values, expected = np.unique(codes.numpy(), return_counts=True)
    assert found == dict(zip(values.tolist(), expected.tolist(), strict=True))
    (step,) = series(rows, "input_step/body.0/w4a8")
    assert step == pytest.approx(state["network.model.body.0.input_quantizer.levels.8.scale"].item())
    assert "weight_codes/body.0/32/values" not in {key for row in rows for key in row}


def test_the_integers_are_an_artifact_with_their_accuracy(folder: Path, file: Path) -> None:
    (run,) = (one.run for one in wandb_records.records(file) if one.HasField("run"))
    artifacts = [one.artifact for one in wandb_records.records(file) if one.HasField("artifact")]
    (model,) = (one for one in artifacts if one.type == "model")
    modes = json.loads((folder / "results.json").read_text())["modes"]
    assert json.loads(model.metadata) == {"modes": modes}
    (entry,) = model.manifest.contents
    path = Path(entry.local_path).rename(folder / entry.path)
    network = quantizable.load(path)
    assert [mode.name for mode in network.modes] == ["2", "w4a8"]
    assert run.run_group == "fake_tiny_cnn"
    assert list(run.tags) == ["fake", "tiny_cnn", "lsq", "quantizable", "bits 2,w4a8,32"]


def test_the_run_can_be_compared_and_its_speed_is_known(rows: list[dict[str, Any]], folder: Path) -> None:
    curves = read_curves(folder)
    for mode in MODES:
        assert [top1 for _, top1 in curves[mode]] == pytest.approx(series(rows, f"val/top1/{mode}"))
    rates = series(rows, "throughput/images_per_second")
    assert len(rates) == 2
    assert all(0 < rate < math.inf for rate in rates)


def test_images_per_second_are_those_of_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clock that goes on by a second at each look: 4 batches of 8 images in 4 seconds."""
    clock = iter(range(1000))
    monkeypatch.setattr("quantizable.training.mode_logging.time.perf_counter", lambda: next(clock))
    callback = ModeLogging()
    run = trainer(max_epochs=1, callbacks=[callback], val_check_interval=2, num_sanity_val_steps=0)
    run.fit(QuantizableClassifier("tiny_cnn", 10, [2, 32]), loader(4), loader(1))
    assert (callback.images, callback.seconds) == (32, 4)


# -- other trackers ---------------------------------------------------------------------------------


def test_tensorboard_shows_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install quantizable[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [TensorBoardLogger(tmp_path, name="", version=""), CSVLogger(tmp_path, name="csv")]
    run = trainer(max_epochs=2, logger=loggers, callbacks=[ModeLogging(histograms_every=2)])
    module = QuantizableClassifier("tiny_cnn", 10, [2, "w4a8", 32])
    module.example_input_array = torch.zeros(1, 3, 8, 8)
    run.fit(module, loader(2), loader(1))
    metrics = run.test(module, loader(1), verbose=False)[0]
    events = EventAccumulator(str(tmp_path), {"histograms": 0}).Reload()
    tags = events.Tags()
    assert len(events.Scalars("throughput/images_per_second")) == 2
    for mode in MODES:
        assert events.Scalars(f"test/top1/{mode}")[-1].value == pytest.approx(metrics[f"test/top1/{mode}"])
        assert f"cost/gbops/{mode}" in tags["scalars"]
    (histogram,) = events.Histograms("weight_codes/body.0/w4a8")
    assert histogram.histogram_value.num == module.network.model.body[0].weight.numel()
    assert "input_step/body.0/w4a8" in tags["scalars"]
    (text,) = events.Tensors("test/modes/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert [line.split(" | ")[0] for line in table.splitlines()] == [
        "| mode",
        "| ---",
        "| 2",
        "| w4a8",
        "| 32",
    ]
    logged = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert "throughput" not in logged, "one seed fills it with the same numbers"


def test_mlflow_shows_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its database needs more than mlflow-skinny
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger("modes", tracking_uri=f"file:{tmp_path}")
    run = trainer(max_epochs=1, logger=logger, callbacks=[ModeLogging(1)])
    module = QuantizableClassifier("tiny_cnn", 10, [2, 32])
    run.fit(module, loader(2), loader(1))
    metrics = run.test(module, loader(1), verbose=False)[0]
    kept = logger.experiment.get_run(logger.run_id)
    assert kept.data.metrics["test/top1/2"] == pytest.approx(metrics["test/top1/2"])
    assert kept.data.metrics["throughput/images_per_second"] > 0
    assert kept.data.params["model"] == "tiny_cnn"
    (table,) = tmp_path.rglob("modes.csv")
    assert table.read_text().startswith("mode,bits,top1")


def test_a_resumed_run_is_the_same_run_of_wandb(
    folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    shutil.copytree(folder, tmp_path / folder.name)
    words = ("logger=wandb", "bits.modes=[2,w4a8,32]", "schedule.epochs=3", "resume=last")
    train(config(tmp_path, *words))
    wandb.teardown()
    first, second = sorted((tmp_path / folder.name).glob("wandb/offline-run-*/run-*.wandb"))
    assert first.name == second.name == file.name
    runs = [one.run for one in wandb_records.records(second) if one.HasField("run")]
    assert f"run-{runs[0].run_id}.wandb" == file.name
    assert {row["epoch"] for row in wandb_records.history(second) if "val/top1/2" in row} == {2}


class MLFlowLogger:
    """Stands for Lightning's where MLflow is not installed."""

    def __init__(self, run_name: str, run_id: str | None = None) -> None:
        self.begun, self.settings = run_id, []

    @property
    def run_id(self) -> str:
        if self.begun == "gone":
            raise RuntimeError("RESOURCE_DOES_NOT_EXIST")
        return self.begun or "new"

    def log_hyperparams(self, settings: dict[str, Any]) -> None:
        self.settings.append(settings)


def test_a_resumed_run_is_the_same_run_of_mlflow(tmp_path: Path) -> None:
    chosen = OmegaConf.create({"logger": {"_target_": f"{__name__}.MLFlowLogger"}})
    first, second = (make_loggers({"seed": 0}, chosen, tmp_path, None)[0] for _ in range(2))
    assert (first.begun, first.settings) == (None, [{"seed": 0}])
    assert (second.begun, second.settings) == ("new", [])  # MLflow takes no setting twice
    (tmp_path / "mlflow_run_id").write_text("gone")
    with pytest.raises(ValueError, match=r"no run gone, .* remove .*mlflow_run_id to begin another"):
        make_loggers({}, chosen, tmp_path, None)


def test_the_latest_start_names_the_run(tmp_path: Path) -> None:
    assert wandb_run(tmp_path) is mlflow_run(tmp_path) is None
    for name in ("run-20260101_120000-later-id", "offline-run-20250101_120000-earlier", "latest-run", "logs"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert wandb_run(tmp_path) == "later-id"


# -- small parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "bits"), MODES.items())
def test_a_mode_has_a_place_on_the_axis_of_bits(mode: str, bits: float) -> None:
    assert mean_bits(quantizable.BitMode.parse(mode)) == bits


@pytest.mark.parametrize("value", [0, -1, 1.5, "x"])
def test_an_interval_of_histograms_is_a_number_of_epochs(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"histograms_every=.*give a number of epochs, at least 1, or None"):
        train(config(tmp_path, f"train.histograms_every={value}"))


def test_integers_have_a_bar_each() -> None:
    codes = np.array([-2, 1, 1, -1], dtype=float)
    assert trackers.edges_of(codes).tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5]
    assert len(trackers.edges_of(np.array([0.1, 0.7]))) == 65
    assert len(trackers.edges_of(np.arange(-(2.0**15), 2.0**15))) == 65


@pytest.mark.parametrize(
    ("server", "machine", "known"),
    [
        (None, "api.wandb.ai", True),
        ("https://wandb.example.org", "wandb.example.org", True),
        ("https://wandb.example.org:8080/", "wandb.example.org:8080", True),
        ("https://wandb.example.org", "api.wandb.ai", False),
        (None, "wandb.example.org", False),
    ],
)
def test_a_login_is_one_for_the_server_in_use(
    server: str | None, machine: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    assert has_wandb_login() is known
    (tmp_path / "netrc").unlink()
    assert not has_wandb_login()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_wandb_login()
