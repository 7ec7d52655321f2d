"""The program: its verbs, and how an error leaves it."""

import signal
import sys
from contextvars import ContextVar
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from mlxtune.backends import blas
from mlxtune.cli.bench import bench
from mlxtune.cli.chat import chat
from mlxtune.cli.data import data
from mlxtune.cli.doctor import doctor
from mlxtune.cli.fitting import FitCommand
from mlxtune.cli.memory import memory
from mlxtune.cli.models import models
from mlxtune.cli.net import exit_code, kept_from_typer
from mlxtune.cli.run import run
from mlxtune.cli.streams import ready
from mlxtune.cli.train import train
from mlxtune.cli.try_it import evaluate, generate
from mlxtune.errors import BadSetting
from mlxtune.signals import ASKING, Asked, ignored
from mlxtune.words import shown

DEBUG = ContextVar("DEBUG", default=False)


class QuickHelp(TyperGroup):
    """Lists the verbs without rich, whose import is half the time of `mlxtune --help`; a verb's own help has it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "rich_markup_mode": None})

    def invoke(self, ctx: Any) -> Any:
        with kept_from_typer():
            return super().invoke(ctx)


app = typer.Typer(
    name="mlxtune",
    cls=QuickHelp,
    help="Fine-tune language models on Apple Silicon.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for verb in (train, memory):
    app.command(cls=FitCommand)(verb)
for verb in (run, generate, chat, data, models, bench):
    app.command()(verb)
app.command("eval")(evaluate)
app.command()(doctor)


@app.callback()
def program(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Fine-tune language models on Apple Silicon."""
    DEBUG.set(debug)


def _end(number: int, _frame: FrameType | None) -> None:
    """Raised, so that temporary folders and processes that were started end too."""
    raise Asked(number)


def main() -> None:
    """The program as a process: what holds for all of it is set, then it is run."""
    ready()
    blas.configure()
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # transformers imports it in 3 s, for nothing here
    for number in ASKING:
        if number != signal.SIGINT and not ignored(number):
            signal.signal(number, _end)
    run_here()


def run_here() -> None:
    """Run the program in this process; it ends with an exit code whatever happens, and one message for an error."""
    sys.exit(exit_code(_program, debug=DEBUG.get))


def _program() -> None:
    """Arguments are text: bytes that are no UTF-8 would reach tokenizers, records and terminals, which take none."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise BadSetting("", expected="arguments in UTF-8", found=shown(argument)) from None
    app()
