"""Chats -> text by the tokenizer's chat template, with the characters that carry loss."""

import re
from collections.abc import Sequence
from typing import Any

from mlxtune.data.faults import BadRow
from mlxtune.data.forms import Chat
from mlxtune.data.messages import Message, check_tools, check_whole, text
from mlxtune.data.settings import LossOn
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.turns import Span, Turns

# Templates of Llama 3.2's kind write the date; the same row must give the same tokens tomorrow, when a run resumes.
# This is the date that Llama 3.1's template writes where it is given none.
DATE = "26 Jul 2024"

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def chat_text(chat: Chat, tokenizer: Tokenizer, loss_on: LossOn) -> tuple[str, tuple[Span, ...]]:
    """The rendered conversation and the spans that carry loss, in order. Raises BadRow."""
    rendered, spans = _text_and_spans(chat, tokenizer, loss_on)
    text(rendered, "the rendered chat", "text")
    check_tools(rendered, chat.tools)
    for message in chat.messages:
        check_whole(rendered, message)
    return rendered, spans


def _text_and_spans(chat: Chat, tokenizer: Tokenizer, loss_on: LossOn) -> tuple[str, tuple[Span, ...]]:
    if loss_on == "all":
        everything = _render(chat, tokenizer, chat.messages, prompt=False)
        return everything, _without(Span(0, len(everything)), _untrained(chat, tokenizer))
    return _turns(chat, tokenizer, _trained(chat, loss_on))


def _turns(chat: Chat, tokenizer: Tokenizer, indices: list[int]) -> tuple[str, tuple[Span, ...]]:
    """The rendered conversation and the spans of the assistant's turns that are asked for."""
    if _MARKERS.search(tokenizer.get_chat_template(None, chat.tools)):
        marked, spans = _marked(chat, tokenizer)
        return marked, _chosen(spans, chat, indices)
    turns = Turns(
        lambda messages, prompt: _render(chat, tokenizer, messages, prompt=prompt), chat.messages, _eos(tokenizer)
    )
    return turns.text, turns.spans(indices)


def _trained(chat: Chat, loss_on: LossOn) -> list[int]:
    """The messages that carry loss."""
    first = chat.context if loss_on == "auto" else 0
    turns = [index for index in _assistant(chat) if index >= first]
    return [index for index in (turns[-1:] if loss_on == "last" else turns) if index not in chat.untrained]


def _untrained(chat: Chat, tokenizer: Tokenizer) -> tuple[Span, ...]:
    """The turns that are marked as not to be trained, where everything else is. Only an assistant's can be found."""
    if not chat.untrained:
        return ()
    if not chat.untrained <= set(_assistant(chat)):
        raise BadRow("marks on the assistant's turns alone, with --loss-on all", "one on another turn")
    return _turns(chat, tokenizer, sorted(chat.untrained))[1]


def _without(whole: Span, holes: Sequence[Span]) -> tuple[Span, ...]:
    """What is left of a span.

    >>> [tuple(span) for span in _without(Span(0, 9), [Span(2, 4)])]
    [(0, 2), (4, 9)]
    """
    edges = [whole.start, *(edge for hole in holes for edge in hole), whole.end]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple(Span(start, end) for start, end in pairs if start < end)


def _assistant(chat: Chat) -> list[int]:
    return [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]


def _eos(tokenizer: Tokenizer) -> str:
    return str(tokenizer.eos_token or "")


def _render(chat: Chat, tokenizer: Tokenizer, messages: Sequence[Message], *, prompt: bool) -> str:
    """The text of some messages; a template that raises refuses the row in its own words."""
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=chat.tools,
                tokenize=False,
                add_generation_prompt=prompt,
                date_string=DATE,
            )
        )
    except Exception as error:  # a template is a program that came with the model: it may raise anything
        raise _refusal(error) from None


def _marked(chat: Chat, tokenizer: Tokenizer) -> tuple[str, list[Span]]:
    """The text and the spans inside the template's own generation markers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    options: dict[str, Any] = {
        "chat_template": tokenizer.get_chat_template(None, chat.tools),
        "tools": chat.tools,
        "return_assistant_tokens_mask": True,
        "date_string": DATE,
        **tokenizer.special_tokens_map,
    }
    try:
        texts, indices = render_jinja_template([[dict(message) for message in chat.messages]], **options)
    except Exception as error:  # as in _render
        raise _refusal(error) from None
    return texts[0], [Span(start, end) for start, end in indices[0] if start < end]


def _chosen(spans: list[Span], chat: Chat, indices: list[int]) -> tuple[Span, ...]:
    """Of the marked spans those of the turns that are asked for."""
    turns = _assistant(chat)
    if indices == turns:
        return tuple(spans)
    if len(spans) != len(turns):
        found = f"one that marks {len(spans):,} spans for {len(turns):,} turns"
        raise BadRow("a chat template that marks each assistant turn once", found)
    return tuple(spans[turns.index(index)] for index in indices)


def _refusal(error: Exception) -> BadRow:
    words = str(error).strip().rstrip(".") or type(error).__name__
    return BadRow("messages that the chat template accepts", f"some that it refuses: {words}", kind=words)
