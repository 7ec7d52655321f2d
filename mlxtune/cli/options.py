"""The options of a training run: decorators that give them to a verb."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from mlxtune.cli.flags import FLAGS, Flag
from mlxtune.cli.naming import naming
from mlxtune.format import n_bytes

METAVARS = {int: "INTEGER", float: "NUMBER"}


def recipe_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb all FLAGS; those that the user gave reach its parameter `overrides`, by recipe key."""
    return _with(verb, FLAGS)


def some_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same with the FLAGS of these names alone."""
    return lambda verb: _with(verb, [flag for flag in FLAGS if flag.flag.partition("/")[0] in names])


def _with(verb: Callable[..., None], flags: Sequence[Flag]) -> Callable[..., None]:
    names = {_name(flag): flag for flag in flags}

    @wraps(verb)
    def wrapped(**arguments: Any) -> None:
        given = {flag: arguments.pop(name) for name, flag in names.items()}
        overrides = {
            _key(flag, value): _converted(flag, value) for flag, value in given.items() if value not in (None, [])
        }
        with naming(overrides, arguments.get("recipe")):
            verb(overrides=overrides, **arguments)

    signature = inspect.signature(verb).parameters
    own = [p.replace(kind=p.KEYWORD_ONLY) for name, p in signature.items() if name != "overrides"]
    shared = [_parameter(name, flag) for name, flag in names.items()]
    wrapped.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]  # typer reads it
    wrapped.__annotations__ = {p.name: p.annotation for p in (*shared, *own)}
    return wrapped


def _name(flag: Flag) -> str:
    return flag.flag.partition("/")[0].removeprefix("--").replace("-", "_")


def _parameter(name: str, flag: Flag) -> inspect.Parameter:
    """Numbers are taken as text: the recipe refuses what is none, together with all other faults."""
    metavar = METAVARS.get(flag.kind)
    option = typer.Option(flag.flag, help=flag.help, rich_help_panel=flag.panel, show_default=False, metavar=metavar)
    kind: Any = (str if metavar else flag.kind) | None
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _key(flag: Flag, value: Any) -> str:
    """The recipe's key. What validates is a path, or a number that says how much of the rows."""
    return "data.valid_share" if flag.key == "data.valid" and isinstance(_number(float, value), float) else flag.key


def _converted(flag: Flag, value: Any) -> Any:
    """The value as a recipe has it; a text that says no such value stays, for the recipe to refuse."""
    match flag.key:
        case "strategy.last_n":
            return _number(int, value)
        case "data.valid":
            return _number(float, value)
        case "train.clip_norm":
            return None if value == "none" else _number(float, value)
        case "backend.memory_limit_bytes":
            found = n_bytes(value)
            return value if found is None else found
    if flag.kind in METAVARS:
        return _number(flag.kind, value)
    return tuple(value) if isinstance(value, list) else value


def _number(kind: Callable[[str], Any], value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value
