"""Small tokenizers for tests: bytes as tokens, a few merges, and whatever special tokens and template a test wants."""

from typing import Any

from tests.support.assets import assets_folder

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same with the markers of transformers around what the assistant writes.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
    "<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip


def tokenizer(template: str | None = None, *, eos: str = "</s>", merges: tuple[tuple[str, str], ...] = ()) -> Any:
    """A fast tokenizer whose tokens are bytes; it adds <s> in front of plain text. merges join two tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, *(one + two for one, two in merges)])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", len(vocabulary))])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=eos)
    fast.chat_template = template
    return fast


def shared_template(name: str) -> str:
    """A chat template of the shared assets, as its collection says to use it: without its indentation."""
    text = (assets_folder() / "templates" / f"{name}.jinja").read_text()
    indented = name in ("chatml", "llama-2-chat", "mistral-instruct", "zephyr")
    return text.replace("    ", "").replace("\n", "") if indented else text
