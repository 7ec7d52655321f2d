"""A command line that cannot be read, told as every other fault is: what was expected, what was found, what to do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mlxtune.cli.net import kept_from_typer
from mlxtune.errors import BadSetting, MlxtuneError, raise_all
from mlxtune.format import n_bytes
from mlxtune.recipe.from_mlx_lm.flags import FLAGS as OF_MLX_LM
from mlxtune.recipe.from_mlx_lm.flags import answers

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's, or typer's own copy of it
HERE = "here"  # --fit without a value: what this machine can safely give
# What click and typer say of a value, and what we say.
EXPECTED = (
    (r"valid integer", "a whole number"),
    (r"valid number|valid float", "a number"),
    (r"greater than or equal to ([\d.]+)|range x>=([\d.]+)\.?$", "{} or more"),
    (r"less than or equal to ([\d.]+)|range x<=([\d.]+)\.?$", "{} or less"),
    (r"range ([\d.]+)<=x<=([\d.]+)", "{} to {}"),
    (r"is not one of (.*)\.$", "one of {}"),
)


class Verb(TyperCommand):
    """A verb whose options are all looked at before any is used. --fit may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, after every fault that can be seen was told."""
        options = {name: each for each in self.get_params(ctx) for name in (*each.opts, *each.secondary_opts)}
        args = with_value(args) if "--fit" in options else list(args)
        takes_words = any(each.param_type_name == "argument" for each in self.get_params(ctx))
        raise_all([*_faults(args, {k: v for k, v in options.items() if k[0] == "-"}, ctx.info_name, takes_words)])
        try:
            return super().parse_args(ctx, [*args])  # which takes them out of the list
        except UsageError as error:
            raise as_ours(error, args) from error


class Program(TyperGroup):
    """Lists the verbs without rich, whose import is half the time of `mlxtune --help`; a verb's own help has it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "rich_markup_mode": None})

    def invoke(self, ctx: Any) -> Any:
        """As typer does, but for two ends that it would answer itself."""
        with kept_from_typer():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb. Raises BadSetting, which names the nearest, for one that there is not."""
        if self.get_command(ctx, args[0]) is None:
            verbs = self.list_commands(ctx)
            near = get_close_matches(args[0], verbs, n=1, cutoff=0.5)
            remedy = f"The nearest is {near[0]}." if near else "`mlxtune --help` says what each does."
            raise BadSetting("mlxtune", expected=f"one of {', '.join(verbs)}", found=repr(args[0]), remedy=remedy)
        return super().resolve_command(ctx, args)


def with_value(args: Sequence[str]) -> list[str]:
    """The arguments with a value after each --fit.

    >>> with_value(["--fit", "--json"]), with_value(["--fit", "8GB"]), with_value(["--fit"])
    (['--fit', 'here', '--json'], ['--fit', '8GB'], ['--fit', 'here'])
    """
    found: list[str] = []
    for place, argument in enumerate(args):
        found.append(argument)
        following = args[place + 1 : place + 2]
        if argument == "--fit" and (not following or (following[0].startswith("-") and n_bytes(following[0]) is None)):
            found.append(HERE)
    return found


def as_ours(error: Any, args: Sequence[str] = ()) -> MlxtuneError:
    """An error of click as one of ours. args: what the verb was given."""
    param = getattr(error, "param", None)
    name = getattr(error, "option_name", None) or (param.opts[0] if param is not None else "mlxtune")
    if type(error).__name__ == "MissingParameter":
        return BadSetting(str(name), expected="a value", found="none")
    if type(error).__name__ == "NoSuchOption":
        return _no_such(str(name), error.possibilities or (), "mlxtune")
    if param is None:
        return BadSetting(str(name), expected="a command line that can be read", found=str(error.message))
    return BadSetting(str(name), expected=expectation(error.message), found=repr(_given(name, args)))


def expectation(message: str) -> str:
    """What was expected, out of the words of click and pydantic.

    >>> expectation("Input should be greater than or equal to 1"), expectation("'x' is not one of 'a', 'b'.")
    ('1 or more', 'one of a, b')
    """
    for pattern, words in EXPECTED:
        if match := re.search(pattern, message):
            return words.format(*(part.replace("'", "") for part in match.groups() if part is not None))
    return message.removeprefix("Input should be ").removeprefix("Value error, ").rstrip(".")


def _given(name: str, args: Sequence[str]) -> str:
    """The last value of an option."""
    after = [args[place + 1] for place, each in enumerate(args[:-1]) if each == name]
    joined = [each.partition("=")[2] for each in args if each.startswith(f"{name}=")]
    return (after + joined or [""])[-1]


def _faults(args: Sequence[str], options: Mapping[str, Any], verb: str, takes_words: bool) -> Iterator[MlxtuneError]:
    """What can be said of the arguments without their values: all unknown options, words too many, values lacking."""
    unknown, rest = [], list(args)
    while rest and rest[0] != "--":
        name, equals, _ = rest.pop(0).partition("=")
        following = rest[0] if rest else ""
        if not name.startswith("-") or name == "-":
            if not takes_words:
                yield BadSetting(f"mlxtune {verb}", expected="options alone", found=repr(name + equals))
        elif name not in options:
            unknown.append(name)
            rest = rest if equals or following.startswith("-") else rest[1:]
        elif options[name].is_flag:
            if equals:
                yield BadSetting(name, expected="no value, as it is a switch", found="one", remedy="Leave it out.")
        elif not equals:
            if not rest or following.partition("=")[0] in options:
                found = f"the next option, {following}" if rest else "none"
                yield BadSetting(name, expected="a value", found=found)
            else:
                rest.pop(0)
    yield from _unknown(unknown, options, verb)


def _unknown(names: Sequence[str], options: Mapping[str, Any], verb: str) -> Iterator[MlxtuneError]:
    """Options that the verb does not have: those of mlx-lm together, with ours, and each other one."""
    theirs = list(dict.fromkeys(name for name in names if name in OF_MLX_LM))
    if theirs:
        yield BadSetting(
            f"mlxtune {verb}",
            expected="options of its own",
            found=f"{'one' if len(theirs) == 1 else 'some'} of mlx-lm: {', '.join(theirs)}",
            remedy="\n".join(answers(theirs, options)),
        )
    for name in dict.fromkeys(names):
        if name not in theirs:
            yield _no_such(name, [*options], f"mlxtune {verb}")


def _no_such(name: str, options: Sequence[str], program: str) -> MlxtuneError:
    near = get_close_matches(name.replace("_", "-"), options, n=1, cutoff=0.6)
    remedy = f"The nearest is {near[0]}." if near else f"`{program} --help` lists them."
    return BadSetting(name, expected=f"an option of {program}", found="none of that name", remedy=remedy)
