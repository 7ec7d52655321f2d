"""`mlxtune data`: how the rows will be read."""

from typing import Annotated, Any

import typer

from mlxtune.cli.options import some_options


@some_options(
    "--model",
    "--revision",
    "--data",
    "--columns",
    "--system",
    "--max-seq-length",
    "--loss-on",
    "--end-of-turn",
    "--skip-bad-rows",
    "--max-rows",
    "--valid",
    "--min-tokens",
    "--overlong",
    "--dedup",
    "--batch-size",
    "--seed",
)
def data(
    overrides: dict[str, Any],
    rows: Annotated[int, typer.Option(min=0, help="How many rows to show.")] = 3,
    stats: Annotated[bool, typer.Option("--stats", help="Figures of all rows; --json has them always.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Show rows as the trainer will see them. Which tokens carry loss, how long rows are, and what is refused.

    Examples: `mlxtune data`, `mlxtune data --model dolphin-8b --data train.jsonl --rows 5`
    """
    from dataclasses import replace
    from functools import partial
    from json import dumps

    from mlxtune.report.waiting import doing

    with doing("reading the rows") as now:
        from mlxtune.cli.streams import takes_any_text
        from mlxtune.data.load import Reader, check_rows, prepare, read
        from mlxtune.data.settings import within
        from mlxtune.data.summary import as_json, summary
        from mlxtune.models import config, hub, stopping, tokenizer
        from mlxtune.models.context import context
        from mlxtune.recipe.recipe import build
        from mlxtune.report.rows import show

        recipe = build({}, overrides)
        if not hub.is_here(recipe.model.name, recipe.model.revision):
            check_rows(recipe.data)  # faults of the files come before a model is looked for
        now("looking for the model")
        folder = hub.small(recipe.model.name, recipe.model.revision)
        known = (folder / "config.json").is_file()  # a tokenizer alone will do
        most, seed = context(config.read(folder)) if known else 0, recipe.train.seed
        tokens = tokenizer.load(folder)
        reader = Reader(tokens, frozenset(stopping.ids(folder, tokens)), partial(tokenizer.load, folder))
        examples = read(recipe.data, reader, tell=lambda event: now(f"{event.what}: {event.done:,}"))
        dataset = prepare(examples, within(recipe.data, most), seed=seed, context=most)
        dataset = replace(dataset, notes=(*dataset.notes, *tokenizer.differences(folder, tokens)))
        said = summary(dataset, tokens, rows=rows, batch_size=recipe.train.batch_size, seed=seed)
    print(dumps(as_json(said), ensure_ascii=not takes_any_text(), indent=1)) if json else show(said, figures=stats)
