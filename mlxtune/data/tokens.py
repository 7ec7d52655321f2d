"""Examples -> text with the characters that carry loss -> tokens with their loss mask.

Whole texts are encoded, and a token carries loss if it begins inside a span. Where a token would lie across the edge of
a span (the tokenizer merges the header's last newline with the answer's first), the text is cut there and encoded in
pieces, as it is in generation, where the prompt is encoded before the answer exists. A row is refused where neither is
possible without training what is outside the span.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.faults import BadRow
from mlxtune.data.forms import Chat, Completion, Example
from mlxtune.data.settings import DataSettings
from mlxtune.data.template import chat_text
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.turns import Span

Ints = NDArray[np.int32]
Mask = NDArray[np.bool_]


class Marked(NamedTuple):
    """A text and the characters of it that carry loss. plain: no template wrote its special tokens, so the tokenizer
    adds its own and an end-of-text token follows."""

    text: str
    spans: tuple[Span, ...]
    plain: bool


class Tokens(NamedTuple):
    """T tokens, the mask of those that carry loss, and the character that each begins at."""

    tokens: Ints
    supervised: Mask
    starts: Ints


class _Encoded(NamedTuple):
    """T tokens, each with its first character and the one after its last. added: not from the text."""

    tokens: Ints
    starts: Ints
    ends: Ints
    added: Mask


def marked(example: Example, tokenizer: Tokenizer, settings: DataSettings) -> Marked:
    """The text that an example is trained as. Raises BadRow where the chat template cannot write it."""
    if isinstance(example, Completion) and tokenizer.chat_template:
        example = example.chat
    if isinstance(example, Chat):
        return Marked(*chat_text(example, tokenizer, settings.loss_on, settings.time), plain=False)
    if isinstance(example, Completion):
        text = example.plain_prompt + example.completion
        return Marked(
            text, (Span(0 if settings.loss_on == "all" else len(example.plain_prompt), len(text)),), plain=True
        )
    return Marked(example.text, (Span(0, len(example.text)),), plain=True)


def encode(texts: Sequence[Marked], tokenizer: Tokenizer) -> list[Tokens | BadRow]:
    """Tokens of each text, encoded many at a time. A BadRow stands for a text whose mask cannot be exact."""
    made: dict[int, Tokens | BadRow] = {}
    for plain in (False, True):
        places = [place for place, text in enumerate(texts) if text.plain == plain]
        encoded = _encode([texts[place].text for place in places], tokenizer, special=plain)
        for place, each in zip(places, encoded, strict=True):
            made[place] = _tokens(texts[place], each, tokenizer)
    return [made[place] for place in range(len(texts))]


def _tokens(text: Marked, encoded: _Encoded, tokenizer: Tokenizer) -> Tokens | BadRow:
    spans, cuts = text.spans, _crossed(text, encoded, tokenizer)
    if cuts:
        pieces = _cut(text, encoded, tokenizer)
        if _decoded(pieces, tokenizer) == _decoded(encoded, tokenizer):
            encoded = pieces
        elif all(_only_blanks_cross(text, encoded, cut) for cut in cuts):
            spans = tuple(_widened(span, encoded) for span in spans)
        else:
            near = text.text[max(cuts[0] - 5, 0) : cuts[0] + 5]
            found = f"one that merges characters across the edge of a turn ({near!r})"
            return BadRow("a tokenizer that can tell the turns apart", found)
    made = Tokens(encoded.tokens, _mask(spans, encoded), encoded.starts)
    made = _ended(made, len(text.text), tokenizer.eos_token_id) if text.plain else made
    made.supervised[:1] = False  # nothing comes before the first token to predict it from
    return made


def _cut(text: Marked, whole: _Encoded, tokenizer: Tokenizer) -> _Encoded:
    """The text encoded in pieces; a piece may merge across an edge that the whole did not, so until none does."""
    pieces, cuts = whole, list[int]()
    while new := _crossed(text, pieces, tokenizer):
        cuts = sorted({*cuts, *new})
        pieces = _in_pieces(text.text, cuts, whole, tokenizer)
    return pieces


def _mask(spans: Sequence[Span], encoded: _Encoded) -> Mask:
    supervised = np.zeros(len(encoded.tokens), np.bool_)
    for start, end in spans:
        supervised |= (encoded.starts >= start) & (encoded.starts < end)
    return supervised & ~encoded.added


def _only_blanks_cross(text: Marked, encoded: _Encoded, cut: int) -> bool:
    """Whether the token across an edge has only blanks outside the span: SentencePiece writes " word" as one token and
    cannot be given "word" alone. The token then belongs to the span."""
    across = (encoded.starts < cut) & (cut < encoded.ends)
    outside = [(int(start), cut) for start in encoded.starts[across]]
    if any(span.end == cut for span in text.spans):
        outside = [(cut, int(end)) for end in encoded.ends[across]]
    return all(not text.text[start:end].strip() for start, end in outside)


def _widened(span: Span, encoded: _Encoded) -> Span:
    across = encoded.starts[(encoded.starts < span.start) & (span.start < encoded.ends)]
    return span._replace(start=int(across.min(initial=span.start)))


def _ended(made: Tokens, length: int, eos: int | None) -> Tokens:
    """With the end-of-text token, once, and supervised: it is how the model learns to stop."""
    if eos is not None and (not len(made.tokens) or made.tokens[-1] != eos):
        tokens, supervised, starts = (
            np.append(part, last) for part, last in zip(made, (eos, True, length), strict=True)
        )
        return Tokens(tokens.astype(np.int32), supervised.astype(np.bool_), starts.astype(np.int32))
    made.supervised[-1:] = True
    return made


def _encode(texts: list[str], tokenizer: Tokenizer, *, special: bool) -> list[_Encoded]:
    if not texts:
        return []
    # verbose: a row longer than the tokenizer's idea of a context is no reason to warn; max_seq_length judges it
    batch = tokenizer(
        texts,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    columns = (batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"])
    return [_arrays(*row) for row in zip(*columns, strict=True)]


def _arrays(tokens: list[int], offsets: list[tuple[int, int]], added: list[int]) -> _Encoded:
    """Byte-level tokenizers may report a token without its leading space; here each token begins where the last ends,
    except that tokens that share one character (the bytes of an emoji) all begin at it."""
    starts, ends = np.array(offsets, np.int32).reshape(-1, 2).T
    before = np.concatenate([np.zeros(1, np.int32), np.maximum.accumulate(ends)])[: len(starts)]
    return _Encoded(np.array(tokens, np.int32), np.minimum(starts, before), ends, np.array(added, np.bool_))


def _crossed(text: Marked, encoded: _Encoded, tokenizer: Tokenizer) -> list[int]:
    """The edges of spans that lie inside a token. A special token may swallow the blanks after it; that is no merge."""
    edges = sorted({edge for span in text.spans for edge in span} - {0, len(text.text)})
    crossed = []
    for edge in edges:
        across = encoded.tokens[(encoded.starts < edge) & (edge < encoded.ends)]
        if any(not _is_special(tokenizer, int(token)) for token in across):
            crossed.append(edge)
    return crossed


def _is_special(tokenizer: Tokenizer, token: int) -> bool:
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and bool(added.special)


def _in_pieces(text: str, cuts: list[int], whole: _Encoded, tokenizer: Tokenizer) -> _Encoded:
    bounds = list(pairwise([0, *cuts, len(text)]))
    pieces = _encode([text[start:end] for start, end in bounds], tokenizer, special=False)
    own = np.flatnonzero(~whole.added)
    head, tail = slice(0, own[0]), slice(own[-1] + 1, None)
    moved = [
        piece._replace(starts=piece.starts + start, ends=piece.ends + start)
        for piece, (start, _) in zip(pieces, bounds, strict=True)
    ]
    columns = zip(whole, *moved, strict=True)
    return _Encoded(*(np.concatenate([ends[head], *middle, ends[tail]]) for ends, *middle in columns))


def _decoded(encoded: _Encoded, tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(encoded.tokens.tolist(), clean_up_tokenization_spaces=False))
