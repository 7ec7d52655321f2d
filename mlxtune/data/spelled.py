"""Texts -> tokens of a byte-level tokenizer, with the characters of each from the bytes that it spells.

A tokenizer takes half as long again where it has to say which characters its tokens are. Where the bytes of a text's
tokens, one after the other, are the bytes of the text, they say it too. Where they are not (the tokenizer composes
letters, or leaves something out), nothing is said.
"""

import json
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.encoding import Encoded, Ints
from mlxtune.data.tokenizer import Tokenizer

Places = NDArray[np.int64]
NOTHING = b"\xff"  # in no text; for a token of which the bytes do not tell the characters
BLANK = "Ġ"  # as byte-level vocabularies write it
KEEPING = ("ByteLevel", "Split", "Digits")  # pre-tokenizers that leave nothing out


class Spelled:
    """The bytes of one tokenizer's tokens. trims: it takes blanks at the end of a token for no part of it."""

    def __init__(self, tokenizer: Tokenizer, *, trims: bool) -> None:
        self._backend, self._trims = tokenizer.backend_tokenizer, trims
        self._added = {number: token.content for number, token in self._backend.get_added_tokens_decoder().items()}
        self._letters = _letters()
        self._bytes = np.zeros(0, np.uint8)  # of all tokens that were seen
        self._firsts, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)  # of each token; 0: not seen yet

    def encode(self, texts: Sequence[str], _: Tokenizer) -> list[Encoded | None]:
        """None for texts whose tokens spell something else."""
        made = [each.ids for each in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        bounds = [0, *accumulate(map(len, made))]
        tokens = np.fromiter(chain.from_iterable(made), np.int32, bounds[-1])
        self._learn(tokens)
        ends = np.append(0, np.cumsum(self._counts[tokens]))
        spelt = self._bytes[ranges(self._firsts[tokens], np.diff(ends))]
        right = self._right(texts, spelt.tobytes(), ends[bounds].tolist())
        whole = _characters(tokens, spelt, ends)
        return [
            whole.part(begin, end, int(whole.starts[begin]) if begin < end else 0) if is_right else None
            for (begin, end), is_right in zip(pairwise(bounds), right, strict=True)
        ]

    def _right(self, texts: Sequence[str], spelt: bytes, bounds: Sequence[int]) -> list[bool]:
        spans = pairwise(bounds)
        return [spelt[start:end] == text.encode() for text, (start, end) in zip(texts, spans, strict=True)]

    def _learn(self, tokens: Ints) -> None:
        """The bytes of tokens that were not seen before."""
        size = int(tokens.max(initial=-1)) + 1
        if size > len(self._counts):
            more = np.zeros(size - len(self._counts), np.int64)
            self._counts, self._firsts = np.append(self._counts, more), np.append(self._firsts, more)
        new = np.unique(tokens[self._counts[tokens] == 0])
        if len(new):
            spelt = [self._spelt(number) for number in new.tolist()]
            counts = np.array([len(each) for each in spelt])
            self._counts[new], self._firsts[new] = counts, len(self._bytes) + np.cumsum(counts) - counts
            self._bytes = np.append(self._bytes, np.frombuffer(b"".join(spelt), np.uint8))

    def _spelt(self, number: int) -> bytes:
        token: str = self._added.get(number) or self._backend.id_to_token(number)
        blank = [letter == BLANK or letter.isspace() for letter in token]
        if not token or (self._trims and blank[-1] and not all(blank)):
            return NOTHING
        if number in self._added:
            return token.encode()
        return b"".join(self._letters.get(letter, NOTHING) for letter in token)


def spelled(tokenizer: Tokenizer) -> Spelled | None:
    """The bytes of the tokens of a tokenizer of transformers' own; None where it is of another kind."""
    backend = tokenizer.backend_tokenizer
    if type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return None
    if _state(backend.normalizer) not in (None, {"type": "NFC"}):
        return None
    before: Any = _state(backend.pre_tokenizer) or {}
    parts = before.get("pretokenizers", [before])
    if not all(part.get("type") in KEEPING and part.get("behavior") != "Removed" for part in parts):
        return None
    prefixes = [part["add_prefix_space"] for part in parts if part["type"] == "ByteLevel"]
    if not prefixes or any(prefixes):
        return None
    return Spelled(tokenizer, trims='"trim_offsets": true' in json.dumps(_state(backend.post_processor)))


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _letters() -> dict[str, bytes]:
    """The byte that each letter of a byte-level vocabulary stands for: itself where it can be seen, else one beyond."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): bytes([byte]) for byte in seen} | {
        chr(256 + place): bytes([byte]) for place, byte in enumerate(others)
    }


def ranges(firsts: Places, counts: Places) -> Places:
    """Counts of whole numbers from each of the firsts on, one range after the other.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    after: Places = np.cumsum(counts)
    numbers: Places = np.arange(after[-1] if len(after) else 0) + np.repeat(firsts - (after - counts), counts)
    return numbers


def _characters(tokens: Ints, spelt: NDArray[np.uint8], ends: Places) -> Encoded:
    """The characters of tokens that spell such bytes; one that begins inside a character begins at it."""
    characters = np.append(0, np.cumsum((spelt & 0xC0) != 0x80))
    return Encoded(tokens, (characters[ends[:-1] + 1] - 1).astype(np.int32), characters[ends[1:]].astype(np.int32))
