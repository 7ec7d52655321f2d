"""What `--columns` says: the column that each name of a row is under.

    prompt=question,completion=reply.text,system==Answer in verse.

Each part is NAME=COLUMN. A column `a.b` is `b` in the object `a`, unless the row has a column of that whole name; what
begins with another `=` is no column but the text itself, the same for all rows. A comma ends a part where `name=`
follows it, so texts may have commas; in a recipe the mapping {prompt: question} says the same, and texts are free.
"""

import re
from collections.abc import Mapping

from mlxtune.errors import BadSetting
from mlxtune.format import shown

CONSTANT = "="  # what a text begins with that stands for itself

_NEXT = re.compile(r",(?=\s*\w+\s*=)")


def parsed(given: object) -> object:
    """The columns by name; what is no text is handed on. Raises BadSetting.

    >>> parsed("prompt=question,completion=answer,system==Be short, please.")
    {'prompt': 'question', 'completion': 'answer', 'system': '=Be short, please.'}
    """
    if not isinstance(given, str):
        return given
    pairs = [(name.strip(), column.strip()) for name, _, column in (each.partition("=") for each in _NEXT.split(given))]
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise bad("each name once", f"{shown(twice, 40)} twice")
    return dict(pairs)


def written(columns: Mapping[str, str]) -> str | None:
    """The text that says them; None where no text does.

    >>> written({"prompt": "question"}), written({"prompt": "a,b=c"})
    ('prompt=question', None)
    """
    text = ",".join(f"{name}={column}" for name, column in columns.items())
    is_said = all(column[:1] != CONSTANT for column in columns.values()) and parsed(text) == columns
    return text if is_said else None


def bad(expected: str, found: str, remedy: str = "Like prompt=question,completion=answer.") -> BadSetting:
    return BadSetting("data.columns", expected=expected, found=found, remedy=remedy)
