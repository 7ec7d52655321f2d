"""The program: its verbs, and how an error leaves it."""

import signal
import sys
from contextvars import ContextVar
from types import FrameType

import typer

from mlxtune.backends import blas
from mlxtune.cli.bench import bench
from mlxtune.cli.cache import cache
from mlxtune.cli.chat import chat
from mlxtune.cli.data import data
from mlxtune.cli.doctor import doctor
from mlxtune.cli.inference import evaluate, generate
from mlxtune.cli.memory import memory
from mlxtune.cli.models import models
from mlxtune.cli.net import exit_code
from mlxtune.cli.run import run
from mlxtune.cli.streams import ready
from mlxtune.cli.train import train
from mlxtune.cli.usage import Program, UsageError, Verb, as_ours
from mlxtune.errors import BadSetting
from mlxtune.format import shown
from mlxtune.run.signals import ASKING, Asked, ignored

DEBUG = ContextVar("DEBUG", default=False)

app = typer.Typer(
    name="mlxtune",
    cls=Program,
    help="Fine-tune language models on Apple Silicon.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for verb in (train, memory, run, generate, chat, data, models, bench, cache, doctor):
    app.command(cls=Verb)(verb)
app.command("eval", cls=Verb)(evaluate)


def _version(wanted: bool) -> None:
    if wanted:
        from mlxtune import __version__

        typer.echo(f"mlxtune {__version__}")
        raise typer.Exit


@app.callback()
def program(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(  # noqa: ARG001 - its callback answers
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
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
    _verb()


def _verb() -> None:
    """A command line that cannot be read is an error as any other."""
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise as_ours(error) from error
        print(error, file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)
