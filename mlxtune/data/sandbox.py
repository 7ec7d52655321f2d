"""A chat template is a program that came with the model: here it can reach nothing and do only so much work.

The environment is the one that transformers renders chat templates in: Jinja's sandbox with `tojson`, `strftime_now`,
`raise_exception`, `namespace`, `dict`, loop controls and `{% generation %}` blocks. What is added is a meter (see
meter.py). What can make much of little in one go (`'x' * 10**9`, `center`, `replace`) is paid for before it is done. So
every template ends, after a bounded time and in bounded memory.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import Any, NoReturn

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlxtune.data.meter import CHARGE, MADE, OPERATION, READ, SOUGHT, Meter, Metered

LARGEST_WIDTH = 1_000  # to which a text is padded, or a number written
LARGEST_BITS = 4_096  # of a whole number
OF_DICT = frozenset(dir(dict))
OF_LOOP = frozenset(("first", "last", "index", "index0", "length"))
PLAIN_METHODS = frozenset(("startswith", "endswith", "split", "strip", "lstrip", "rstrip", "replace"))  # of a text
SELECTING = frozenset(("select", "reject", "selectattr", "rejectattr"))
SHALLOW = SELECTING | {  # filters that look at a list, not into what it holds
    "length", "count", "first", "last", "list", "items", "default", "d", "reverse", "map", "attr"
}  # fmt: skip
PADDING = frozenset(("center", "ljust", "rjust", "zfill", "indent", "round", "batch", "slice", "tojson"))
GROWING = PADDING | {"replace", "join", "format"}
SLOW, TIMES = frozenset(("title", "wordcount", "urlencode", "escape", "e", "forceescape", "sort", "dictsort")), 16
COMPARING = ("in", "==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan",
             ">=", "ge", "upper", "lower")  # fmt: skip
NO_FILTERS = ("random", "urlize", "wordwrap", "striptags", "pprint", "xmlattr")  # chance, or slow on some texts
NO_GLOBALS = ("lipsum", "cycler")
NO_METHODS = frozenset(("translate", "maketrans", "expandtabs", "format_map", "to_bytes", "from_bytes", "striptags",
                        "unescape", "hex", "fromhex", "decode"))  # fmt: skip
_WIDE_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\d{4}|\*|\d*\.(?:\d{4}|\*))")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)")


class Generation(Extension):
    """`{% generation %}`: what is inside is what the assistant writes; where it lies in the text is noted."""

    tags = frozenset(("generation",))  # type: ignore[assignment]  # a set that nothing changes
    environment: "Environment"

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("note"), [], [], body, lineno=line)

    def note(self, caller: Macro) -> str:
        text = str(caller())
        start = self.environment.written
        self.environment.spans.append((start, start + len(text)))
        return text


class Attributes(Namespace):
    """Jinja's `namespace`, without private names; written out it says nothing of what it holds."""

    def __init__(*given: Any, **named: Any) -> None:
        self, *rest = given
        attributes = dict(*rest, **named)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a meter, for one template; it renders one text at a time.

    written: characters of the text so far. spans: of its `{% generation %}` blocks.
    """

    code_generator_class = Metered
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table) - {"+"}  # paid for in Payments

    def __init__(self, meter: Meter | None = None) -> None:
        self.meter = meter or Meter()
        self.written, self.spans = 0, list[tuple[int, int]]()
        extensions = (Generation, loopcontrols)
        super().__init__(trim_blocks=True, lstrip_blocks=True, finalize=self.meter.read, extensions=extensions)
        filters: dict[str, Callable[..., Any]] = {**self.filters, "tojson": _tojson, "sum": self._sum}
        self.filters = {name: self._paying(each, name) for name, each in filters.items() if name not in NO_FILTERS}
        self.filters |= {CHARGE: self._charge, READ: self._read, SOUGHT: self._sought, MADE: self._made}
        self.tests |= {name: self._paying(self.tests[name], name) for name in COMPARING}
        for name in NO_GLOBALS:
            del self.globals[name]
        self.globals |= {"raise_exception": _raise, "dict": _Dict(), "namespace": Attributes}

    def text(self, template: Template, variables: dict[str, Any], work: int) -> tuple[str, list[tuple[int, int]]]:
        """What a template of this environment writes for `work` at most, and the spans of its generation blocks."""
        self.meter.start(work)
        self.written, self.spans, pieces = 0, [], list[str]()
        for piece in template.root_render_func(template.new_context(variables)):
            pieces.append(piece)
            self.written += len(piece)
        return "".join(pieces), self.spans

    @pass_context
    def _charge(self, _: Context, cost: int) -> bool:
        self.meter.spend(cost)
        return True

    @pass_context
    def _read(self, _: Context, value: Any) -> Any:
        return self.meter.read(value)

    @pass_context
    def _sought(self, _: Context, value: Any) -> Any:
        return value if type(value) is dict else self.meter.read(value)

    @pass_context
    def _made(self, _: Context, value: Any) -> Any:
        return self.meter.made(value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's; what an object holds, a usual method of a text or a number of a loop is found without asking
        whether it is safe, which takes longer."""
        if type(obj) is dict and attribute in obj and attribute not in OF_DICT:
            return obj[attribute]
        if type(obj) is str and attribute in PLAIN_METHODS:
            return getattr(obj, attribute)
        if type(obj) is LoopContext and attribute in OF_LOOP:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As Jinja's, sooner told of a text."""
        return not attr.startswith("_") if type(obj) is str else super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call, paid for: what it is given and may read, what may come of it, what came of it."""
        meter, owner = __self.meter, getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        meter.spend(OPERATION)
        if type(__obj) is not Macro:
            meter.spend(sum(map(meter.weight, (*args, *kwargs.values()))))
        if isinstance(owner, str | bytes | list | tuple | int | float):
            meter.spend(meter.weight(owner))
            if __obj.__name__ == "join" and args:
                args = (_listed(args[0]), *args[1:])
            meter.spend(__self._grown(__obj.__name__, owner, (*args, *kwargs.values())))
        return meter.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operation on two values, its result paid for; a product before it is made."""
        whole = isinstance(left, int) and isinstance(right, int)
        if whole and operator in ("*", "**"):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            _check(bits, LARGEST_BITS, "a whole number of", "bits")
        elif operator == "*" and not isinstance(left, float) and not isinstance(right, float):
            text, times = (right, left) if isinstance(left, int) else (left, right)
            self.meter.spend(self.meter.weight(text) * (times if isinstance(times, int) and times > 0 else 1))
        elif operator == "%" and isinstance(left, str):
            self.meter.spend(self._grown("%", left, (right,)))
        if not whole:
            self.meter.spend(OPERATION + self.meter.weight(left) + self.meter.weight(right))
        return super().call_binop(context, operator, left, right)

    def _paying(self, function: Any, name: str) -> Callable[..., Any]:
        """A filter or a test that pays for what it reads, for what may come of it and for what came of it."""
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
        meter, grown, made, weight = self.meter, self._grown, self.meter.made, self.meter.weight

        def looking(*given: Any, **named: Any) -> Any:
            if name in SELECTING and hasattr(given[skipped], "__len__"):
                meter.spend(OPERATION * len(given[skipped]))
            return made(function(*given, **named))

        def reading(*given: Any, **named: Any) -> Any:
            meter.spend(times * sum(map(weight, given[skipped:])))
            return made(function(*given, **named))

        def growing(*given: Any, **named: Any) -> Any:
            value = _listed(given[skipped]) if name == "join" else given[skipped]
            rest = given[skipped + 1 :]
            arguments = (*rest, *named.values())
            meter.spend(sum(map(weight, (value, *arguments))))
            meter.spend(grown(name, value, arguments))
            return made(function(*given[:skipped], value, *rest, **named))

        times = TIMES if name in SLOW else 1
        paying = looking if name in SHALLOW else growing if name in GROWING else reading
        return update_wrapper(paying, function)

    def _grown(self, name: str, value: Any, given: tuple[Any, ...]) -> int:
        """Characters that may come of a value beyond its own. Raises SecurityError for what is never needed."""
        if name in NO_METHODS:
            raise SecurityError(f"{name} is not there for chat templates")
        if name == "replace" and len(given) > 1:
            return str(value).count(str(given[0])) * len(str(given[1]))
        if name == "join":
            parts, mark = (given[0], value) if isinstance(value, str) and given else (value, "".join(map(str, given)))
            return len(parts) * len(mark) + self.meter.weight(parts)
        if name in PADDING:
            widths = [each if isinstance(each, int) else len(each) for each in given if isinstance(each, int | str)]
            _check(max(widths, default=1), LARGEST_WIDTH, "a width of", "characters")
            return self.meter.weight(value) * max(1, *widths, 1)
        if name in ("%", "format"):
            wide = _WIDE_PERCENT.search(str(value)) or _WIDE_BRACES.search(str(value))
            _check(LARGEST_WIDTH + bool(wide), LARGEST_WIDTH, "a format with a width of", "characters")
        return 0

    def _sum(self, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        """As Jinja's, but that each addition is paid for."""
        total = start
        for value in values:
            part = value if attribute is None else self.getitem(value, attribute)
            total = self.call_binop(None, "+", total, part)  # type: ignore[arg-type]  # it looks at no context
            self.meter.spend(OPERATION)
        return total


class _Dict:
    """What `dict` is in a template: no way to the class itself."""

    def __call__(self, *given: Any, **named: Any) -> dict[Any, Any]:
        return dict(*given, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:
        return dict.fromkeys(*given)


def _listed(values: Any) -> Any:
    return values if isinstance(values, str | list | tuple) else list(values)


def _check(found: int, largest: int, what: str, unit: str) -> None:
    if found > largest:
        raise SecurityError(f"{what} more than {largest:,} {unit}")


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: private names are not there for chat templates")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Without the escapes for HTML that Jinja's own writes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
