"""Where text ends: the tokens at which generation stops, and the one that ends a text that is trained.

A model says so in up to four places, and they differ: tokenizer_config.json, generation_config.json, config.json and
the text_config within it. Generation stops at all of them. The first that there is ends a text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxtune.models.folder import json_object

# Tokens that are the end of a turn or of a text in whichever vocabulary has them, where a folder says less.
ALWAYS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>")

LARGEST = 2**31  # no vocabulary has as many


def ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """The tokens at which generation stops, by everything that the folder says."""
    known = tokenizer.get_vocab()
    always = {known[token] for token in ALWAYS if token in known}
    named = {tokenizer.eos_token_id} - {None}
    return frozenset(always | named | set(_configured(folder, "eos_token_id")))


def name_ends(folder: Path, tokenizer: Any) -> None:
    """Give a tokenizer that names no token for the begin or the end of a text the one that the model's files name.

    A file may carry another model's numbers, which stand for ordinary letters here: only a token that is no text is
    taken. The end may be several tokens, of which the first is the text's.
    """
    for name in ("bos_token", "eos_token"):
        if getattr(tokenizer, name) is None:
            for number in _configured(folder, f"{name}_id"):
                if _is_mark(tokenizer, number):
                    setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
                    break


def _is_mark(tokenizer: Any, number: int) -> bool:
    token = str(tokenizer.convert_ids_to_tokens(number))
    bracketed = len(token) > 2 and (token[0], token[-1]) in (("<", ">"), ("[", "]"))
    return (bracketed and not token.startswith("<0x")) or number in tokenizer.added_tokens_decoder


def _configured(folder: Path, key: str) -> Iterator[int]:
    """The numbers under a key, which may be one or a list, in the order of the files; each file may lack them.

    Raises BadModel for a file that cannot be read.
    """
    for held in _files(folder):
        given = held.get(key)
        for number in given if isinstance(given, list) else [given]:
            if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < LARGEST:
                yield number


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            held = json_object(folder / name)
            yield held
            if isinstance(inner := held.get("text_config"), dict):
                yield inner
