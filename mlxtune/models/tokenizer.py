"""The tokenizer of a model folder, through transformers, without its code and without its chatter."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.documents import TOKENIZER
from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models.config import ModelConfig
from mlxtune.models.folder import TOKENIZERS, contents, json_object, some
from mlxtune.words import counted, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNHEARD_OF = "\U0010fffe"  # no character: it tells whether a tokenizer takes any text, or fails at an unknown one
NEVER_TOO_LONG = int(1e30)  # transformers' own word for "no limit"


def load(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of a model folder, chat template included. BadModel says what is wrong with its files."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found": it is not needed
    from transformers import AutoTokenizer

    _check_files(folder)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            tokenizer(UNHEARD_OF)
    except BaseException as error:  # of every kind, by the fault; a panic of Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(folder, error) from error
    if not tokenizer.is_fast:
        raise _only_slow(folder, type(tokenizer).__name__)
    _check_template(folder, tokenizer.chat_template)
    # The trainer has a length of its own, and says what it does with longer rows; the warning would say it again.
    tokenizer.model_max_length = NEVER_TOO_LONG
    return tokenizer


def _check_template(folder: Path, template: object) -> None:
    """A text, or several by their names, of which the one that is meant has the name `default`."""
    if isinstance(template, dict) and all(
        isinstance(each, str) for each in (template.get("default"), *template.values())
    ):
        return
    if not isinstance(template, str | None):
        expected = "a template, or templates by name with a `default`"
        raise BadModel(f"{folder}: chat_template", expected=expected, found=shown(template))


def check_vocabulary(tokenizer: "PreTrainedTokenizerFast", config: ModelConfig) -> tuple[str, ...]:
    """Refuse a tokenizer that is not the model's: one with ordinary tokens that the embedding has no row for.

    An added token beyond the embedding is usual (Gemma 3's text models carry one for images) and harmless while no
    row holds it; it comes back as a note.
    """
    beyond = {token: place for token, place in tokenizer.get_vocab().items() if place >= config.vocab_size}
    if not beyond:
        return ()
    added = set(tokenizer.get_added_vocab())
    largest = max(beyond.values())
    if not set(beyond) <= added:
        raise BadModel(
            "tokenizer",
            expected=f"tokens below {config.vocab_size:,}, as the model's embedding has rows",
            found=f"{counted(len(beyond), 'token')} beyond it, up to {largest:,}",
            remedy="The tokenizer is another model's. Use the tokenizer files that came with the weights.",
        )
    names = some(sorted(beyond), limit=3)
    return (f"The embedding has no row for {names}: such tokens must not be in the data.",)


def _check_files(folder: Path) -> None:
    """Name the broken file rather than whichever fault it leads to further down."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        remedy = "Copy tokenizer.json and tokenizer_config.json from where the model comes from."
        raise BadModel(str(folder), expected="tokenizer.json", found=contents(folder), remedy=remedy)
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")
    there = [folder / name for name in names if (folder / name).is_file()]
    for path in there:
        json_object(path, TOKENIZER)
    if (folder / "config.json").is_file():  # transformers reads it too
        model_config.document(folder / "config.json")


def _unreadable(folder: Path, error: BaseException) -> BadModel:
    if (in_config := _fault_of_config(folder)) is not None:
        return in_config
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    if not (folder / "tokenizer.json").is_file():
        return _only_slow(folder, first_line)
    return BadModel(
        str(folder),
        expected="a tokenizer that transformers can read",
        found=first_line.rstrip("."),
        remedy="Fetch the tokenizer's files again. A tokenizer that needs Python code of its own is never run.",
    )


def _fault_of_config(folder: Path) -> BadModel | None:
    """What transformers does not take of config.json, which it reads for a tokenizer too; None where it takes all."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        return None
    try:
        with _quiet():
            AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as many kinds as for a tokenizer
        found = " ".join(str(error).split()) or type(error).__name__
        place, remedy = str(folder / "config.json"), "Mend the key, or fetch the file again."
        return BadModel(place, expected="a config that transformers can read", found=found.rstrip("."), remedy=remedy)
    return None


def _only_slow(folder: Path, found: str) -> BadModel:
    return BadModel(
        str(folder),
        expected="tokenizer.json, a fast tokenizer",
        found=f"only a slow one ({found.rstrip('.')})",
        remedy="Convert it once: AutoTokenizer.from_pretrained(folder).save_pretrained(folder), with transformers and\n"
        "sentencepiece, writes tokenizer.json.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' warnings off, and what Rust prints of the names in a file; then all is as it was."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    sys.stdout.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, saved in kept.items():
            os.dup2(saved, number)
            os.close(saved)
        os.close(nowhere)
        logging.set_verbosity(before)
