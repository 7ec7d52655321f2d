"""The system message that a run puts before conversations and prompts that have none."""

from collections.abc import Sequence

from mlxtune.data.examples import Chat, Completion, Example
from mlxtune.data.forms import Row
from mlxtune.data.special import Special
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.errors import BadSetting


def instructed(rows: Sequence[Row], system: str, tokenizer: Tokenizer, special: Special) -> tuple[Row, ...]:
    """The rows, with the message where there is none. Raises BadSetting where it would stand in no row."""
    made = tuple(_row(row, system, special) for row in rows) if tokenizer.chat_template else ()
    if rows and all(new is old for new, old in zip(made, rows, strict=False)):
        expected = "a chat template, and a conversation or a prompt without a system message"
        found = "none among the rows" if tokenizer.chat_template else "a tokenizer without a chat template"
        raise BadSetting("data.system", expected=expected, found=found, remedy="Leave it out.")
    return made


def _row(row: Row, system: str, special: Special) -> Row:
    example = _example(row.example, system, special)
    if example is row.example:
        return row
    rejected = row.rejected and _example(row.rejected, system, special)
    return row._replace(example=example, rejected=rejected)


def _example(example: Example, system: str, special: Special) -> Example:
    """A prompt that is written in the template's own tokens is no place for it."""
    message = {"role": "system", "content": system}
    if isinstance(example, Completion) and not example.system and not special.is_rendered(example.plain_prompt):
        return example._replace(system=(message,))
    if isinstance(example, Chat) and all(each["role"] != "system" for each in example.messages):
        untrained = frozenset(index + 1 for index in example.untrained)
        messages, context = (message, *example.messages), example.context + 1
        return example._replace(messages=messages, context=context, untrained=untrained)
    return example
