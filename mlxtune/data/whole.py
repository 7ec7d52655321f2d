"""Whole texts -> tokens, in the fastest of the ways that say the same: by words, by what tokens spell, or as asked."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from mlxtune.data import encoding
from mlxtune.data.encoding import Encoded
from mlxtune.data.spelled import Spelled, spelled
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.words import Words, words


class _Way(NamedTuple):
    state: Any  # of the tokenizer that the way is for
    way: Words | Spelled | None


# No way holds its tokenizer, which would then never be let go.
_ways: WeakKeyDictionary[Tokenizer, _Way] = WeakKeyDictionary()


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoded]:
    """Each text whole, with the characters of its tokens."""
    way = _way(tokenizer) if texts else None
    found = way.encode(texts, tokenizer) if way else [None] * len(texts)
    rest = iter(encoding.encode([text for text, each in zip(texts, found, strict=True) if each is None], tokenizer))
    return [next(rest) if each is None else each for each in found]


def tokens_alone(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each text, without their characters, which are a third of the work."""
    if not texts or not _is_own(tokenizer):
        return [made.tokens.tolist() for made in encoding.encode(texts, tokenizer)]
    tokenizer([""], add_special_tokens=False)  # sets the backend up as for any text: nothing is cut off or padded
    made = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [each.ids for each in made]


def keeps_beginnings(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a text up to the end of one are the tokens of its beginning alone.

    Merges that never go across that end are the same without what is behind it; nothing else depends on what follows,
    where words are encoded each by itself.
    """
    return isinstance(_way(tokenizer), Words)


def _way(tokenizer: Tokenizer) -> Words | Spelled | None:
    """None where the tokenizer has to be asked. What is known of one holds as long as it is not changed."""
    if not _is_own(tokenizer):
        return None
    tokenizer([""], add_special_tokens=False)  # sets the backend up as for any text: nothing is cut off or padded
    state = _state(tokenizer)
    if tokenizer not in _ways or _ways[tokenizer].state != state:
        known = None if tokenizer.backend_tokenizer.encode_special_tokens else words(tokenizer) or spelled(tokenizer)
        _ways[tokenizer] = _Way(state, known)
    return _ways[tokenizer].way


def _is_own(tokenizer: Tokenizer) -> bool:
    """Whether it is transformers' own methods that encode."""
    kind = type(tokenizer)
    own = [getattr(getattr(kind, name, None), "__module__", "") for name in ("__call__", "_encode_plus")]
    has_backend = getattr(tokenizer, "backend_tokenizer", None) is not None
    return has_backend and all(module.startswith("transformers.tokenization_") for module in own)


def _state(tokenizer: Tokenizer) -> Any:
    backend = tokenizer.backend_tokenizer
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
    states = [part and part.__getstate__() for part in parts]
    return [*states, str(backend.get_added_tokens_decoder()), backend.encode_special_tokens, backend.get_vocab_size()]
