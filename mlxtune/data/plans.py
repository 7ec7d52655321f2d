"""Where the turns of a conversation are, found once for conversations of one shape.

`Turns` finds them in many renderings of a conversation. Here it is given messages with unknown texts, and its
renderings are patterns of the template's own words and of those texts, all on one tape: what it finds are places in the
pattern of the whole. A plan keeps that pattern in pieces, cut at the places. Another conversation whose texts answer
the tape's questions in the same way is written in the same pieces, and its places follow from their lengths.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from mlxtune.data.messages import Message
from mlxtune.data.patterns import Pattern, parts, pattern
from mlxtune.data.tape import LENGTH, Part, Trace, text_of
from mlxtune.data.tracing import Known, Tracer, shape_of, texts_of
from mlxtune.data.turns import Span, Turns, Written


class Plan(NamedTuple):
    """The pieces of a conversation, and between which of them each place begins and ends.

    trace: of all renderings, at no less than the cost of any.
    """

    trace: Trace
    pieces: tuple[tuple[Part, ...], ...]
    places: tuple[Span, ...]

    def find(self, texts: Sequence[str], work: int, written: str) -> list[Span] | None:
        """The places in a text that is written of the texts. None where this is another text, or an answer differs, or
        where one of the renderings may be more than `work`."""
        values = self.trace.values(texts, work)
        if values is None:
            return None
        made = [text_of(piece, values) for piece in self.pieces]
        if "".join(made) != written:
            return None
        at = [0, *accumulate(map(len, made))]
        return [Span(at[start], at[end]) for start, end in self.places]


class Plans:
    """What is known of where a template writes turns, by the shape of a conversation and the turns that are sought."""

    def __init__(self, tracer: Tracer, eos: str) -> None:
        self._tracer, self._eos = tracer, eos
        self._known = Known[Plan]()

    def find(
        self, messages: Sequence[Message], indices: Sequence[int], work: int, written: str
    ) -> list[tuple[int, Span]] | None:
        """The turns' places in the text that the template writes for messages. None where no plan tells."""
        plans = self._known.of(shape_of(messages, *indices))
        texts = texts_of(messages) if plans else []
        found = next((found for plan in plans if (found := plan.find(texts, work, written)) is not None), None)
        return None if found is None else list(zip(indices, found, strict=True))

    def learn(self, messages: Sequence[Message], indices: Sequence[int], spans: Sequence[Span], written: str) -> None:
        """Plan such conversations, if one was seen before; a plan has to find the spans of this one."""

        def planned() -> Plan | None:
            plan = self._plan(messages, indices)
            found = plan.find(texts_of(messages), LENGTH, written)
            if found is None:
                return None
            places = zip(indices, found, strict=True)
            return plan if Written(written, messages, self._eos).spans(places) == tuple(spans) else None

        self._known.learn(shape_of(messages, *indices), planned)

    def _plan(self, messages: Sequence[Message], indices: Sequence[int]) -> Plan:
        """Raises where there is none."""
        traces: list[Trace] = []

        def render(messages: Sequence[Message], prompt: bool) -> Pattern:
            traces.append(self._tracer.trace(messages, prompt))
            return pattern(traces[-1].parts, self._tracer.tape)

        turns = Turns(render, self._tracer.begin(messages), self._eos)
        places = [turns.place(index) for index in indices]
        cuts = sorted({0, len(turns.text), *(cut for place in places for cut in place)})
        pieces = tuple(parts(turns.text[start:end]) for start, end in pairwise(cuts))
        between = tuple(Span(cuts.index(start), cuts.index(end)) for start, end in places)
        times, more = (max(part) for part in zip(*(divmod(trace.cost, LENGTH) for trace in traces), strict=True))
        return Plan(Trace(tuple(self._tracer.tape.steps), (), times * LENGTH + more), pieces, between)
