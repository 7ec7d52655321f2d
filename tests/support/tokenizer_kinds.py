"""A small tokenizer of each kind that models have, trained on a few sentences, with <s> in front of plain text."""

from collections.abc import Callable
from functools import cache
from typing import Any

SENTENCES = (
    "Once upon a time there was a little dog, and upon the hill stood a house.",
    "Hello world! The answer is 42, not 12345.67: see https://example.com/a?b=c.",
    "def f(x):\n    return x + 1\n\n\nprint(f(2))\n",
    "東京は日本の首都です。今日は良い天気ですね。",
    "北京是中国的首都。你好世界。",
    "Grüße aus München, naïve café, Привет мир.",
    "emoji 😀 and 👨\u200d👩\u200d👧, e\u0301 and \ufb01",
    "  two  spaces   and\ttabs ",
)
MARKS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _bpe(**options: Any) -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.BPE(**options))


def _trained(made: Any, size: int = 420, **options: Any) -> Any:
    from tokenizers import trainers

    made.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(vocab_size=size, special_tokens=[*MARKS], show_progress=False, **options),
    )
    return made


def _byte_level(regex: str | None = None, *, prefix: bool = False, nfc: bool = False) -> Any:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    made = _bpe()
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex is None)
    split = [] if regex is None else [pre_tokenizers.Split(Regex(regex), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    made.normalizer = normalizers.NFC() if nfc else None
    made.decoder = decoders.ByteLevel()
    return _trained(made, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _with_bytes(made: Any) -> Any:
    """The same with a token for each byte, which it falls back on."""
    import json

    from tokenizers import Tokenizer

    held = json.loads(made.to_str())
    model = held["model"]
    listed = isinstance(model["vocab"], list)
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if listed:
        model["vocab"] += [[name, -20.0] for name in names]
    else:
        model["vocab"] |= {name: len(model["vocab"]) + place for place, name in enumerate(names)}
    held["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(held))


def _sentencepiece_decoder(*, strip: bool) -> Any:
    from tokenizers import decoders

    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if strip else [])])


def _llama(*, words: bool = False) -> Any:
    """Llama 2's: a blank in front of the text and after each special token, byte fallback. words: no token goes across
    the beginning of a word, which is so of Llama 2's own too."""
    from tokenizers import normalizers, pre_tokenizers

    made = _bpe(unk_token="<unk>", fuse_unk=True)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    if words:
        made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made = _with_bytes(_trained(made))
    if words:
        made.pre_tokenizer = None
    made.decoder = _sentencepiece_decoder(strip=True)
    return made


def _metaspace(scheme: str, *, fallback: bool = True) -> Any:
    from tokenizers import pre_tokenizers

    made = _bpe(unk_token="<unk>", fuse_unk=True)
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    made = _trained(made)
    made = _with_bytes(made) if fallback else made
    made.decoder = _sentencepiece_decoder(strip=scheme != "never")
    return made


def _unigram() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=[*MARKS], unk_token="<unk>", show_progress=False)
    made.train_from_iterator(SENTENCES * 3, trainer)
    made = _with_bytes(made)
    made.decoder = _sentencepiece_decoder(strip=True)
    return made


def _wordpiece() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    made.train_from_iterator(
        SENTENCES * 3, trainers.WordPieceTrainer(vocab_size=400, special_tokens=[*MARKS], show_progress=False)
    )
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": _byte_level,
    "byte-level, Llama 3's pattern": lambda: _byte_level(SPLIT),
    "byte-level, composed letters": lambda: _byte_level(SPLIT.replace("{1,3}", ""), nfc=True),
    "byte-level with a blank in front": lambda: _byte_level(prefix=True),
    "SentencePiece, Llama's": _llama,
    "SentencePiece, Llama's, of words": lambda: _llama(words=True),
    "SentencePiece, a blank in front of the first word": lambda: _metaspace("first"),
    "SentencePiece, a blank in front of each part": lambda: _metaspace("always"),
    "SentencePiece, no blank": lambda: _metaspace("never"),
    "SentencePiece, no bytes": lambda: _metaspace("first", fallback=False),
    "Unigram": _unigram,
    "WordPiece": _wordpiece,
}


@cache
def tokenizer_of_kind(kind: str, template: str | None = None, after: str = "") -> Any:
    """A fast tokenizer; it puts <s> in front of plain text, and `after` behind it."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    made = KINDS[kind]()
    numbers = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    single = f"<s> $A {after}".strip()
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=numbers)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast
