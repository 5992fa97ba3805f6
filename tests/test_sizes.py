"""No file, function or list of arguments is too long to take in."""

import ast
from pathlib import Path

import quantizable

ROOT = Path(quantizable.__file__).parent
TORCHS = {"forward"}  # of MultiheadAttention: the signature is torch's


def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Every function of the package, with the name of its file."""
    return [
        (f"{file.relative_to(ROOT)} {node.name}", node)
        for file in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def test_files_have_at_most_350_lines() -> None:
    files = [*ROOT.rglob("*.py"), *ROOT.rglob("*.cpp"), *ROOT.rglob("*.h")]
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert lines
    assert not {name: count for name, count in lines.items() if count > 350}


def test_functions_have_at_most_60_lines_without_their_docstring() -> None:
    long = {}
    for name, node in functions():
        first = node.body[0]
        described = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
        long[name] = (node.end_lineno or 0) - node.lineno + 1 - described
    assert not {name: count for name, count in long.items() if count > 60}


def test_no_more_than_eight_arguments_go_by_position() -> None:
    given = {
        name: [a.arg for a in node.args.args if a.arg not in ("self", "cls")]
        for name, node in functions()
        if node.name not in TORCHS
    }
    assert not {name: words for name, words in given.items() if len(words) > 8}
