"""`mlxtune data`: how the rows will be read."""

from typing import Annotated, Literal

import typer


def data(
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer and chat template; default: the built-in one.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file, a folder or a hub data set; default: the built-in one.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many rows to show.")] = 3,
    loss_on: Annotated[
        Literal["auto", "all", "assistant", "last"], typer.Option(help="Which tokens carry loss.")
    ] = "auto",
    max_seq_length: Annotated[int, typer.Option(min=2, help="Tokens; longer rows are refused.")] = 2048,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch, for the padding waste.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Draws the validation rows and the order.")] = 0,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="List rows that cannot be read, instead of stopping.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Show rows as the trainer will see them. Which tokens carry loss, how long rows are, and what is refused.

    Examples: `mlxtune data`, `mlxtune data --model dolphin-8b --data train.jsonl --rows 5`
    """
    from json import dumps

    from mlxtune.report.waiting import doing

    with doing("reading the rows") as now:
        from mlxtune.cli.streams import takes_any_text
        from mlxtune.data.load import prepare, read
        from mlxtune.data.settings import DataSettings
        from mlxtune.data.summary import as_json, summary
        from mlxtune.models.hub import resolve
        from mlxtune.models.tokenizer import load as load_tokenizer
        from mlxtune.report.rows import show

        settings = DataSettings(path=data, max_seq_length=max_seq_length, loss_on=loss_on, skip_bad_rows=skip_bad_rows)
        examples = read(settings)  # faults of the files come before a model is looked for
        now("looking for the model")
        tokenizer = load_tokenizer(resolve(model))
        now("tokenizing the rows")
        dataset = prepare(examples, settings, tokenizer, seed=seed)
        said = summary(dataset, tokenizer, rows=rows, batch_size=batch_size, seed=seed)
    print(dumps(as_json(said), ensure_ascii=not takes_any_text(), indent=1)) if json else show(said)
