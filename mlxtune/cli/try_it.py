"""`mlxtune eval` and `generate`: trying a model, with or without an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.words import printable

Model = Annotated[
    str | None, typer.Option(help="Alias, hub id, local folder or preset. Default: the built-in tiny model.")
]
Adapter = Annotated[Path | None, typer.Option(help="RUN/adapter, or an adapter of mlx-lm.")]
Precision = Annotated[str, typer.Option(help="bf16, fp16 or fp32.")]
Backend = Annotated[str, typer.Option(help="auto, mlx or numpy.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Sample from the likeliest tokens that make up this share.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the sampling.")]


def evaluate(
    model: Model = None,
    adapter: Adapter = None,
    data: Annotated[str | None, typer.Option(help="File, folder or hub data set. Default: the built-in rows.")] = None,
    max_seq_length: Annotated[int, typer.Option(min=2, help="Tokens a row may have.")] = 2048,
    loss_on: Annotated[str, typer.Option(help="auto, all, assistant or last.")] = "auto",
    precision: Precision = "bf16",
    backend: Backend = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Loss and perplexity of a data set. Of a folder, its test rows are taken, else its validation rows.

    [dim]Example[/dim]  mlxtune eval --model llama-3.2-1b --adapter runs/mine/adapter --data rows.jsonl
    """
    from mlxtune.report.waiting import doing

    with doing("measuring the loss"):
        from mlxtune.cli.runs import print_json
        from mlxtune.recipe import build
        from mlxtune.try_it import score

        keys = {"data.path": data, "data.max_seq_length": max_seq_length, "data.loss_on": loss_on}
        recipe = build({}, {**keys, "backend.precision": precision, "backend.name": backend})
        found = score(model, adapter, recipe.data, recipe.backend)
    if json:
        print_json(found._asdict())
        return
    typer.echo(
        f"loss {found.loss:.4f}  perplexity {found.perplexity:,.2f}  tokens {found.tokens:,}  rows {found.rows:,}"
    )


def generate(
    prompt: Annotated[str, typer.Option(help="What the model answers or continues.")],
    model: Model = None,
    adapter: Adapter = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    precision: Precision = "bf16",
    backend: Backend = "auto",
) -> None:
    """Write the answer to one prompt.

    [dim]Example[/dim]  mlxtune generate --model llama-3.2-1b --adapter runs/mine/adapter --prompt "Hello"
    """
    from mlxtune.report.waiting import doing

    with doing("loading the model"):
        from mlxtune.backends.base import Sampling
        from mlxtune.recipe import build
        from mlxtune.try_it import complete, load

        settings = build({}, {"backend.precision": precision, "backend.name": backend}).backend
        loaded = load(model, adapter, settings)
    for piece in complete(loaded, prompt, Sampling(max_tokens, temperature, top_p, seed)):
        print(printable(piece), end="", flush=True)
    print()
