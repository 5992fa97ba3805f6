"""``quantizable recipe CHECKPOINT search=bytes``: search, fine-tuning, export in one resumable command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantizable.bits import FLOAT_BITS, parse_modes
from quantizable.cli.arguments import Parser, check_data, check_listed
from quantizable.cli.finetune import plain, quoted, settings
from quantizable.cli.train import explained
from quantizable.cli.train import run as train
from quantizable.deploy.requirements import check_installed
from quantizable.interface.budget_words import read_budgets
from quantizable.interface.choices import FORMATS, FOUND, METHODS, UNIFORM
from quantizable.interface.words import listed
from quantizable.storage.network_file import check_checkpoint, read_about

TEXT = "search bits per layer, fine-tune what was found, export it; the same words go on after a kill"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand, for the list of commands; :func:`run` reads its words."""
    subparsers.add_parser("recipe", help=TEXT, add_help=False)


def parser() -> Parser:
    """What it takes."""
    own = Parser(prog="quantizable recipe", description=TEXT)
    own.add_argument("checkpoint", type=Path, help="a checkpoint of training")
    own.add_argument(
        "--output", type=Path, help="folder for all of it; default: recipe_NAME beside the checkpoint"
    )
    own.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="search=NAME of conf/search, search.KEY=VALUE of it; data.KEY=VALUE; what training takes",
    )
    return own


def run(words: Sequence[str], debug: bool = False) -> int:
    """Run the phases that are not done yet; 0 if all went well."""
    args = parser().parse_intermixed_args(words)
    own = [word for word in args.settings if word.startswith(("search=", "search."))]
    others = [word for word in args.settings if word not in own]
    check_checkpoint(args.checkpoint)
    data = [word for word in others if word.startswith(("data=", "data."))]
    check_data(data, (read_about(args.checkpoint) or {}).get("data") or {})
    names = [word.partition("=")[2] for word in own if word.startswith("search=")]
    if len(names) > 1:
        raise ValueError(f"search= names {len(names)} recipes ({', '.join(names)}); give one")
    recipe = composed(own)
    check_recipe(recipe)
    folder = args.output or args.checkpoint.parent / f"recipe_{names[0] if names else 'default'}"
    phases = Phases(args.checkpoint, folder, recipe, data, others, debug)
    phases.check_training()
    return phases.run()


def composed(words: Sequence[str]) -> dict[str, Any]:
    """The recipe that the words ask for; ``ValueError`` for one that there is not."""
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_container(_composed("recipe", words), resolve=True)
    return config["search"]  # type: ignore[no-any-return]


