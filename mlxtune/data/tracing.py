"""What a chat template writes, as a function of the messages' texts: rendered once for conversations of one shape.

The template runs in its sandbox, but each text of a message, other than its role, is an unknown one (see tape.py).
What it writes is then constants and those texts, and the tape holds whatever it did to them or asked about them. A
template is a program without chance: a conversation of the same shape (roles, keys, the same special tokens and time)
whose texts answer in the same way takes the same path through it, so the trace writes what the template would.
Anything else that a template does to a text (it looks into its letters, compares it, makes JSON of it) gives no trace,
and neither do messages that hold more than texts: there, and where an answer differs, the template is rendered.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, update_wrapper
from typing import Any, Generic, TypeVar

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, Undefined

from mlxtune.data.messages import Message
from mlxtune.data.meter import OPERATION, Meter, Metered
from mlxtune.data.sandbox import Environment
from mlxtune.data.tape import LENGTH, Method, Tape, Trace, Unknown, Untraceable, trace

MOST_SHAPES = 1_024  # that are remembered
MOST_TRACES = 8  # of one shape, with those that failed
KNOWN = (str, int, float, bool, type(None), Undefined)  # that are written as the same text each time
IS_TEXT = {  # what Jinja's tests say of any str
    **dict.fromkeys(("defined", "string", "iterable", "sequence"), True),
    **dict.fromkeys(("undefined", "none", "boolean", "true", "false", "integer", "float", "number", "mapping"), False),
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    **dict.fromkeys(("==", "eq", "equalto"), operator.eq),
    **dict.fromkeys(("!=", "ne"), operator.ne),
    "in": lambda item, held: item in held,
}
JINJAS_OWN = {"_loop_vars", "_block_vars"}  # what a call is given that is not for the function
Shape = tuple[Any, ...]  # whatever a template can see of messages beside their texts
T = TypeVar("T")


class Scale(Meter):
    """A meter that weighs unknown texts."""

    def weight(self, value: Any) -> int:
        return int(value.weight) if type(value) is Unknown else super().weight(value)


class Unwritten(Metered):
    """Python code from a template whose results are not made `str` before they are written."""

    def _output_child_pre(self, _: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            raise Untraceable
        self.write(str(finalize.src))

    def _output_child_post(self, *_: Any) -> None:
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concat((")
        for each in node.nodes:
            self.write("environment.finalize(")
            self.visit(each, frame)
            self.write("), ")
        self.write("))")


class Tracing(Environment):
    """The sandbox for texts that are not known."""

    code_generator_class = Unwritten

    def __init__(self) -> None:
        self.tape = Tape()
        super().__init__(Scale())
        self.finalize = self._written
        self.tests = {name: self._asking(name, test) for name, test in self.tests.items()}

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with unknown texts, on a new tape."""
        self.tape = Tape(texts_of(messages))
        numbers = iter(range(len(self.tape.values)))
        return [
            {key: value if key == "role" else self.tape.value(next(numbers)) for key, value in message.items()}
            for message in messages
        ]

    def trace(self, template: Template, given: dict[str, Any]) -> Trace:
        """The trace of what a template of this environment writes, on the tape so far and what this adds to it.

        Raises Untraceable, or anything else, where there is none.
        """
        self.meter.start(LENGTH * LENGTH)
        written = self.concat(template.root_render_func(template.new_context(given)))
        if self.tape.is_torn:
            raise Untraceable
        return trace(self.tape, written, LENGTH * LENGTH - self.meter.left)

    def concat(self, written: Iterable[Any]) -> Any:  # what Jinja joins texts with
        return self.tape.joined(written)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return Method(obj, attribute) if type(obj) is Unknown else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if _has_unknown(argument):
            self.tape.tear()
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if type(__obj) is not Method:
            return super().call(__context, __obj, *args, **kwargs)
        if kwargs.keys() - JINJAS_OWN:
            __self.tape.tear()
        return __self._paid(__obj(*args), __obj.text, *args, *kwargs.values())

    def _written(self, value: Any) -> Any:
        self.meter.read(value)
        if type(value) not in (*KNOWN, Unknown):
            self.tape.tear()
        return value if type(value) is Unknown else str(value)

    def _paying(self, function: Any, name: str) -> Callable[..., Any]:
        """Of a filter: an unknown text may be trimmed."""
        paying = super()._paying(function, name)

        def filtering(*given: Any, **named: Any) -> Any:
            if not _has_unknown(*given, *named.values()):
                return paying(*given, **named)
            if name != "trim" or named or type(given[0]) is not Unknown:
                self.tape.tear()
            return self._paid(Method(given[0], "strip")(*given[1:]), *given)

        return update_wrapper(filtering, paying)

    def _asking(self, name: str, test: Any) -> Callable[..., bool]:
        """Of a test: what is true of any text, and comparisons, which go on the tape."""

        def asking(*given: Any, **named: Any) -> bool:
            if not _has_unknown(*given, *named.values()):
                return bool(test(*given, **named))
            if name in COMPARE:
                return bool(self._paid(COMPARE[name](*given), *given))
            if name not in IS_TEXT or type(given[0]) is not Unknown:
                self.tape.tear()
            return IS_TEXT[name]

        return update_wrapper(asking, test)

    def _paid(self, made: Any, *given: Any) -> Any:
        """What was made of what was given, paid for as any function that reads texts and makes others."""
        self.meter.spend(2 * OPERATION + 2 * sum(map(self.meter.weight, given)))
        return self.meter.made(made)


