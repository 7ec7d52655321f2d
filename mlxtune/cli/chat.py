"""`mlxtune chat`: talking with a model in a terminal, or answering the lines of a pipe."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.cli.inference import Adapter, MaxTokens, Seed, Temperature, TopP, model_options, sampling
from mlxtune.format import line, printable

if TYPE_CHECKING:
    from mlxtune.inference import Conversation

LEAVE = {"exit", "quit", "/exit", "/quit"}
HELP = """  /help   these lines
  /reset  forget what was said, but for the system message
  /exit   leave, as do exit and Ctrl-D
  Ctrl-C  end the answer, not the conversation"""


@model_options
def chat(
    overrides: dict[str, Any],
    adapter: Adapter = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = None,
    seed: Seed = None,
) -> None:
    """Talk with a model. /help lists what can be typed, Ctrl-C ends an answer, Ctrl-D the conversation.

    [dim]Example[/dim]  mlxtune chat --model llama-3.2-1b --adapter runs/mine/adapter
    """
    from mlxtune.report.waiting import doing

    with doing("loading the model"):
        from mlxtune.inference import Conversation, load
        from mlxtune.recipe.recipe import build

        how, recipe = sampling(max_tokens, temperature, top_p, seed, usual=0.95), build({}, overrides)
        loaded = load(recipe.model.name, adapter, recipe.backend)
        conversation = Conversation(loaded, how, system)
    if sys.stdin.isatty():
        who = f"{recipe.model.name or 'the built-in model'}{f' and its adapter {adapter}' if adapter else ''}"
        print(f"Talking with {line(who)}. /help lists the commands.")
        _edit_lines()
    for text in _asked():
        if text in LEAVE:
            return
        with suppress(KeyboardInterrupt):  # between the answer's end and the next line
            _answer(conversation, text)


def _answer(conversation: "Conversation", text: str) -> None:
    if text == "/help":
        print(HELP)
    elif text == "/reset":
        conversation.reset()
        print("  The conversation begins anew.")
    elif text.startswith("/") and text.isascii() and text[1:].isalpha():
        print(f"  {line(text)} is no command.\n{HELP}")
    else:
        _say(conversation.ask(text))


def _say(pieces: Iterable[str]) -> None:
    """Print an answer while it comes; Ctrl-C ends it."""
    try:
        for piece in pieces:
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    print()


def _asked() -> Iterator[str]:
    """What the user types, a line at a time, until the end of the input. Ctrl-C gives the line up."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            text = input(prompt).strip()
        except EOFError:
            if prompt:
                print()
            return
        except KeyboardInterrupt:
            print("\n  Ctrl-D or /exit ends the conversation.")
            continue
        if text:
            yield text


def _edit_lines() -> None:
    """Let the terminal's line be edited, and earlier ones be called back, where Python has readline."""
    with suppress(ImportError):
        import readline  # noqa: F401 - importing it is what gives `input` its editing
