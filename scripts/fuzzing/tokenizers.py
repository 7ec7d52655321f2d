"""tokenizer.json and its kin, and chat templates."""

import json
import shutil
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import mutate
from fuzzing.models import of_built_in
from fuzzing.rows import ROWS, built_in_tokenizer, read_rows

from mlxtune.models import config as model_config
from mlxtune.models import tokenizer
from mlxtune.models.hub import BUILT_IN


@cache
def _tokenizers() -> list[dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json: byte-level BPE, words, and Unigram pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = of_built_in("tokenizer_config.json")
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["<unk>", "a", "b", "c"])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.5), ("▁a", -2.0)], 0, byte_fallback=False))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    made = [
        {"tokenizer.json": json.loads(each.to_str()), "tokenizer_config.json": config} for each in (words, pieces, bpe)
    ]
    for each in made:
        each["special_tokens_map.json"] = {"eos_token": {"content": "</s>", "lstrip": False}}
        each["generation_config.json"] = {"eos_token_id": [1, 2], "bos_token_id": 0, "temperature": 0.7}
    return made


def write_tokenizer(random: Random, folder: Path) -> None:
    files = random.choice(_tokenizers())
    changed = random.choice(list(files))
    for name, document in files.items():
        text = mutate.as_json(mutate.document(random, document) if name == changed else document)
        (folder / name).write_bytes(mutate.data(random, text) if name == changed and random.random() < 0.3 else text)


def read_tokenizer(folder: Path) -> None:
    shutil.copy(BUILT_IN / "config.json", folder)
    tokens = tokenizer.load(folder)
    tokenizer.check_vocabulary(tokens, model_config.read(folder))
    rows = folder / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_bytes(b"\n".join(map(mutate.as_json, ROWS[:1])))
    read_rows(rows, tokens)


TEMPLATES = tuple(
    text.encode()
    for text in (
        "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}",
        """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}
{{ eos_token }}{% endgeneration %}{% else %}{{ m.content|trim }}{% endif %}{% endfor %}
{% if add_generation_prompt %}A:{% endif %}""",
        """{% if tools %}{{ tools|tojson }}{% endif %}{% set ns = namespace(n=0) %}{% for m in messages %}
{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}
{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}
{{ m['role'].upper() }}: {{ m['content'] }}
{{ strftime_now('%d %b %Y') }}{% endfor %}""",
    )
)


def write_template(random: Random, folder: Path) -> None:
    (folder / "template").write_bytes(mutate.data(random, random.choice(TEMPLATES)))
    (folder / "rows").mkdir()
    (folder / "rows" / "train.jsonl").write_bytes(b"\n".join(map(mutate.as_json, random.choices(ROWS, k=2))))


def read_template(folder: Path) -> None:
    tokens = built_in_tokenizer()
    before = tokens.chat_template
    try:
        tokens.chat_template = (folder / "template").read_bytes().decode(errors="replace")
        read_rows(folder / "rows", tokens)
    finally:
        tokens.chat_template = before
