"""`mlxtune cache`: what is kept so that the next start is faster, and how it is deleted."""

from typing import Annotated, Literal

import typer


def cache(
    action: Annotated[Literal["list", "clear"], typer.Argument(help="List what is kept, or delete it.")] = "list",
    older: Annotated[str | None, typer.Option(help="Only what was not used for so long: 12h, 30d, 2w.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """List what is kept between runs, or delete it. Rows' tokens, frozen layers' output: all of it can be made again.

    Examples: `mlxtune cache`, `mlxtune cache clear --older 30d`, `mlxtune cache clear`
    """
    import time
    from json import dumps

    from mlxtune.report.cache import as_json, show, show_cleared
    from mlxtune.storage.cache import clear, kept, seconds

    found = kept()
    if older is not None:
        limit = time.time() - seconds(older)
        found = [each for each in found if each.used < limit]
    if action == "list":
        print(dumps(as_json(found), indent=1)) if json else show(found)
        return
    gone, left = clear(found)
    print(dumps({"deleted": as_json(gone), "left": as_json(left)}, indent=1)) if json else show_cleared(gone, left)
