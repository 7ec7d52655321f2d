"""Where the rows' tokens are: found in the cache if they were made before, else made, by one process at a time."""

import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.data import urls
from mlxtune.data.files import Sources
from mlxtune.data.folders import Split
from mlxtune.data.rows import Wanted
from mlxtune.data.settings import DataSettings
from mlxtune.data.store.columns import token_type
from mlxtune.data.store.making import Making, opened
from mlxtune.data.store.store import Store
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.errors import BadData, MlxtuneError, RunStopped
from mlxtune.storage.files import cache_folder
from mlxtune.storage.one_writer import drop_older, one_writer

FOLDER = "tokens"  # of the cache
KEPT = 8  # stores of one data set: of a few models, lengths of a system message, and so on
_TIME = re.compile(r"strftime_now\s*\(")
_FORMAT = re.compile(r"""strftime_now\s*\(\s*(["'])((?:(?!\1).)*)\1\s*\)""")
Fill = Callable[[Making], None]


class Asked(NamedTuple):
    """Rows of a data set that a tokenizer is to make tokens of."""

    sources: Sources
    splits: tuple[Split, ...]
    wanted: Wanted
    tokenizer: Tokenizer


class Found(NamedTuple):
    """The store, and what is to be said of where it is."""

    store: Store
    notes: tuple[str, ...] = ()


def in_memory(asked: Asked, fill: Fill) -> Found:
    """Made for this process alone."""
    making = Making(_type(asked.tokenizer))
    fill(making)
    return Found(making.finish(None))


def find_or_make(asked: Asked, fill: Fill, wait: Callable[[], None]) -> Found:
    """From the cache, or made there; in memory where that cannot be written to. wait: is called while another makes it.

    What is wrong with the rows is raised, and nothing of them is kept. A kill leaves what was made so far.
    """
    folder = _folder(asked)
    if (store := opened(folder)) is not None:
        with suppress(OSError):  # a cache that is only read
            os.utime(folder)
        return Found(store)
    with ExitStack() as stack:
        try:
            work = stack.enter_context(one_writer(folder, wait))
            if (store := opened(folder)) is not None:
                return Found(store)
            making = Making(_type(asked.tokenizer), work)
        except OSError as fault:
            return _not_kept(asked, fill, folder, fault)
        found = _made(making, fill, folder, lambda: _folder(asked))
    drop_older(folder, KEPT)
    return found


def _not_kept(asked: Asked, fill: Fill, folder: Path, fault: OSError) -> Found:
    said = f"The rows' tokens are held in memory: {folder.parent} cannot keep them ({fault.strerror})."
    return in_memory(asked, fill)._replace(notes=(said,))


def _made(making: Making, fill: Fill, folder: Path, now: Callable[[], Path]) -> Found:
    """The work is kept where nothing was wrong with the rows: the next start goes on from there.

    now: where the store belongs once the rows were read. Files that were changed meanwhile belong elsewhere.
    """
    work = making.work
    try:
        fill(making)
        if now() != folder:
            found, remedy = "some that were changed meanwhile", "Run the command again."
            raise BadData(
                "data", expected="files that stay as they are while they are read", found=found, remedy=remedy
            )
        return Found(making.finish(folder), tuple(making.notes))
    except RunStopped:
        making.note()
        raise
    except MlxtuneError:
        if work:
            shutil.rmtree(work, ignore_errors=True)
        raise


def _type(tokenizer: Tokenizer) -> Any:
    return token_type(max(tokenizer.get_vocab().values(), default=0))


def _folder(asked: Asked) -> Path:
    """The place is a hash of all that the tokens depend on, in a folder of the data set."""
    name = urls.shown(asked.wanted.settings.path or "the built-in data")
    own = re.sub(r"[^\w.-]+", "-", name.rstrip("/").rpartition("/")[2])[-60:]
    parts = {
        "content": asked.sources.identity(),
        "splits": asked.splits,
        "wanted": _wanted(asked),
        "tokenizer": _of_tokenizer(asked.tokenizer),
        "code": _code(),
        "versions": [version(package) for package in ("tokenizers", "transformers")],
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / FOLDER / f"{own}-{zlib.crc32(name.encode()):08x}" / key


def _wanted(asked: Asked) -> dict[str, Any]:
    wanted, settings = asked.wanted, asked.wanted.settings
    names = ("columns", "system", "loss_on", "end_of_turn", "skip_bad_rows", "max_rows")
    said = {name: getattr(settings, name) for name in names}
    return {**said, "stops": sorted(wanted.stops), "pairs": wanted.pairs, "now": _times(asked.tokenizer, settings)}


def _times(tokenizer: Tokenizer, settings: DataSettings) -> list[str]:
    """What a chat template may write of the time: a store of the same day is the same where that is all it writes."""
    found = tokenizer.chat_template
    template = "\n".join(map(str, found.values())) if isinstance(found, dict) else str(found)
    formats = [written for _, written in _FORMAT.findall(template)]
    if len(formats) == len(_TIME.findall(template)) == template.count("strftime_now"):
        return [settings.time.strftime(each) for each in formats]
    return [settings.time.isoformat()]


def _of_tokenizer(tokenizer: Any) -> str:
    """Whatever tokens depend on: its algorithm and vocabulary, its special tokens, its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        tokenizer.special_tokens_map,
        tokenizer.chat_template,
        {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()},
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _code() -> str:
    """The code that makes tokens of rows: what it makes differently it makes anew."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
