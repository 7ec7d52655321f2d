"""Text -> tokens, whole or cut at given characters as it is in generation: the prompt is encoded before its
continuation exists, and the continuation is encoded as what follows it.

How a tokenizer encodes what follows differs by its kind. A byte-level one encodes it as any text. SentencePiece's put a
blank in front of a text, WordPiece marks what goes on within a word: there, the continuation is encoded behind a few
characters with which it does not merge, whose tokens are left out. Which of the ways is right, decoding tells.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.tokenizer import Tokenizer

Ints = NDArray[np.int32]

# What a continuation is encoded behind, after the characters that are really before it: letters, line ends, digits and
# marks, of which few merge with what follows.
ANCHORS = ("\n", "x", "q", "a", "e", "n", "z", "s", "0", "7", ".", ":", "|", "~", "中", "あ", "я")


class Encoded(NamedTuple):
    """T tokens of a text, each with its first character and the one after its last; nothing is added to the text."""

    tokens: Ints
    starts: Ints
    ends: Ints

    def part(self, begin: int | None, end: int | None = None, moved: int = 0) -> "Encoded":
        """Some of the tokens, their characters counted from `moved` places further left."""
        return Encoded(self.tokens[begin:end], self.starts[begin:end] - moved, self.ends[begin:end] - moved)


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoded]:
    """Each text whole."""
    if not texts:
        return []
    # verbose: a row longer than the tokenizer's idea of a context is no reason to warn; max_seq_length judges it
    batch = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [_arrays(*row) for row in zip(batch["input_ids"], batch["offset_mapping"], strict=True)]


def _arrays(tokens: list[int], offsets: list[tuple[int, int]]) -> Encoded:
    """Byte-level tokenizers may report a token without its leading space; here each token begins where the last ends,
    except that tokens that share one character (the bytes of an emoji) all begin at it."""
    starts, ends = np.fromiter(chain.from_iterable(offsets), np.int32, 2 * len(offsets)).reshape(-1, 2).T
    before = np.concatenate([np.zeros(1, np.int32), np.maximum.accumulate(ends)])[: len(starts)]
    return Encoded(np.array(tokens, np.int32), np.minimum(starts, before), ends)


def across(encoded: Encoded, edges: Sequence[int]) -> list[tuple[int, int]]:
    """The edges that lie inside a token, each with the token's place."""
    if not edges:
        return []
    at = np.array(edges, np.int32)[:, None]
    inside = (encoded.starts < at) & (at < encoded.ends)
    if not inside.any():
        return []
    return [(edges[row], place) for row, place in np.argwhere(inside).tolist()]


def crossed(text: str, encoded: Encoded, edges: Sequence[int], added: Collection[int]) -> list[int]:
    """The edges that lie inside a token. One of the added tokens may swallow the blanks beside it; that is no merge."""
    found = (edge for edge, place in across(encoded, edges) if not _swallows(text, encoded, place, edge, added))
    return list(dict.fromkeys(found))


def _swallows(text: str, encoded: Encoded, place: int, edge: int, added: Collection[int]) -> bool:
    start, end = int(encoded.starts[place]), int(encoded.ends[place])
    return int(encoded.tokens[place]) in added and not (text[start:edge].strip() and text[edge:end].strip())


def cut(
    text: str, whole: Encoded, cuts: Sequence[int], edges: Sequence[int], tokenizer: Tokenizer, added: Collection[int]
) -> Encoded | None:
    """The text in pieces, so that a token ends at each of the cuts and none lies across an edge.

    A piece may merge across an edge that the whole does not, which is then a cut too. None where no way of encoding the
    pieces says the same as the whole, or as the text.
    """
    for wanted in (decoded(whole.tokens, tokenizer), text):
        for way in (_alone, _behind, _searched):
            done = list(cuts)
            made = way(text, done, tokenizer)
            while made is not None and (new := crossed(text, made, edges, added)):
                done = sorted({*done, *new})
                made = way(text, done, tokenizer)
            if made is not None and same(decoded(made.tokens, tokenizer), wanted):
                return made
    return None


def decoded(tokens: Ints, tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False))


def same(one: str, two: str) -> bool:
    """Whether texts are equal, as far as tokenizers keep characters apart that Unicode has as compatible."""
    return one == two or normalize("NFKC", one) == normalize("NFKC", two)


def _alone(text: str, cuts: Sequence[int], tokenizer: Tokenizer) -> Encoded:
    """Each piece as any text: right where a tokenizer puts nothing in front of a text."""
    bounds = list(pairwise([0, *cuts, len(text)]))
    pieces = encode([text[start:end] for start, end in bounds], tokenizer)
    return _joined([piece.part(None, moved=-start) for piece, (start, _) in zip(pieces, bounds, strict=True)])


def _behind(text: str, cuts: Sequence[int], tokenizer: Tokenizer) -> Encoded | None:
    """Each piece but the first behind the first of the anchors that it does not merge with."""
    pieces = encode([text[: cuts[0]]], tokenizer)
    for start, end in pairwise([*cuts, len(text)]):
        piece = next(_continuations(text, start, end, tokenizer), None)
        if piece is None:
            return None
        pieces.append(piece)
    return _joined(pieces)


def _searched(text: str, cuts: Sequence[int], tokenizer: Tokenizer) -> Encoded | None:
    """Each piece but the first in the first of all ways that reads as the text does up to its end."""
    made = encode([text[: cuts[0]]], tokenizer)[0]
    for start, end in pairwise([*cuts, len(text)]):
        alone, until = encode([text[start:end], text[:end]], tokenizer)
        wanted = decoded(until.tokens, tokenizer)
        ways = (alone.part(None, moved=-start), *_continuations(text, start, end, tokenizer))
        tried = (_joined([made, way]) for way in ways)
        found = next((each for each in tried if same(decoded(each.tokens, tokenizer), wanted)), None)
        if found is None:
            return None
        made = found
    return made


def _continuations(text: str, start: int, end: int, tokenizer: Tokenizer) -> Iterator[Encoded]:
    """What follows text[:start], up to `end`, as tokens behind each anchor that does not merge with it."""
    for anchor in (text[start - 1 : start], text[max(start - 2, 0) : start], *ANCHORS):
        [made] = encode([anchor + text[start:end]], tokenizer)
        length = len(anchor)
        if not np.any((made.starts < length) & (made.ends > length)):
            first = int(np.searchsorted(np.maximum.accumulate(made.ends), length, side="right"))
            yield made.part(first, moved=length - start)


def _joined(pieces: Sequence[Encoded]) -> Encoded:
    return Encoded(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
