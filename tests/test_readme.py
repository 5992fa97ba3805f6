"""README and docs are true: their code runs, commands and tables name what there is, links lead somewhere."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from quantizable import QUANTIZERS
from tests.tiny import CONF, config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_python_blocks_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for shipped in (ROOT / "checkpoints").glob("*.qz"):
        shutil.copy(shipped, tmp_path / "checkpoints")
    found = blocks("python")
    assert found
    names: dict[str, object] = {"__name__": "readme"}
    for number, code in enumerate(found):
        exec(compile(code, f"README.md, block {number + 1}", "exec"), names)


def commands() -> list[str]:
    lines = re.findall(r"python train\.py([^\n#`]*)", README + TRAINING)
    return sorted({line.strip() for line in lines})


@pytest.mark.parametrize("words", commands())
def test_the_commands_compose(words: str, tmp_path: Path) -> None:
    *flags, overrides = words.split(maxsplit=1) if words.startswith("-m ") else (words,)
    parsed = OverridesParser.create().parse_overrides(overrides.split())
    assert any(one.is_sweep_override() for one in parsed) == bool(flags)
    first = [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}"
        if one.is_sweep_override()
        else one.input_line
        for one in parsed
    ]
    assert config(tmp_path, *first, small=False).model.name


def test_the_tables_name_every_scheme_and_quantizer() -> None:
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.*?\|", TRAINING, re.MULTILINE))))
    schemes = {file.stem for file in (CONF / "scheme").glob("*.yaml")}
    assert schemes | QUANTIZERS.keys() <= listed


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_the_files_that_are_linked_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_what_ships_is_what_its_table_says() -> None:
    text = (ROOT / "checkpoints" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| ([\d ]+) \| `(\w{64})` \|$", text, re.MULTILINE)
    assert {name for name, *_ in rows} == {path.name for path in (ROOT / "checkpoints").glob("*.qz")}
    for name, size, digest in rows:
        contents = (ROOT / "checkpoints" / name).read_bytes()
        assert len(contents) == int(size.replace(" ", ""))
        assert hashlib.sha256(contents).hexdigest() == digest
