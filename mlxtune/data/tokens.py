"""Examples -> text with the characters that carry loss -> tokens with their loss mask.

Whole texts are encoded, and a token carries loss if it begins inside a span. Where a token would lie across the edge of
a span (the tokenizer merges the header's last newline with the answer's first), or where what is before a span has
other tokens alone, the text is cut there and encoded in pieces: as in generation, where the prompt is encoded before
the answer exists. What generation is given for a prompt is therefore how the row begins. Only a row whose pieces would
not read as the text is refused.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data import special as specials
from mlxtune.data.encoding import Encoded, Ints, across, crossed, cut
from mlxtune.data.encoding import encode as encode_texts
from mlxtune.data.examples import Chat, Completion, Example, Text
from mlxtune.data.faults import BadRow
from mlxtune.data.settings import DataSettings
from mlxtune.data.special import Special
from mlxtune.data.template import chat_text
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.turns import Span
from mlxtune.data.whole import encode as encode_wholes
from mlxtune.data.whole import keeps_beginnings, tokens_alone

Mask = NDArray[np.bool_]


class Marked(NamedTuple):
    """A text and the characters of it that carry loss. plain: no template wrote its special tokens, so the tokenizer
    adds its own and an end-of-text token follows, each unless it is there."""

    text: str
    spans: tuple[Span, ...]
    plain: bool

    @property
    def edges(self) -> list[int]:
        """Where spans begin and end inside the text."""
        return sorted({edge for span in self.spans for edge in span} - {0, len(self.text)})


class Tokens(NamedTuple):
    """T tokens, the mask of those that carry loss, and the character that each begins at."""

    tokens: Ints
    supervised: Mask
    starts: Ints


def marked(example: Example, tokenizer: Tokenizer, settings: DataSettings, special: Special) -> Marked:
    """The text that an example is trained as. Raises BadRow where the chat template cannot write it."""
    if isinstance(example, Completion) and tokenizer.chat_template and not special.is_rendered(example.plain_prompt):
        example = example.chat
    if isinstance(example, Chat):
        chat = example._replace(messages=special.ended(example.messages))
        text, spans = chat_text(chat, tokenizer, settings.loss_on, settings.time)
        return Marked(text, special.to_the_end(text, spans), plain=False)
    if isinstance(example, Completion):
        prompt, text = special.begun(example.plain_prompt), special.closed(example.completion, is_answer=True)
        start = 0 if settings.loss_on == "all" else len(prompt)
        return Marked(prompt + text, (Span(start, len(prompt + text)),), plain=True)
    text = special.closed(example.text, is_answer=False)
    text = special.begun(text) if isinstance(example, Text) else text  # a document's characters tell its lines
    return Marked(text, (Span(0, len(text)),), plain=True)


def prompt_tokens(text: str, tokenizer: Tokenizer, special: Special) -> list[int]:
    """A plain text as generation is given it to go on from: what the tokenizer puts behind a text is not there yet."""
    [encoded] = encode_texts([special.begun(text)], tokenizer)
    return [*special.missing(encoded.tokens), *encoded.tokens.tolist()]


def encode(texts: Sequence[Marked], tokenizer: Tokenizer, special: Special | None = None) -> list[Tokens | BadRow]:
    """Tokens of each text, encoded many at a time. A BadRow stands for a text whose mask cannot be exact."""
    special = special or specials.read(tokenizer)
    wholes = encode_wholes([text.text for text in texts], tokenizer)
    cuts = _cuts(texts, wholes, tokenizer, special.added)
    return [_tokens(*each, tokenizer, special) for each in zip(texts, wholes, cuts, strict=True)]


def _tokens(
    text: Marked, encoded: Encoded, cuts: Sequence[int], tokenizer: Tokenizer, special: Special
) -> Tokens | BadRow:
    if cuts:
        pieces = cut(text.text, encoded, cuts, text.edges, tokenizer, special.added)
        if pieces is None:
            near = text.text[max(cuts[0] - 5, 0) : cuts[0] + 5]
            found = f"one that cannot encode what follows apart from what is before ({near!r})"
            return BadRow("a tokenizer that can tell the turns apart", found)
        encoded = pieces
    starts = _beginnings(text, encoded)
    made = Tokens(encoded.tokens, _mask(text.spans, starts), starts)
    made = _completed(made, text.text, special) if text.plain else made
    made.supervised[:1] = False  # nothing comes before the first token to predict it from
    return made


def _beginnings(text: Marked, encoded: Encoded) -> Ints:
    """Where tokens begin; one that has only blanks before an edge begins at it."""
    starts = encoded.starts.copy()
    for edge, place in across(encoded, text.edges):
        if not text.text[starts[place] : edge].strip():
            starts[place] = edge
    return starts


def _mask(spans: Sequence[Span], starts: Ints) -> Mask:
    supervised = np.zeros(len(starts), np.bool_)
    for start, end in spans:
        supervised |= (starts >= start) & (starts < end)
    return supervised


def _completed(made: Tokens, text: str, special: Special) -> Tokens:
    """With the tokens that the tokenizer puts around a text, and with its end, supervised: how the model learns to
    stop. What the text has of them is not written again."""
    before, after = special.missing(made.tokens), special.following(made.tokens, text)
    if not after:
        made.supervised[-1:] = True
    return Tokens(
        np.concatenate([before, made.tokens, after]).astype(np.int32),
        np.r_[np.zeros(len(before), np.bool_), made.supervised, np.ones(len(after), np.bool_)],
        np.r_[np.zeros(len(before)), made.starts, np.full(len(after), len(text))].astype(np.int32),
    )


def _cuts(
    texts: Sequence[Marked], wholes: Sequence[Encoded], tokenizer: Tokenizer, added: Collection[int]
) -> list[list[int]]:
    """Where each text has to be cut: edges inside a token, and spans whose prompt has other tokens alone."""
    found = [crossed(text.text, whole, text.edges, added) for text, whole in zip(texts, wholes, strict=True)]
    if keeps_beginnings(tokenizer):
        return found
    heads = [
        (place, span.start, *_head(text.text, whole, span.start, added))
        for place, (text, whole, cuts) in enumerate(zip(texts, wholes, found, strict=True))
        for span in text.spans
        if 0 < span.start < len(text.text) and span.start not in cuts
    ]
    alone = list(dict.fromkeys(head for _, _, head, _ in heads))
    known = dict(zip(alone, tokens_alone(alone, tokenizer), strict=True))
    for place, start, head, tokens in heads:
        if known[head] != tokens.tolist():
            found[place] = sorted({*found[place], start})
    return found


def _head(text: str, whole: Encoded, start: int, added: Collection[int]) -> tuple[str, Ints]:
    """What is before a span, from the last special token on, as text and as tokens of the whole."""
    end = int(np.searchsorted(np.maximum.accumulate(whole.ends), start, side="right"))
    back = next((back for back, token in enumerate(whole.tokens[:end][::-1].tolist(), 1) if token in added), None)
    first = None if back is None else end - back
    begin = 0 if first is None else int(whole.starts[first])
    return text[begin:start], whole.tokens[first:end]
