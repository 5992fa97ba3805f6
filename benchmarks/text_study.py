"""The study of quantized networks for reliable deployment (Hu et al., CAIN 2023), on text.

    python benchmarks/text_study.py --data text --stage rates
    python benchmarks/text_study.py --data text
    python benchmarks/text_study.py --tables --write docs/results/text.md

``--data`` is a folder with SST-2 (stsa.binary.*), movie reviews (rt-polarity.all), TREC questions, customer
reviews (custrev.all) and the UCI sentences. A *cell* is one network (LSTM, GRU) on one data set with one
seed. It trains a float network (``standard``), one with mixup and one under attack, which are quantized by
calibration alone, and from the float network, for further epochs, one in all modes (``switchable``) and one
for each mode alone. All are shown the same texts. To save time there is one seed of mixup and attack, and no
mode alone on TREC, whose six classes are there for the indicators. Stage ``rates`` tries learning rates on
seed 0 and looks at the validation texts alone; the best go into ``RATES``. A run that is finished is not
trained again, and a cell that is in ``docs/results/evidence/text/`` is not measured again. ``--tables``
shows what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from runs import ROOT, finished
from steps import command_line, machine, positive
from text_tables import report, write
from torch import Tensor

from quantizable import load, quantize
from quantizable.assess.callables import Model, mode_models, probabilities
from quantizable.assess.cascade import cascade, thresholds_for
from quantizable.assess.indicators import indicator_quality
from quantizable.assess.repair import repair
from quantizable.assess.texts import Texts, texts_of
from quantizable.data import Text
from quantizable.data.words import PADDING, padded, words_of
from quantizable.measure.cost import layer_costs
from quantizable.network import QuantizableNetwork
from quantizable.report.files import write_json
from quantizable.training.run import train

KEPT = ROOT / "docs" / "results" / "evidence" / "text"
MODES = [2, 4, 8, 32]
FILES = {
    "sst2": {"train": "stsa.binary.train", "val": "stsa.binary.dev", "test": "stsa.binary.test"},
    "reviews": {"train": "rt-polarity.all"},  # a tenth of it is held out to test, a tenth to choose
    "trec": {"train": "TREC.train.all", "test": "TREC.test.all"},
}
SAME: dict[str, Any] = {"min_frequency": 2, "layout": "auto"}  # so that the unknown word is trained, too
NATURAL = {  # the first lines of two files are a chat in another language
    "customers": ("custrev.all", 0),
    "yelp": ("uci_yelp_labelled.txt", 0),
    "amazon": ("uci_amazon_cells_labelled.txt", 62),
    "imdb": ("uci_imdb_labelled.txt", 55),
}
SEVERITY = 3  # of synthetic shifts; on seed 0 of the networks that are measured in all modes: all five
FLOAT = ("standard", "mixup", "adversarial")  # trained in float, then calibrated
EPOCHS = {"float": 6, "further": 2}
TRIED = {"float": (0.002, 0.004, 0.008), "further": (0.0005, 0.001, 0.002)}
# The best of TRIED on the validation texts (stage rates, SST-2, seed 0). For further training of the GRU none
# were tried: it has those of the LSTM.
RATES = {
    "lstm": {"float": 0.002, "switchable": 0.002, "alone": 0.002},
    "gru": {"float": 0.008, "switchable": 0.002, "alone": 0.002},
}
REPAIR: dict[str, Any] = {"steps": 50, "lr": 0.05}
OPTIMIZER = (  # of all runs
    "model.options={drop_rate:0.3,pool:last}",
    "schedule.optimizer.name=adamw",
    "schedule.optimizer.weight_decay=0.01",
    "schedule.optimizer.schedule=linear",
    "train.clip_norm=1.0",
    "trainer.precision=32-true",
    "data.batch_size=128",
)


def words_for(data: str, root: Path) -> list[str]:
    """``data=text data.KEY=VALUE`` of a data set."""
    options = {"root": root, **FILES[data], **SAME}
    return ["data=text", *(f"data.{key}={value}" for key, value in options.items())]


def run(args: argparse.Namespace, name: str, *said: str) -> tuple[Path, dict[str, Any]]:
    """Checkpoint and results of a run of train.py, in this process; trained unless it is finished."""
    folder = finished(name, args.output)
    if folder is None:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            words = [*said, f"run={name}", f"output={args.output}", "trainer=cpu"]
            train(compose("train", words))
        folder = finished(name, args.output)
        assert folder is not None
    return folder / "best.ckpt", json.loads((folder / "results.json").read_text())


def side(args: argparse.Namespace, model: str, data: str, seed: int, name: str) -> tuple[str, list[str]]:
    """Which learning rate a strategy uses, and the words that train it, but for rate and epochs."""
    words = [f"model={model}", *words_for(data, args.data), *OPTIMIZER, f"seed={seed}", "test=false"]
    if name in FLOAT:
        return "float", [*words, "scheme=individual", "bits.modes=[32]", f"strategy={STRATEGIES[name]}"]
    words += [f"model.weights={float_weights(trained(args, model, data, seed, 'standard')[0])}"]
    if name == "switchable":
        return name, [*words, f"bits.modes={MODES}".replace(" ", "")]
    return "alone", [*words, "scheme=individual", f"bits.modes=[{name}]"]


STRATEGIES = {
    "standard": "standard",
    "mixup": "mixup",
    # one step from a random start (Wong et al., ICLR 2020); 0.05 leaves the LSTM at chance
    "adversarial": "adversarial strategy.eps=0.01 strategy.step=0.0125 strategy.iterations=1",
}


def float_weights(checkpoint: Path) -> Path:
    """The file of the float network's weights beside its checkpoint, from which further training starts."""
    path = checkpoint.with_name("float.pth")
    if not path.exists():
        torch.save(load(checkpoint).to_float().state_dict(), path)
    return path


