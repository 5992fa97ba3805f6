"""The words behind ``quantizable train``, checked against ``conf/`` before Hydra composes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType, QuotedString
from hydra.errors import OverrideParseException

from quantizable.bits import BitMode
from quantizable.interface.errors import nearest, one_line
from quantizable.training.familiar_words import ADDED, FAMILIAR, SET

OPTIONAL = ("experiment", "debug")  # groups of which none need be chosen
ELSEWHERE = ("search",)  # of `quantizable recipe`
MAIN = {"bits": "modes", "schedule": "epochs", "trainer": "devices"}  # what a number or a list is meant for
# where a word or a list may stand in place of the number or the truth value that is the default
ANY_KIND = ("bits.first_last", "trainer.devices", "trainer.deterministic", "logger.log_model")


@dataclass(frozen=True)
class Setting:
    """What ``conf/`` says of a setting.

    Attributes:
        default: its value in the first file that has it.
        places: the options that have it, as ``data=fake``; none for a setting of ``train.yaml``.
    """

    default: Any
    places: list[str] = field(default_factory=list)


def conf_folder() -> Path:
    """``conf/``: of the repository, or inside an installed package.

    Raises:
        FileNotFoundError: neither is there.
    """
    here = Path(__file__).parents[1]
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"there is no conf/train.yaml beside {here} or in it; install quantizable again")


def check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra would answer with a traceback, or with words that do not help.

    Args:
        words: of the command line, Hydra's own flags among them.

    Raises:
        ValueError: a word that is neither flag nor setting, a group without such an option, or an unknown
            setting; the message names the nearest right one.
    """
    flags, left = get_args_parser().parse_known_args(list(words))
    if left:
        key, equals, value = left[0].lstrip("-").partition("=")
        right = nearest_setting(key.replace("-", "_"))
        value = value if equals else next(iter(words[list(words).index(left[0]) + 1 :]), "...")
        hint = f"; settings have no dashes: {right}={value}" if right else ""
        raise ValueError(f"{left[0]} is no flag{hint} (quantizable train --help lists what there is)")
    for word in flags.overrides:
        check_word(word, flags.multirun)


def check_word(word: str, sweep: bool = True) -> None:
    """``ValueError`` if the word is no override, or one that cannot be composed; see :func:`check_words`."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except OverrideParseException as error:
        if "=" not in word:
            raise ValueError(f"{word!r} is no setting; write {or_group(word)}") from error
        raise ValueError(f"{word!r} cannot be parsed: {one_line(error).partition(' See http')[0]}") from error
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        return
    if key in options():
        check_group(override)
    elif override.type is not OverrideType.DEL and key.startswith("trainer.") and key not in settings():
        check_trainers(override)
    elif override.type is OverrideType.CHANGE and key not in settings():
        raise ValueError(f"there is no setting {key!r}{hint_for(key, word.partition('=')[2])}")
    elif override.is_sweep_override() and not sweep:
        values = word.partition("=")[2]
        raise ValueError(
            f"{word} gives several values; add -m to run each, or write {key}=[{values}] for a list"
        )
    elif override.type is not OverrideType.DEL and key in settings():
        for value in values_of(override):
            check_kind(override, value)


def check_trainers(override: Override) -> None:
    """``ValueError`` unless the word adds an argument of Lightning's Trainer that a run can hand on."""
    key, value = override.key_or_group, str(override.input_line).partition("=")[2]
    name = key.removeprefix("trainer.")
    if name in SET:
        raise ValueError(f"{key} is set by the run itself; leave it out")
    added = override.type is not OverrideType.CHANGE
    if name in ADDED and not added:
        raise ValueError(f"conf/trainer does not name {name}; to hand it to Lightning write +{key}={value}")
    if not added or name in FAMILIAR:
        raise ValueError(f"there is no setting {key!r}{hint_for(key, value)}")


def values_of(override: Override) -> list[Any]:
    """The value of an override, or all those of a sweep that names them."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return list(value.list)
    return [] if override.is_sweep_override() else [value]


def check_kind(override: Override, value: Any) -> None:
    """``ValueError`` if the value is of another kind than the setting's own: no number, say, or no group."""
    key, default = override.key_or_group, settings()[override.key_or_group].default
    if isinstance(default, dict) and not isinstance(value, dict):
        parts = branch(key)
        right = f"{key}.{'name' if 'name' in parts else parts[0]}"
        raise ValueError(
            f"{override.input_line}: {key} holds {', '.join(parts)}; give one of them, as {right}=..."
        )
    if isinstance(default, list) and isinstance(value, dict):
        raise ValueError(f"{override.input_line}: {key} is a list, as {key}={written(default)}")
    if key in ANY_KIND or str(value).startswith("${"):  # a reference to another setting
        return
    truth = isinstance(default, bool)
    if truth and not isinstance(value, bool):
        raise ValueError(f"{key}={written(value)!r} is neither true nor false, as in {key}=true")
    if isinstance(default, int | float) and not truth and not is_number(value):
        raise ValueError(f"{key}={written(value)!r} is no number; give one, as {key}={default}")


def check_group(override: Override) -> None:
    """``ValueError`` if the override of a group does not name one of its files."""
    group, word = override.key_or_group, override.input_line
    known = options()[group]
    if override.is_delete():
        if group not in OPTIONAL:
            raise ValueError(f"{word}: training needs {group}; there are {', '.join(known)}")
        return
    values = values_of(override)
    for value in values:
        name = value.text if isinstance(value, QuotedString) else value
        if (isinstance(name, str) and name in known) or (name is None and group in OPTIONAL):
            continue
        swept = len(values) > 1 and not any(one in known for one in values)
        meant = meaning(group, values if swept else name)
        hint = f"did you mean {meant}? There" if meant else "there"
        raise ValueError(f"{word} is no {group}; {hint} are {', '.join(known)}")


