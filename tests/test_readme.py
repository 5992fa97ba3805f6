"""README and docs are true: their code runs, commands and tables name what there is, links lead somewhere."""

import hashlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from quantizable import QUANTIZERS, cli
from tests.tiny import CONF, config

ROOT = Path(__file__).parents[1]
TRAINING = (ROOT / "docs" / "training.md").read_text()
PAGES = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "checkpoints/README.md"),
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]
CONCEPTS = ["docs/concepts/fake_quantization.md", "docs/concepts/layers.md"]
RUN = ["README.md", *CONCEPTS, *TUTORIALS]  # their Python runs from top to bottom
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return [code for fence, code in FENCED.findall(text(page)) if fence == language]


def anchors(page: str) -> set[str]:
    """What GitHub and the docs site call the headings of a page in links."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_python_blocks_run_one_after_another(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for shipped in (ROOT / "checkpoints").glob("*.qz"):
        shutil.copy(shipped, tmp_path / "checkpoints")
    found = blocks(page, "python")
    assert found
    names: dict[str, object] = {"__name__": "readme"}
    for number, code in enumerate(found):
        exec(compile(code, f"{page}, block {number + 1}", "exec"), names)


def commands() -> list[str]:
    pages = "".join(text(page) for page in ("README.md", "docs/training.md", *TUTORIALS))
    lines = re.findall(r"python train\.py((?: [^\s#`]+)*)", re.sub(r" *\\\n *", " ", pages))
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
        if not one.get_key_element().startswith("hydra")  # of a launcher that is not installed here
    ]
    assert config(tmp_path, *first, small=False).model.name


def quantizable_commands() -> list[tuple[str, str]]:
    """Every command line ``quantizable ...`` of a block, with its page."""
    found = []
    for page in PAGES:
        for language, code in FENCED.findall(text(page)):
            if language != "python":
                lines = re.sub(r" *\\\n *", " ", code).splitlines()
                found += [(page, line.strip()) for line in lines if line.strip().startswith("quantizable ")]
    return found


@pytest.mark.parametrize(("page", "line"), quantizable_commands())
def test_the_command_lines_parse(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0] not in ("train", "finetune", "recipe"):  # Hydra's to parse
        _, left = cli.parser().parse_known_args(words)
        assert all(word.startswith("data") for word in left), left


def test_the_tables_name_every_scheme_and_quantizer() -> None:
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.*?\|", TRAINING, re.MULTILINE))))
    schemes = {file.stem for file in (CONF / "scheme").glob("*.yaml")}
    assert schemes | QUANTIZERS.keys() <= listed


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text(page)):
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.relative_to(ROOT).as_posix()), f"{target}#{anchor}"


def test_the_architecture_page_names_files_and_folders_that_exist() -> None:
    page = text("docs/concepts/architecture.md")
    named = re.findall(r"`(?:quantizable/)?([\w/]+\.py)`", page)
    assert len(named) > 20
    missing = [
        name for name in named if not any((ROOT / top / name).exists() for top in (".", "quantizable"))
    ]
    assert not missing
    tree = page[page.index("quantizable/\n") : page.index("conf/  train.py")]
    listed = {room for line in tree.splitlines()[1:] for room in re.findall(r"(?<!\w)\w+/?", line[:21])}
    rooms = {path.name + "/" for path in (ROOT / "quantizable").iterdir() if (path / "__init__.py").exists()}
    files = {path.stem for path in (ROOT / "quantizable").glob("*.py") if not path.stem.startswith("__")}
    assert listed == rooms | files


def test_what_ships_is_what_its_table_says() -> None:
    text = (ROOT / "checkpoints" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| ([\d ]+) \| `(\w{64})` \|$", text, re.MULTILINE)
    assert {name for name, *_ in rows} == {path.name for path in (ROOT / "checkpoints").glob("*.qz")}
    for name, size, digest in rows:
        contents = (ROOT / "checkpoints" / name).read_bytes()
        assert len(contents) == int(size.replace(" ", ""))
        assert hashlib.sha256(contents).hexdigest() == digest
