"""MkDocs hooks: the API reference from docstrings, and links that lead out of docs/."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks")  # a warning of mkdocs, which strict builds count
ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "quantizable"
ROLE = re.compile(
    r":(?:func|class|meth|mod|attr):(?=<code>)"
)  # Sphinx roles, as editors show them in docstrings
SKIP = re.compile(r' *<span class="c1"># doctest: \+SKIP</span>')
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Put the reference pages into the navigation."""
    pages = [{f"quantizable.{folder.name}": f"reference/{folder.name}.md"} for folder in folders()]
    config.nav.append({"API reference": ["reference/index.md", {"quantizable": "reference/root.md"}, *pages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Make one reference page for the files at the root and one for each folder."""
    pages = {"index": public_names(), "root": page("quantizable", sorted(PACKAGE.glob("*.py")))}
    pages |= {folder.name: page(f"quantizable.{folder.name}", modules(folder)) for folder in folders()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Show a link to a file of the repository, or to a folder, as its path: the site does not hold it."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def shown(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        held = target.is_relative_to(ROOT / "docs") and not target.is_dir()
        if held or page.file.generated_by:
            return match[0]
        if not target.exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, match[2])
            return match[0]
        path = f"`{target.relative_to(ROOT).as_posix()}`"
        return path if match[1].strip("`") in path else f"{match[1]} ({path})"

    return LINK.sub(shown, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Leave out of docstrings what is for Sphinx and for doctest."""
    return SKIP.sub("", ROLE.sub("", html))


def folders() -> list[Path]:
    """The folders of the package."""
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def modules(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, packages before what they hold."""
    return sorted(folder.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name))


def page(title: str, paths: list[Path]) -> str:
    """A page with every module that has a docstring or a public name."""
    names = [dotted(path) for path in paths if path.name != "__main__.py"]
    first = [name for name in names if name == title]
    blocks = [f"::: {name}\n    options:\n      members: false\n      heading_level: 2" for name in first]
    blocks += [f"::: {name}\n    options:\n      heading_level: 2" for name in names if name not in first]
    return "\n\n".join([f"# {title}", *blocks]) + "\n"


def dotted(path: Path) -> str:
    """``quantizable/nn/norms.py`` as ``quantizable.nn.norms``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_name(package: str, target: str) -> str:
    """A line of the list, with a link where the reference describes the object."""
    shown = f"<code>{package}.{target.rpartition('.')[2]}</code>"
    return f'- <autoref identifier="{target}" optional>{shown}</autoref>'


def public_names() -> str:
    """The first page of the reference: the names to import from ``quantizable`` and from ``deploy``."""
    lines = ["# API reference", "", "Each folder of the package has a page, made from its docstrings."]
    for package in ("quantizable", "quantizable.deploy"):
        lines += ["", f"## Public names of `{package}`", ""]
        source = ROOT / package.replace(".", "/") / "__init__.py"
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("quantizable."):
                lines += [public_name(package, f"{node.module}.{name.name}") for name in node.names]
    return "\n".join(lines) + "\n"
