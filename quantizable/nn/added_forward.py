"""A module's ``forward`` with its additions as calls, so that their operands can be quantized.

``x + y`` in Python code calls no module. The code is read again, with ``self.additions(n, x, y)`` for the
n-th addition and all else as it was; so a compiler, an exporter and a tracer see what they see anywhere.
"""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

ADDITIONS = "additions"  # name of the child that adds


class _Calls(ast.NodeTransformer):
    """Puts ``self.additions(n, x, y, in_place)`` for ``x + y``, ``x += y`` and ``torch.add(x, y)``."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.count = 0

    def call(self, left: ast.expr, right: ast.expr, in_place: bool) -> ast.expr:
        adds = ast.Attribute(ast.Name(self.own, ast.Load()), ADDITIONS, ast.Load())
        number, self.count = self.count, self.count + 1
        return ast.Call(adds, [ast.Constant(number), left, right, ast.Constant(in_place)], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        return self.call(node.left, node.right, False) if isinstance(node.op, ast.Add) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Add) or not isinstance(node.target, ast.Name):
            return node
        held = ast.Name(node.target.id, ast.Load())
        return ast.Assign([node.target], self.call(held, node.value, True))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if len(node.args) != 2 or node.keywords or ast.unparse(node.func) != "torch.add":
            return node
        return self.call(node.args[0], node.args[1], False)


def may_add(forward: Any) -> bool:
    """True if the code of a ``forward`` has a ``+``."""
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return code is not None and any(
        (step.opname == "BINARY_OP" and step.argrepr in ("+", "+=")) or step.argval == "add"
        for step in dis.get_instructions(code)
    )


def with_calls(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with its additions as calls, numbered from 0 in the order of the code.

    Raises:
        OSError: its source cannot be read.
    """
    function: Any = inspect.unwrap(forward)
    if function is not forward:
        raise OSError("it is wrapped by a decorator, which would be lost")
    assert isinstance(function, FunctionType)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        raise OSError("it is no plain function")
    given = definition.args
    given.defaults = [ast.Constant(None) for _ in given.defaults]
    given.kw_defaults = [default and ast.Constant(None) for default in given.kw_defaults]
    calls = _Calls(given.args[0].arg)
    definition.body = [calls.visit(statement) for statement in definition.body]
    # what it closes over, as the class of a super(), is given by a function around it
    around = ast.parse(f"def _around({', '.join(function.__code__.co_freevars)}): return {definition.name}")
    outer = around.body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body.insert(0, definition)
    ast.increment_lineno(definition, function.__code__.co_firstlineno - definition.lineno)
    code = compile(ast.fix_missing_locations(around), function.__code__.co_filename, "exec")
    made: dict[str, Any] = {}
    exec(code, function.__globals__, made)
    added: Any = made["_around"](*(cell.cell_contents for cell in function.__closure__ or ()))
    added.__defaults__, added.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return added  # type: ignore[no-any-return]