class Tracer:
    """Traces of one template. given: all it gets beside messages."""

    def __init__(self, source: str, given: dict[str, Any]) -> None:
        self._source, self._given = source, given

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with unknown texts. What is traced from here on is on one tape."""
        return self._environment.begin(messages)

    def trace(self, messages: Sequence[Message], prompt: bool) -> Trace:
        """Of messages with unknown texts, or with known ones, or fewer. Raises where there is none."""
        given = {**self._given, "add_generation_prompt": prompt, "messages": messages}
        return self._environment.trace(self._template, given)

    @property
    def tape(self) -> Tape:
        return self._environment.tape

    @cached_property
    def _environment(self) -> Tracing:
        return Tracing()

    @cached_property
    def _template(self) -> Template:
        return self._environment.from_string(self._source)


class Traces:
    """What is known of how one template writes conversations, shape by shape."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._known = Known[Trace]()

    def text(self, messages: Sequence[Message], prompt: bool, work: int) -> str | None:
        """What the template writes for `work` at most. None where no trace tells."""
        shape = shape_of(messages, prompt)
        given, traces = texts_of(messages), self._known.of(shape)
        return next((text for trace in traces if (text := trace.text(given, work)) is not None), None)

    def learn(self, messages: Sequence[Message], prompt: bool, written: str) -> None:
        """Trace how the template wrote messages, if it has written such before; a trace has to write the same."""

        def traced() -> Trace | None:
            made = self._tracer.trace(self._tracer.begin(messages), prompt)
            return made if made.text(texts_of(messages), LENGTH) == written else None

        self._known.learn(shape_of(messages, prompt), traced)


class Known(Generic[T]):
    """What is known of conversations by their shapes. Of a shape that is seen once nothing is learnt."""

    def __init__(self) -> None:
        self._known: dict[Shape, list[T | None]] = {}  # None: what could not be learnt

    def of(self, shape: Shape | None) -> list[T]:
        return [each for each in self._known.get(shape, ()) if each is not None] if shape else []

    def learn(self, shape: Shape | None, learnt: Callable[[], T | None]) -> None:
        if shape is None:
            return
        if shape not in self._known:
            self._forget()
            self._known[shape] = []
        elif len(self._known[shape]) < MOST_TRACES:
            try:
                self._known[shape].append(learnt())
            except (Exception, Untraceable):
                self._known[shape].append(None)

    def _forget(self) -> None:
        if len(self._known) >= MOST_SHAPES:
            self._known.clear()


def shape_of(messages: Sequence[Message], *more: Any) -> Shape | None:
    """All that a template can see of messages beside their texts, and more. None where they hold more than texts."""
    if {type(value) for message in messages for value in message.values()} != {str}:
        return None
    return (*more, *[(message["role"], *message) for message in messages])


def texts_of(messages: Sequence[Message]) -> list[str]:
    return [value for message in messages for key, value in message.items() if key != "role"]


def _has_unknown(*given: Any) -> bool:
    return any(type(each) in (Unknown, Method) for each in given)
