"""An error names a setting as the user gave it: as a flag, as `--set`, or as a key of a recipe file."""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlxtune.cli.flags import FLAGS
from mlxtune.errors import Faults, MlxtuneError

FLAG_OF = {flag.key: flag.flag.partition("/")[0] for flag in FLAGS} | {"data.valid_share": "--valid"}
KEY_OF = {name: flag.key for flag in FLAGS for name in flag.flag.split("/")}
KEY = re.compile(r"(model|data|strategy|optimizer|schedule|train|checkpoint|backend|run)\.\w+")  # of a recipe
KEYS = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, FLAG_OF)) + r")(?![\w.])")
NAMES = re.compile(r"(?<![\w-])(" + "|".join(sorted(map(re.escape, KEY_OF), key=len, reverse=True)) + r")(?![\w-])")


@contextmanager
def naming(given: Collection[str], file: Path | str | None, *, by_set: bool = False) -> Iterator[None]:
    """Errors inside the block speak of flags where `given` or no file has the key, else of the file's keys.

    by_set: a verb without flags, whose `given` were told with --set.
    """
    try:
        yield
    except MlxtuneError as error:
        for fault in error.faults if isinstance(error, Faults) else (error,):
            _name(fault, given, file, by_set)
        raise


def _name(fault: MlxtuneError, given: Collection[str], file: Path | str | None, by_set: bool) -> None:
    place = fault.where.removeprefix(f"{file}: ") if file else fault.where
    if KEY.fullmatch(place):
        fault.where = _place(place, given, file, by_set)
    if file is None:
        _rewrite(fault, lambda text: KEYS.sub(lambda found: FLAG_OF[found[1]], text))
    elif by_set:
        _rewrite(fault, lambda text: "\n".join(map(_with_keys, text.split("\n"))))


def _with_keys(line: str) -> str:
    """A line with keys for flags, unless it is a command, which has flags."""
    return line if "mlxtune " in line else NAMES.sub(lambda found: KEY_OF[found[1]], line)


def _place(key: str, given: Collection[str], file: Path | str | None, by_set: bool) -> str:
    if key in given:
        return f"--set {key}" if by_set else FLAG_OF.get(key, key)
    if file and (by_set or key in _keys(Path(file))):
        return f"{file}: {key}"
    return FLAG_OF.get(key, key)


def _keys(file: Path) -> set[str]:
    from mlxtune.recipe.recipe import read

    try:
        return {f"{name}.{key}" for name, keys in read(file).items() for key in keys}
    except MlxtuneError:
        return set()


def _rewrite(fault: MlxtuneError, change: Callable[[str], str]) -> None:
    fault.where, fault.expected = change(fault.where), change(fault.expected)
    fault.found, fault.remedy = change(fault.found), change(fault.remedy)
