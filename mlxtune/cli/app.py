"""The program: its verbs, and how an error leaves it."""

import sys
from contextvars import ContextVar

import typer

from mlxtune.cli.data import data
from mlxtune.cli.models import models
from mlxtune.cli.run import run
from mlxtune.cli.train import train
from mlxtune.cli.try_it import chat, evaluate, generate
from mlxtune.errors import MlxtuneError

DEBUG = ContextVar("DEBUG", default=False)

app = typer.Typer(
    name="mlxtune",
    help="Fine-tune language models on Apple Silicon.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for verb in (train, run, generate, chat, data, models):
    app.command()(verb)
app.command("eval")(evaluate)


@app.callback()
def program(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Fine-tune language models on Apple Silicon."""
    DEBUG.set(debug)


def main() -> None:
    """Run the program. An MlxtuneError is one message on standard error and its exit code."""
    try:
        app()
    except MlxtuneError as error:
        if DEBUG.get():
            raise
        from mlxtune.report.console import error as show

        show(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted before the first step; nothing was written", file=sys.stderr)
        sys.exit(130)