def meaning(group: str, value: Any) -> str | None:
    """What may have been meant by ``group=value``, as it is written; None if nothing is near.

    >>> meaning("bits", [2, 4]), meaning("schedule", {"lr": 0.1})
    ('bits.modes=[2,4]', 'schedule.optimizer.lr=0.1')
    """
    known = options()[group]
    if isinstance(value, dict):
        names = {key: nearest_setting(f"{group}.{key}") or f"{group}.{key}" for key in value}
        return " ".join(f"{names[key]}={written(inner)}" for key, inner in value.items()) or None
    items = value if isinstance(value, list) else [value]
    if group in MAIN and items and all(map(is_mode if group == "bits" else is_count, items)):
        listed = value if group != "bits" else items
        return f"{group}.{MAIN[group]}={written(listed)}"
    first = items[0] if items else None
    if not isinstance(first, str):
        return None
    close = first if first in known else nearest(first, known)
    if group == "model":
        other = f"model=timm model.name={first}"
        return f"model={close}" if first in known else f"model={close} or {other}" if close else other
    if group == "data" and not close and first and ("/" in first or Path(first).is_dir()):
        return f"data=folder data.root={first}"
    return f"{group}={close}" if close else None


def is_number(value: Any) -> bool:
    """True for a number that is no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """True for an integer that is no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_mode(value: Any) -> bool:
    """True for what :class:`quantizable.bits.BitMode` understands."""
    try:
        return bool(BitMode.parse(value))
    except ValueError:
        return False


def written(value: Any) -> str:
    """A value as the command line takes it, without spaces."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return str(value)


def or_group(word: str) -> str:
    """How a word without ``=`` is written: the option with its group, or any setting."""
    for group, known in options().items():
        if word in known and word != "default":
            return f"{group}={word}"
    right = nearest_setting(word)
    return f"{right}=..." if right else "KEY=VALUE, as model=resnet18"


def hint_for(key: str, value: str) -> str:
    """What to write instead of an unknown key: behind the message, with the user's own value."""
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        parent = ".".join(parts[:end])
        if parent in settings() and parent not in options() and not branch(parent):  # it is empty by default
            for name in reversed(parts[end:]):
                value = f"{{{name}:{value}}}"
            return f"; write {parent}={value}"
    if right := nearest_setting(key):
        return f"; did you mean {right}={'fast' if right == 'debug' else value}?"
    own = branch(parts[0])
    return f"; {parts[0]} has {', '.join(own)}" if own else f"; there are {', '.join(branch(''))}"


def nearest_setting(key: str) -> str | None:
    """The full name of the setting that is most like ``key``: by its last part, then as a whole.

    >>> nearest_setting("schedule.lr"), nearest_setting("modle"), nearest_setting("train.emma")
    ('schedule.optimizer.lr', 'model', 'train.ema')
    """
    known, last = list(settings()), key.rpartition(".")[2]
    if key in known:
        return key
    if last in FAMILIAR:
        return FAMILIAR[last]
    inside = [name for name in known if name.startswith(f"{key.split('.')[0]}.")]
    for names in (inside, known):
        ends = [name for name in names if name.rpartition(".")[2] == last and name not in options()]
        if ends:
            return nearest(key, ends) or ends[0]
    if not inside:
        return nearest(key, known)
    by_last = {name.rpartition(".")[2]: name for name in inside}
    close = nearest(last, by_last)
    return by_last[close] if close else None


@cache
def options() -> dict[str, list[str]]:
    """The files of each group, without their ending."""
    folders = (path for path in conf_folder().iterdir() if path.is_dir() and path.name not in ELSEWHERE)
    groups = sorted(folders)
    return {group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in groups}


@cache
def settings() -> dict[str, Setting]:
    """Every setting by its full name, groups and inner nodes too."""
    found = {key: Setting(value) for key, value in leaves(_read("train"))}
    found |= {group: Setting(None) for group in options()}
    for group in (group for group in options() if group not in OPTIONAL):
        for name in options()[group]:
            for content in _with_defaults(group, name):
                for key, value in leaves(content, f"{group}."):
                    places = found.setdefault(key, Setting(value)).places
                    places.extend([f"{group}={name}"] if f"{group}={name}" not in places else [])
    return found


def branch(key: str) -> list[str]:
    """The settings directly below one; none if it holds a value."""
    start = f"{key}." if key else ""
    inside = (name.removeprefix(start) for name in settings() if name.startswith(start))
    return [part for part in dict.fromkeys(name.split(".")[0] for name in inside) if part != "_target_"]


def _with_defaults(group: str, name: str) -> Iterator[dict[str, Any]]:
    content = _read(f"{group}/{name}")
    for base in content.get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            yield from _with_defaults(group, base)
    yield content


@cache
def _read(name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was compiled
    return yaml.load((conf_folder() / f"{name}.yaml").read_text(), loader) or {}


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a configuration with their values, those of its inner nodes too."""
    for key, inner in node.items() if isinstance(node, dict) else ():
        if key not in ("defaults", "hydra"):
            yield prefix + key, inner
            yield from leaves(inner, f"{prefix}{key}.")


def explanation(error: BaseException) -> str:
    """What Hydra says of a configuration that cannot be composed, on one line."""
    text = one_line(error).partition("Config search path:")[0].strip()
    typo = re.match(r"Could not override '([\w./@]+)'", text)
    if typo and (setting := settings().get(typo[1])) and setting.places:
        return f"{typo[1]} is a setting of {', '.join(setting.places)} alone"
    return text