def trained(
    args: argparse.Namespace, model: str, data: str, seed: int, name: str, rate: float | None = None
) -> tuple[Path, dict[str, Any]]:
    """The run of one strategy at its learning rate, or at another that is tried."""
    kind, words = side(args, model, data, seed, name)
    words = [part for word in words for part in word.split(" ")]
    epochs = EPOCHS["float" if kind == "float" else "further"]
    rate = rate or RATES[model][kind]
    words += [f"schedule.epochs={epochs}", f"schedule.optimizer.lr={rate}"]
    return run(args, f"text_{model}_{data}_{seed}_{name}_{epochs}epochs_rate{rate}", *words)


def try_rates(args: argparse.Namespace) -> None:
    """Print the validation accuracy of each side at each rate."""
    for model in args.models:
        for name in ("standard", "switchable", "4"):  # the rate of 4 bits is that of all modes alone
            tried = TRIED["float" if name in FLOAT else "further"]
            found = {}
            for rate in tried:
                _, results = trained(args, model, "sst2", 0, name, rate)
                top1 = [values["top1"] for values in results["modes"].values()]
                found[rate] = round(100 * sum(top1) / len(top1), 2)
            if name in FLOAT:
                RATES[model]["float"] = max(found, key=lambda rate: found[rate])
            print(f"{model} {name}: {found}, best {max(found, key=lambda rate: found[rate])}", flush=True)


# -- what is shown to the networks ---------------------------------------------------------------------


def read(file: Path, skipped: int) -> tuple[list[str], Tensor]:
    """Texts of two classes; lines without words, which the data module refuses, are left out."""
    texts, labels = [], []
    for line in file.read_text(errors="replace").split("\n")[skipped:]:
        label, text = line.rpartition("\t")[::-2] if "\t" in line else line.partition(" ")[::2]
        if label.strip() in ("0", "1") and words_of(text):
            texts.append(text)
            labels.append(int(label))
    return texts, torch.tensor(labels)


def sets_of(data: Text, name: str, root: Path, severities: list[int]) -> dict[str, Texts]:
    """The test texts, the natural shifts where the classes are theirs, and the synthetic ones."""
    test = texts_of(data).with_synonyms(texts_of(data, "train").ids)
    sets = {"test": test}
    for natural, (file, skipped) in () if name == "trec" else NATURAL.items():
        texts, labels = read(root / file, skipped)
        sets[natural] = Texts(padded(data.encode(texts)), labels, test.words, test.class_names)
    for shift in test.suite():
        for severity in severities:
            sets[f"{shift} {severity}"] = test.corrupted(shift, severity)
    return sets


