"""`mlxtune eval` and `generate`: trying a model, with or without an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.cli.options import some_options
from mlxtune.errors import BadSetting, raise_all
from mlxtune.format import printable

if TYPE_CHECKING:
    from mlxtune.backends.base import Sampling

Adapter = Annotated[Path | None, typer.Option(help="RUN/adapter, or an adapter of mlx-lm.")]
MaxTokens = Annotated[int, typer.Option(min=1, max=1_000_000, help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option(min=0, max=100, help="0 takes the likeliest token each time.")]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Sample from the likeliest tokens that make up this share. Default: 1; chat: 0.95."
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Of the sampling. Default: 0.")]
LEAST_TEMPERATURE = 1e-4  # above 0: a logit over less is not a number in float32
model_options = some_options("--model", "--precision", "--backend")


def sampling(max_tokens: int, temperature: float, top_p: float | None, seed: int | None, *, usual: float) -> "Sampling":
    """How tokens are chosen. usual: top_p where none is given. Raises BadSetting for what could have no effect."""
    from mlxtune.backends.base import Sampling

    if 0 < temperature < LEAST_TEMPERATURE:
        raise BadSetting("--temperature", expected=f"0, or {LEAST_TEMPERATURE} or more", found=f"{temperature:g}")
    if top_p == 0:
        raise BadSetting(
            "--top-p", expected="a share above 0", found="0", remedy="--temperature 0 takes the likeliest."
        )
    asked = {"--top-p": top_p, "--seed": seed}
    if temperature == 0:
        remedy = "Leave it out: the likeliest token is taken each time. Or give --temperature 0.7."
        idle = [flag for flag, value in asked.items() if value is not None]
        raise_all([BadSetting(flag, expected="a temperature above 0", found="0", remedy=remedy) for flag in idle])
    return Sampling(max_tokens, temperature, usual if top_p is None else top_p, seed or 0)


@some_options(
    "--model",
    "--data",
    "--columns",
    "--system",
    "--max-seq-length",
    "--loss-on",
    "--skip-bad-rows",
    "--max-rows",
    "--min-tokens",
    "--overlong",
    "--dedup",
    "--precision",
    "--backend",
)
def evaluate(
    overrides: dict[str, Any],
    adapter: Adapter = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Loss and perplexity of a data set. Of a folder, its test rows are taken, else its validation rows.

    [dim]Example[/dim]  mlxtune eval --model llama-3.2-1b --adapter runs/mine/adapter --data rows.jsonl
    """
    from mlxtune.report.waiting import doing

    with doing("measuring the loss"):
        from mlxtune import front
        from mlxtune.cli.runs import print_json
        from mlxtune.recipe.recipe import build
        from mlxtune.report.score import show

        recipe = build({}, overrides)
        found = front.evaluate(recipe.model.name, recipe.data, adapter=adapter, backend=recipe.backend)
    if json:
        print_json(found._asdict())
    else:
        show(found._asdict())


@model_options
def generate(
    overrides: dict[str, Any],
    prompt: Annotated[str, typer.Option(help="What the model answers or continues.")],
    adapter: Adapter = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = None,
    seed: Seed = None,
) -> None:
    """Write the answer to one prompt.

    [dim]Example[/dim]  mlxtune generate --model llama-3.2-1b --adapter runs/mine/adapter --prompt "Hello"
    """
    from mlxtune.report.waiting import doing

    with doing("loading the model"):
        from mlxtune.inference import load
        from mlxtune.recipe.recipe import build
        from mlxtune.speech import complete

        how, recipe = sampling(max_tokens, temperature, top_p, seed, usual=1.0), build({}, overrides)
        loaded = load(recipe.model.name, adapter, recipe.backend)
    for piece in complete(loaded, prompt, how):
        print(printable(piece), end="", flush=True)
    print()
