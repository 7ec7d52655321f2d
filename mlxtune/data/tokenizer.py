"""What this package asks of a tokenizer; a fast tokenizer of transformers is one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """A fast tokenizer: one that says which characters each token came from."""

    name_or_path: str
    chat_template: Any  # None, a template, or several by name
    eos_token: Any
    eos_token_id: Any
    special_tokens_map: Mapping[str, Any]
    added_tokens_decoder: Mapping[int, Any]
    backend_tokenizer: Any  # of transformers' own: the library that does the work

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]: ...

    def decode(self, token_ids: Sequence[int], **options: Any) -> Any: ...

    def get_vocab(self) -> Mapping[str, int]: ...

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str: ...