def answers(models: dict[str, Model], texts: Texts, batch: int = 256) -> dict[str, Tensor]:
    """Probabilities ``[N, K]`` by model; texts of similar length go together."""
    order = (texts.ids != PADDING).sum(1).argsort()
    found = probabilities(models, texts.ids[order], batch)
    return {name: torch.empty_like(rows).index_copy(0, order, rows) for name, rows in found.items()}


def measured(outputs: dict[str, dict[str, Tensor]], sets: dict[str, Texts]) -> dict[str, Any]:
    """Per set the accuracy of each mode, and how often it differs from the last; and the indicators."""
    rows = {}
    for name, by_mode in outputs.items():
        *lows, top = by_mode
        wanted = by_mode[top].argmax(1)
        rows[name] = {
            "texts": len(wanted),
            "accuracy": {m: mean(p.argmax(1) == sets[name].labels) for m, p in by_mode.items()},
            "differs": {m: mean(by_mode[m].argmax(1) != wanted) for m in lows},
        }
    return rows


def mean(mask: Tensor) -> float:
    """The share of True."""
    return round(mask.double().mean().item(), 6)


def indicators(outputs: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """AUROC by mode and indicator, over all sets together."""
    together = {m: torch.cat([o[m] for o in outputs.values()]) for m in next(iter(outputs.values()))}
    *lows, top = together
    found = {}
    for low in lows:
        differ = together[low].argmax(1) != together[top].argmax(1)
        if 2 <= int(differ.sum()) <= len(differ) - 2:
            quality = indicator_quality(together[low], differ, resamples=1)
            found[low] = {name: round(one.auroc[0], 5) for name, one in quality.items()}
    return found


def cascades(
    outputs: dict[str, dict[str, Tensor]], sets: dict[str, Texts], bops: dict[str, float]
) -> dict[str, list[dict[str, float]]]:
    """2 bits, then 8 where unsure, and 4, then 8: thresholds from one half of the texts of all sets, figures
    from the other."""
    together = {m: torch.cat([o[m] for o in outputs.values()]) for m in next(iter(outputs.values()))}
    labels = torch.cat([texts.labels for texts in sets.values()])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fit, held = order[::2], order[1::2]
    found = {}
    for low, high in (("2", "8"), ("4", "8")):
        thresholds = thresholds_for(together[low][fit], (0.0, 0.05, 0.1, 0.2, 0.3, 1.0))
        points = cascade(
            together[low][held], together[high][held], together["32"][held], labels[held],
            (bops[low], bops[high]), thresholds,
        )  # fmt: skip
        kept = ("escalated", "accuracy", "disagreement", "bops")
        found[f"{low} then {high}"] = [{key: getattr(point, key) for key in kept} for point in points]
    return found


def repairs(network: QuantizableNetwork, held: Texts, test: Texts, seed: int) -> dict[str, Any]:
    """Of each low mode: repaired on held-out texts and their corruptions, counted on the test texts."""
    parts = [held, *(held.corrupted(name, SEVERITY) for name in held.suite())]
    rows = [part.ids for part in parts]
    train = Texts(torch.cat(rows), held.labels.repeat(len(rows)), held.words, held.class_names)
    found = {}
    for mode in network.modes[:-1]:
        try:
            found[mode.name] = vars(repair(network, mode, train, test, **REPAIR, seed=seed)[1])
        except ValueError as error:
            found[mode.name] = {"skipped": str(error)}
    return found


# -- one cell ------------------------------------------------------------------------------------------


def calibrated(checkpoint: Path, data: Text) -> QuantizableNetwork:
    """The float network of a checkpoint in all modes, quantized without training."""
    float_network = load(checkpoint)
    network = quantize(float_network.to_float(), MODES).eval()
    network.calibrate(data.train_dataloader())
    return network


def cell(args: argparse.Namespace, model: str, data_name: str, seed: int) -> dict[str, Any]:
    """Train what is lacking, and measure all."""
    began = time.perf_counter()
    options: dict[str, Any] = {**FILES[data_name], **SAME}
    data = Text(args.data, **options)
    severities = [1, 2, 3, 4, 5] if seed == 0 else [SEVERITY]
    sets = sets_of(data, data_name, args.data, severities)
    few = {name: texts for name, texts in sets.items() if name[-1] == str(SEVERITY) or " " not in name}
    held = replace(texts_of(data, "val"), words=sets["test"].words)
    where = machine("cpu") | {"command": f"python benchmarks/{Path(__file__).name} --data text"}
    about: dict[str, Any] = {"model": model, "data": data_name, "seed": seed, "machine": where}
    about |= {"epochs": EPOCHS, "rates": RATES[model], "words": len(data.vocabulary), "strategies": {}}

    def keep(name: str, results: dict[str, Any], outputs: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        one: dict[str, Any] = {"train_seconds": results["train_seconds"], "sets": measured(outputs, sets)}
        about["strategies"][name] = one
        return one

    reference: dict[str, Tensor] = {}
    for name in ("standard", "switchable", "mixup", "adversarial"):
        if name in ("mixup", "adversarial") and (data_name == "trec" or seed):
            continue
        checkpoint, results = trained(args, model, data_name, seed, name)
        network = calibrated(checkpoint, data) if name in FLOAT else load(checkpoint)
        shown = sets if name in ("standard", "switchable") else few
        outputs = {which: answers(mode_models(network), texts) for which, texts in shown.items()}
        one = keep(name, results, outputs)
        one["indicators"] = indicators({which: outputs[which] for which in few})
        if name == "standard":
            reference = {which: rows["32"] for which, rows in outputs.items()}
        if name in ("standard", "switchable"):
            one["repair"] = repairs(network, held, sets["test"], seed)
        if name == "switchable":
            bops = {str(mode): 0.0 for mode in network.modes}
            for cost in layer_costs(network, (20,)):
                bops[cost.mode] += cost.bops
            one["cascade"] = cascades({which: outputs[which] for which in few}, few, bops)
    for mode in map(str, () if data_name == "trec" else MODES):
        checkpoint, results = trained(args, model, data_name, seed, mode)
        own = mode_models(load(checkpoint))[mode]
        outputs = {
            which: {f"{mode} alone": answers({mode: own}, texts)[mode], "32": reference[which]}
            for which, texts in few.items()
        }
        keep(f"{mode} alone", results, outputs)
    return about | {"seconds": round(time.perf_counter() - began)}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, help="folder with the files of texts")
    parser.add_argument("--stage", choices=["rates", "study"], default="study")
    parser.add_argument("--models", nargs="+", choices=["lstm", "gru"], default=["lstm", "gru"])
    parser.add_argument("--sets", nargs="+", choices=[*FILES], default=[*FILES])
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--output", type=Path, default=Path("checkpoints/evidence"))
    parser.add_argument("--tables", action="store_true", help="print the tables of what is measured, and end")
    parser.add_argument("--write", type=Path, help="a Markdown file that gets the tables between its marks")
    args = parser.parse_args()
    if not args.tables:
        if args.data is None:
            parser.error("give --data, the folder with the files of texts")
        torch.set_num_threads(1)
        args.data, args.output = args.data.resolve(), args.output.resolve()
        if args.stage == "rates":
            try_rates(args)
            return
        for seed in range(args.seeds):
            for name in args.sets:
                for model in args.models:
                    file = KEPT / f"{model}_{name}_{seed}.json"
                    if not file.exists():
                        KEPT.mkdir(parents=True, exist_ok=True)
                        write_json(file, cell(args, model, name, seed))
                        print(f"kept {file.name}", flush=True)
    cells = [json.loads(file.read_text()) for file in sorted(KEPT.glob("*_*_*.json"))]
    print(report(cells))
    if args.write:
        write(args.write, cells)


if __name__ == "__main__":
    main()
