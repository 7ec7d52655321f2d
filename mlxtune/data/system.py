"""The system message that a run puts before conversations and prompts that have none."""

from mlxtune.data.examples import Chat, Completion, Example
from mlxtune.data.forms import Row
from mlxtune.data.special import Special
from mlxtune.errors import BadSetting


def needless(*, has_template: bool) -> BadSetting:
    """What is wrong with a message that stands in no row."""
    expected = "a chat template, and a conversation or a prompt without a system message"
    found = "none among the rows" if has_template else "a tokenizer without a chat template"
    return BadSetting("data.system", expected=expected, found=found, remedy="Leave it out.")


def instructed(row: Row, system: str, special: Special) -> Row:
    """The row with the message where it has none; the row itself where it has."""
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
