"""What a chat template pays for its work: the meter, and the payments that are put into the template's code.

Each turn of a loop and each call costs a little; a text costs its length wherever it is made, read or written; a list
or an object costs what it would take if it were written out. As work is counted, not time, a slow machine accepts the
rows that a fast one does.
"""

from collections.abc import Iterable, Iterator
from types import GeneratorType
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.visitor import NodeTransformer

OPERATION = 40  # characters that a call or a turn of a loop costs
MANY = 8  # terms of a sum
CHARGE, READ, SOUGHT, MADE = "charge ", "read ", "sought ", "made "  # filters that no template can name
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class TooMuchWork(Exception):
    """The template goes on beyond its limit."""


class Meter:
    """What a rendering may still spend. A list's weight is kept once it is known: in the sandbox it cannot change."""

    def __init__(self) -> None:
        self.start(4_000_000)  # at most while constants are computed

    def start(self, limit: int) -> None:
        self.left = limit
        self._weights: dict[int, int] = {}
        self._weighed: list[Any] = []  # held, so that no other object comes by an id that is known

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise TooMuchWork

    def weight(self, value: Any) -> int:
        """Characters that the value would take if it were written out."""
        kind = type(value)
        if kind is str:
            return len(value)
        if kind in (list, tuple, dict, *VIEWS):
            return self._weights.get(id(value)) or self._walk(value)
        return len(value) if isinstance(value, str | bytes | range) else 8

    def _walk(self, value: Any) -> int:
        parts = (part for pair in value.items() for part in pair) if isinstance(value, dict) else value
        self._weights[id(value)] = weight = OPERATION + sum(8 + self.weight(part) for part in parts)
        self._weighed.append(value)
        return weight

    def read(self, value: Any) -> Any:
        """The value, once it is paid for in full."""
        self.left -= len(value) if type(value) is str else self.weight(value)
        if self.left < 0:
            raise TooMuchWork
        return value

    def made(self, value: Any) -> Any:
        """A new value, once its memory is paid for; what comes one by one is paid for one by one."""
        kind = type(value)
        if kind is GeneratorType:
            return self._each(value)
        if kind is str:
            self.left -= OPERATION + len(value)
        elif kind in (list, tuple, dict):
            self.left -= OPERATION + 8 * len(value)
        else:
            self.left -= OPERATION + self.weight(value)
        if self.left < 0:
            raise TooMuchWork
        return value

    def _each(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(OPERATION)
            yield value


class Metered(CodeGenerator):
    """Python code from a template, with payments."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:  # noqa: N802
        super().visit_Template(Payments(self.environment).visit(node), frame)


class Payments(NodeTransformer):
    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self._terms: dict[nodes.Filter, int] = {}

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        """Each turn pays, and each element that the loop's own condition looks at. The texts in the body cost too."""
        self.generic_visit(node)
        texts = [each.data for each in node.find_all(nodes.TemplateData)]
        texts += [each.value for each in node.find_all(nodes.Const) if isinstance(each.value, str)]
        turn = self._call(nodes.Const(OPERATION + sum(map(len, texts))), CHARGE)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(self._call(nodes.Const(OPERATION), CHARGE), node.test)
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Filter:  # noqa: N802
        """A sum of a few terms is paid for when it is made; a longer one after every few."""
        self.generic_visit(node)
        terms = 2
        for side in ("left", "right"):
            sum_of = self._terms.get(getattr(node, side), MANY)
            if sum_of < MANY:
                setattr(node, side, getattr(node, side).node)
                terms += sum_of
        paid = self._call(node, MADE)
        self._terms[paid] = terms
        return paid

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [self._paid(each) for each in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        """To be equal to a constant is soon told, and what an object has; all else is compared or searched in full."""
        self.generic_visit(node)
        equal = all(each.op in ("eq", "ne") for each in node.ops)
        if equal and any(_is_constant(each) for each in (node.expr, *(each.expr for each in node.ops))):
            return node
        node.expr = self._paid(node.expr)
        for each in node.ops:
            each.expr = self._paid(each.expr, SOUGHT if each.op in ("in", "notin") else READ)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:  # noqa: N802
        self.generic_visit(node)
        node.key = self._paid(node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return self._call(node, MADE)
        node.arg = self._paid(node.arg)
        return node

    def _paid(self, node: nodes.Expr, name: str = READ) -> nodes.Expr:
        return node if _is_constant(node) else self._call(node, name)

    def _call(self, node: nodes.Expr, name: str) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno or 1, environment=self.environment)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(map(_is_constant, node.items))
    return isinstance(node, nodes.Const)
