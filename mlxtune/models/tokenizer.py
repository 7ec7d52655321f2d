"""The tokenizer of a model folder: tokenizer.json as it is, without the code or the chatter of anyone else.

transformers builds many tokenizers anew by the model's type, from the vocabulary of tokenizer.json and an algorithm of
its own; where a model has another family's tokenizer, as distilled models have, the tokens are then others than those
that the model was trained on. Here the file is the truth, and `differences` says where transformers reads it otherwise.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.errors import BadModel, MlxtuneError
from mlxtune.format import counted, shown
from mlxtune.models import config as model_config
from mlxtune.models import stopping
from mlxtune.models.config import ModelConfig
from mlxtune.models.folder import TOKENIZERS, contents, json_object, some
from mlxtune.storage.documents import TOKENIZER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNHEARD_OF = "\U0010fffe"  # no character: it tells whether a tokenizer takes any text, or fails at an unknown one
NEVER_TOO_LONG = int(1e30)  # transformers' own word for "no limit"
SAMPLE = "Once upon a time,  Grüße! 東京 \U0001f642\n\n  def f(x2):\n\treturn 12345.6 <s>"
READABLE = "a tokenizer that transformers can read"
REMEDY = "Fetch the tokenizer's files again. A tokenizer that needs Python code of its own is never run."


def load(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of a model folder, chat template included. BadModel says what is wrong with its files.

    Where the tokenizer's own files name no token for the begin or the end of a text, the model's do.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found": it is not needed
    _check_files(folder)
    with _refusing(folder), _quiet():
        tokenizer = _read(folder)
        for text in (SAMPLE, UNHEARD_OF):  # some faults of a file are found only in use
            tokenizer.decode(tokenizer(text)["input_ids"])
        stopping.name_ends(folder, tokenizer)
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


def differences(folder: Path, tokenizer: "PreTrainedTokenizerFast") -> tuple[str, ...]:
    """A note where transformers would give other tokens than tokenizer.json, or none at all."""
    if not (folder / "tokenizer.json").is_file():
        return ()
    before = "The tokens are those of tokenizer.json, which is what the model was made with."
    try:
        with _refusing(folder), _quiet():
            theirs = _by_class(folder)
            tokens = theirs(SAMPLE)["input_ids"]
    except BadModel:
        return (f"{before} transformers cannot read this tokenizer, nor can programs that use it.",)
    if tokens == tokenizer(SAMPLE)["input_ids"]:
        return ()
    return (f"{before} transformers, and programs that use it, encode by the class {type(theirs).__name__} otherwise.",)


def _read(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer as tokenizer.json has it; without that file, as transformers makes one of what is there."""
    from transformers import PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    tokenizer = _by_class(folder)
    if not tokenizer.is_fast:
        raise _only_slow(folder, type(tokenizer).__name__)
    return tokenizer


def _by_class(folder: Path) -> "PreTrainedTokenizerFast":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


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
    held = {name: json_object(folder / name, TOKENIZER) for name in names if (folder / name).is_file()}
    if "AutoTokenizer" in str(held.get("tokenizer_config.json", {}).get("auto_map")):
        raise BadModel(str(folder), expected=READABLE, found="one with Python code of its own", remedy=REMEDY)
    if (folder / "config.json").is_file():  # transformers reads it too, and what it does not take is told of it
        model_config.document(folder / "config.json")
        _check_config(folder)


def _check_config(folder: Path) -> None:
    """Raises BadModel where transformers does not take config.json; what family it is of is not asked."""
    from transformers import AutoConfig, PretrainedConfig

    try:
        with _quiet():
            try:
                AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            except (ValueError, OSError):
                PretrainedConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of many kinds
        found = " ".join(str(error).split()) or type(error).__name__
        place, remedy = str(folder / "config.json"), "Mend the key, or fetch the file again."
        raise BadModel(
            place, expected="a config that transformers can read", found=found.rstrip("."), remedy=remedy
        ) from error


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Any fault that transformers or tokenizers meets, told as BadModel; a panic of Rust is no Exception."""
    try:
        yield
    except (MlxtuneError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: BaseException) -> BadModel:
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    if not (folder / "tokenizer.json").is_file():
        return _only_slow(folder, first_line)
    found = f"one with a fault ({first_line.rstrip('.')})"
    return BadModel(str(folder / "tokenizer.json"), expected=READABLE, found=found, remedy=REMEDY)


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
