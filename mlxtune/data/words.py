"""Texts -> tokens, word by word, where a tokenizer encodes each word by itself: each is encoded once.

Tokenizers of SentencePiece's kind (Llama 2, Mistral) write a blank as ▁, put one in front of a text and behind each
special token, and merge letters anywhere. Where no token has a ▁ behind another letter, no merge goes across the
beginning of a word: the tokens of a text are those of its words, whatever is beside them. The tokenizer itself says
what they are.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.encoding import Encoded, encode
from mlxtune.data.spelled import ranges
from mlxtune.data.tokenizer import Tokenizer

BLANK = "▁"
NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": BLANK},
        {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
    ],
}
BEFORE = "x"  # a word, behind which others are encoded
MOST_TOKENS = 1_000_000  # of words that are remembered from one batch to the next
_BLANKS = re.compile("(  +[^ ]*)")


class Numbers(dict[str, int]):
    """Of words, each of which gets one when it is asked for.

    The first word of a text, or behind a special token, stands behind a ▁; any other one without the blank before it.
    """

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class Words:
    """The words of one tokenizer, with their tokens one after the other, and characters counted from the word's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend = tokenizer.backend_tokenizer
        self._added = {token.content: number for number, token in backend.get_added_tokens_decoder().items()}
        longest_first = sorted(self._added, key=len, reverse=True)
        self._between = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._forget()

    def _forget(self) -> None:
        self._numbers = Numbers()
        self._words = Encoded(*(np.zeros(0, np.int32) for _ in range(3)))
        self._counts, self._widths = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def encode(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoded | None]:
        """None for texts with a ▁ of their own."""
        if len(self._words.tokens) > MOST_TOKENS:
            self._forget()
        known = [BLANK not in text for text in texts]
        numbers, bounds = list[int](), [0]
        for text, is_known in zip(texts, known, strict=True):
            if is_known:
                self._number(text, numbers)
            bounds.append(len(numbers))
        self._learn(list(self._numbers)[len(self._counts) :], tokenizer)
        made = self._joined(np.array(numbers, np.int64), np.array(bounds))
        return [each if is_known else None for each, is_known in zip(made, known, strict=True)]

    def _number(self, text: str, numbers: list[int]) -> None:
        """Add the numbers of a text's words, and of the special tokens between them."""
        number = self._numbers.__getitem__
        for place, part in enumerate(self._between.split(text)):
            if place % 2:
                numbers.append(number(part))
            elif part:
                first, *others = _words(part)
                numbers.append(number(BLANK + first))
                numbers.extend(map(number, others))

    def _learn(self, words: Sequence[str], tokenizer: Tokenizer) -> None:
        """Encode words that are new."""
        if not words:
            return
        [before] = encode([BEFORE], tokenizer)
        made = list(self._encoded(words, tokenizer, len(before.tokens)))
        columns = zip(self._words, *made, strict=True)
        self._words = Encoded(*(np.concatenate(column) for column in columns))
        self._counts = np.append(self._counts, [len(each.tokens) for each in made])
        self._widths = np.append(self._widths, [self._width(word) for word in words])

    def _encoded(self, words: Sequence[str], tokenizer: Tokenizer, first: int) -> Iterator[Encoded]:
        """first: of the tokens of what follows BEFORE."""
        texts = [word[1:] if word.startswith(BLANK) else f"{BEFORE} {word}" for word in words]
        for word, made in zip(words, encode(texts, tokenizer), strict=True):
            if word in self._added:
                yield Encoded(*(np.array([number], np.int32) for number in (self._added[word], 0, len(word))))
            else:
                yield made if word.startswith(BLANK) else made.part(first, moved=len(BEFORE))

    def _width(self, word: str) -> int:
        """Characters of a text that are the word's, with the blank before it."""
        if word in self._added:
            return len(word)
        return len(word) + (-1 if word.startswith(BLANK) else 1)

    def _joined(self, numbers: NDArray[np.int64], bounds: NDArray[np.int64]) -> Iterator[Encoded]:
        """The tokens of texts, of which each has the numbers of its words between two of the bounds."""
        counts, widths = self._counts[numbers], self._widths[numbers]
        after, at = np.append(0, np.cumsum(counts)), np.append(0, np.cumsum(widths))
        places = ranges((np.cumsum(self._counts) - self._counts)[numbers], counts)
        moved = np.repeat(at[:-1] - np.repeat(at[bounds[:-1]], np.diff(bounds)), counts).astype(np.int32)
        tokens, starts, ends = (column[places] for column in self._words)
        whole = Encoded(tokens, starts + moved, ends + moved)
        for begin, end in pairwise(after[bounds].tolist()):
            yield whole.part(begin, end)


def _words(text: str) -> list[str]:
    """The words of a text without the one blank before each; further blanks belong to the word behind them.

    >>> _words("a bc   d "), _words(" a")
    (['a', 'bc', '  d', ''], [' a'])
    """
    found: list[str] = []
    for place, part in enumerate(_BLANKS.split(" " + text)):
        found += [part[1:]] if place % 2 else part.split(" ")[1:]
    return found


def words(tokenizer: Tokenizer) -> Words | None:
    """The words of a tokenizer of transformers' own; None where its words are not encoded each by itself."""
    backend = tokenizer.backend_tokenizer
    model, normalizer = backend.model, backend.normalizer
    if type(model).__name__ != "BPE" or normalizer is None or backend.pre_tokenizer is not None:
        return None
    if json.loads(normalizer.__getstate__()) != NORMALIZER:
        return None
    if model.dropout or model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    tokens = backend.get_vocab(with_added_tokens=False)
    if model.unk_token is None or not tokens.keys() >= {BLANK, model.unk_token}:
        return None
    if any(BLANK in token.lstrip(BLANK) for token in tokens):
        return None
    return Words(tokenizer) if all(map(_is_plain, backend.get_added_tokens_decoder().values())) else None


def _is_plain(token: Any) -> bool:
    """Of a special token: whether it is found wherever it is written, and takes nothing from beside it."""
    swallows = token.lstrip or token.rstrip or token.single_word or token.normalized
    return bool(token.content) and not swallows and " " not in token.content