def _composed(name: str, words: Sequence[str]) -> Any:
    """The configuration ``conf/NAME.yaml`` with these words."""
    from hydra import compose, initialize_config_dir

    from quantizable.training.overrides import conf_folder

    with explained(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(name, overrides=[*words])


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """``ValueError`` for what only a later phase would refuse, or would misunderstand."""
    bits = recipe["bits"] or {}
    budget = _words(bits.get("budget") or "4bit")
    if len(read_budgets(budget, str(bits.get("cost") or "bops"))) > 1:
        raise ValueError(f"a recipe has one budget, not {' '.join(budget)}; run one for each")
    for key in ("alone", "compare"):
        if not isinstance(recipe[key], bool):
            raise ValueError(f"search.{key} is {recipe[key]!r}; it is true or false")
    if recipe["export"]:
        formats = _words(recipe["export"])[0]
        check_listed("format", formats, FORMATS)
        for name in listed(formats):
            check_installed(name)


class Phases:
    """What is done one after another, each once: a phase that left its last file is not done again.

    Args:
        checkpoint: to start from.
        folder: where everything is kept.
        recipe: of :func:`composed`.
        data: words ``data=NAME data.KEY=VALUE``.
        given: settings of training, with those of the data.
        debug: show the traceback of every error.
    """

    def __init__(
        self,
        checkpoint: Path,
        folder: Path,
        recipe: Mapping[str, Any],
        data: Sequence[str],
        given: Sequence[str],
        debug: bool = False,
    ) -> None:
        self.checkpoint, self.folder, self.recipe = checkpoint, folder, recipe
        self.data, self.given, self.debug = list(data), list(given), debug

    def run(self) -> int:
        """All phases; the exit status of the first that went wrong, or 0."""
        from quantizable.search.recipe import check_same_recipe, show

        check_same_recipe(self.folder, self.checkpoint, self.recipe, self.given)
        bits = self.recipe["bits"] or {}
        names = [FOUND, UNIFORM] if self.recipe["compare"] else [FOUND]
        status = self.search()
        status = status or self.evaluate(names)
        for name in names:
            status = status or self.finetune(name)
        status = status or self.export()
        if status == 0:
            show(self.folder, self.checkpoint, names, bits.get("cost") or "bops")
        return status

    def search(self) -> int:
        """``found.yaml`` and ``uniform.yaml``; scores are kept one by one."""
        from quantizable.cli import main
        from quantizable.search.recipe import choose_best

        if (self.folder / f"{FOUND}.yaml").is_file():
            return 0
        say("search", self.folder / "search")
        bits = {key: value for key, value in (self.recipe["bits"] or {}).items() if value is not None}
        asked = listed(_words(bits.pop("methods", list(METHODS)))[0])
        methods = [UNIFORM, *(method for method in asked if method != UNIFORM)]
        words = ["search", "bits", str(self.checkpoint), *self.data, "--methods", ",".join(methods)]
        for key, value in bits.items():
            words += [f"--{key.replace('_', '-')}", *_words(value)]
        status = main([*words, "--output", str(self.folder / "search")])
        if status == 0:
            choose_best(self.folder, bits.get("objective", "accuracy"))
        return status

    def evaluate(self, names: Sequence[str]) -> int:
        """The test accuracy of what was chosen before it is trained, beside that of the network's modes."""
        from quantizable.cli import main

        output = self.folder / "before"
        if (output / "results.json").is_file():
            return 0
        say("evaluation before training", output)
        files = [str(self.folder / f"{name}.yaml") for name in names]
        bits = ",".join([*files, *(read_about(self.checkpoint) or {})["modes"]])
        words = ["evaluate", str(self.checkpoint), *self.data, "--output", str(output)]
        return main([*words, "--bits", bits])

    def check_training(self) -> None:
        """``ValueError`` for a wrong setting of training: said before the search, not after it."""
        from quantizable.training.configuration import check_files, read_settings
        from quantizable.training.overrides import check_words

        modes = (read_about(self.checkpoint) or {}).get("modes") or [""]  # "": `settings` says what is wrong
        mode = modes[-1]  # what is found will stand in its place
        words = settings(mode, self.checkpoint, self._training_words(FOUND), self.recipe["alone"])
        check_words(words)
        check_files(read_settings(_composed("train", words)))

    def finetune(self, name: str) -> int:
        """A run of training in the folder of that name; it goes on from its last epoch."""
        from quantizable.training.run_names import latest, numbered

        run = self.folder / name
        if any((one / "results.json").is_file() for one in numbered(run)):
            return 0
        say("fine-tuning", run)
        words = self._training_words(name)
        if (latest(run) / "last.ckpt").is_file():
            words.append("resume=last")
        found = str(self.folder / f"{name}.yaml")
        return train(settings(found, self.checkpoint, words, self.recipe["alone"]), self.debug)

    def _training_words(self, name: str) -> list[str]:
        """Settings of the recipe, but for those that were given beside it."""
        from quantizable.training.overrides import leaves

        own = {word.partition("=")[0] for word in self.given}
        wanted = {k: v for k, v in leaves(self.recipe["finetune"] or {}) if not isinstance(v, dict)}
        if wanted.get("train.teacher") == "start":
            wanted["train.teacher"] = str(self.checkpoint)
        words = [f"{key}={plain(value)}" for key, value in wanted.items() if key not in own] + self.given
        return [*words, f"output={quoted(str(self.folder))}", f"run={name}"]

    def export(self) -> int:
        """The integers of what was found, for engines."""
        from quantizable.cli import main
        from quantizable.search.recipe import finished

        formats, done = self.recipe["export"], self.folder / "exported"
        if not formats or done.is_file():
            return 0
        run = finished(self.folder, FOUND)
        say("export", run)
        words, formats = ["export", str(run / "best.ckpt"), *self.data], listed(_words(formats)[0])
        status, graphs = 0, [name for name in formats if name != "qz"]
        if "qz" in formats:  # which holds what was found beside a uniform mode
            about = read_about(run / "best.ckpt") or {}
            highest = [mode.name for mode in parse_modes(about["modes"]) if mode.weight != FLOAT_BITS][-1]
            status = main([*words, "--bits", f"{FOUND},{highest}", "--format", "qz"])
        if graphs:
            status = status or main([*words, "--bits", FOUND, "--format", ",".join(graphs)])
        if status == 0:
            done.write_text(f"{','.join(formats)}\n")
        return status


def _words(value: Any) -> list[str]:
    """A setting as an option takes it: a list with commas, a mapping as words ``key=value``."""
    if isinstance(value, Mapping):
        return [f"{key}={one}" for key, one in value.items()]
    return [",".join(map(str, value)) if isinstance(value, list) else str(value)]


def say(phase: str, where: Path) -> None:
    """A line before each phase."""
    print(f"{phase}: {where}", flush=True)
