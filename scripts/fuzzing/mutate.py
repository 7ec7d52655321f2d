"""What goes wrong in files: values of the wrong kind and size, bytes that were flipped, cut, repeated or put in."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

MOST_REPEATED = 1 << 24  # bytes: a file that is repeated again and again would take the machine's memory

DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**9, 2**31, 2**63, 10**18, 10**30, 10**39, -(10**18), 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "a", "\0", "\n", "0", "1e5", "nan", "true", "x" * 300,
    "x" * 9000, "\ud800", "\udc80", "é", "日本", "\x1b[2J", "\x9b2J", "\u202e", "{}", "[1]", "{{", "{%", "%s", "{0}",
    "../x", "/", "..", "~nouser", "/dev/zero", "a\0b", [], {}, [[]], [None], [{}], {"a": {}}, {"": 0}, [0] * 50,
    ["a"] * 50, DEEP, {"type": "llama3"}, {"rope_type": "yarn", "factor": 2}, [1, 2, 3], ["q_proj"], "llama", "qwen2",
    "gelu", "float16",
)  # fmt: skip

# Pieces of text that some reader of JSON, YAML, CSV or templates takes for more than text.
PIECES: tuple[bytes, ...] = (
    b"!!float x", b"!!int ''", b"!!python/name:os.system", b"!!binary aGk=", b"!!set {a}", b"!!bool x", b"!!map [1]",
    b"!x", b"!!timestamp 2024-99-99", b"&a", b"*a", b"&a [*a]", b"<<: *a", b"2024-99-99",
    b"2001-12-14t21:59:43.10-05:00", b"? [1]", b"9" * 5000, b"-" + b"9" * 60, b"1:59:59", b"0x", b"0b2", b"1_", b".nan",
    b".inf", b"-.inf", b"[" * 400, b"{" * 400, b"]", b'{"a":' * 300, b"- " * 200, b"%YAML 1.9", b"%TAG ! x", b"---",
    b"...", b"\t", b"'", b'"', b"\\", b'"\\ud800"', b"\\u0000", b"\\x", b'"\\UFFFFFFFF"', b"|", b">", b">9", b"#", b":",
    b",", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\x1b[2J", b"\xc2\x9b", b"\xe2\x80\xae",
    b"\xed\xa0\x80", b"\xf0\x9f\xa4\xa1", b"NaN", b"Infinity", b"1e999", b"null", b"true", b"~", b"{{ x",
    b"{% for x in range(10**9) %}a{% endfor %}", b"{{ 'a' * 10**10 }}", b"{{ messages[99].content }}", b"{{ 1/0 }}",
    b"{% include 'x' %}", b"{{ raise_exception('\\x1b' * 10**6) }}", b"{{ lipsum(n=10**7) }}", b"{% endfor %}",
    b"{{ a.b.c }}", b"{% set x = 'a' %}{% for i in range(60) %}{% set x = x + x %}{% endfor %}{{ x }}",
    b"{{ ().__class__.__base__ }}", b"{{ '%0999999999d' % 1 }}", b"{{ 'a'|center(10**10) }}",
    b"{{ messages|tojson(10**9) }}", b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
)  # fmt: skip


def document(random: Random, value: Any) -> Any:
    """A document with some of its values, names and places changed."""
    held = json.loads(json.dumps(value)) if _is_plain(value) else value
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 6))):
        held = _changed(random, held)
    return held


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict | list)


def _changed(random: Random, value: Any) -> Any:
    """Go down into the value at random, and change what is there."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        return _in_object(random, value)
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        return [*value[:place], *_instead(random, value[place]), *value[place + 1 :]]
    return random.choice(VALUES)


def _instead(random: Random, value: Any) -> list[Any]:
    return random.choice(([], [value, value], [random.choice(VALUES)], [_changed(random, value)], [value] * 20))


def _in_object(random: Random, held: dict[str, Any]) -> dict[str, Any]:
    key = random.choice(list(held))
    what = random.random()
    if what < 0.1:
        return {name: value for name, value in held.items() if name != key}
    if what < 0.2:
        name = random.choice([value for value in VALUES if isinstance(value, str)] + [key.upper(), key + "s"])
        return {(name if each == key else each): value for each, value in held.items()}
    if what < 0.25:
        return {**held, random.choice(["a", "", "\0", "name", "type", "x" * 500]): random.choice(VALUES)}
    return {**held, key: _changed(random, held[key]) if what < 0.8 else random.choice(VALUES)}


def as_json(value: Any) -> bytes:
    """JSON as lenient writers write it, lone surrogates and numbers that are not finite included."""
    return json.dumps(value).encode()


def data(random: Random, text: bytes) -> bytes:
    """Bytes with a few of them changed, cut, repeated, or something put in between."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        text = random.choice(WAYS)(random, text)
    return text


def _place(random: Random, text: bytes) -> int:
    return random.randint(0, len(text))


def _flip(random: Random, text: bytes) -> bytes:
    if not text:
        return text
    at = random.randrange(len(text))
    return text[:at] + bytes([text[at] ^ 1 << random.randrange(8)]) + text[at + 1 :]


def _cut(random: Random, text: bytes) -> bytes:
    begin, end = sorted((_place(random, text), _place(random, text)))
    return random.choice((text[:begin], text[end:], text[:begin] + text[end:]))


def _repeat(random: Random, text: bytes) -> bytes:
    begin, end = sorted((_place(random, text), _place(random, text)))
    times, piece = random.choice((1, 1, 2, 30)), text[begin:end]
    return text[:end] + piece * min(times, MOST_REPEATED // max(len(piece), 1)) + text[end:]


def _put(random: Random, text: bytes) -> bytes:
    at = _place(random, text)
    return text[:at] + random.choice(PIECES) + text[at:]


def _instead_of_a_word(random: Random, text: bytes) -> bytes:
    """Between two marks of the text, so that what stands around it is still read."""
    marks = [place for place, letter in enumerate(text[:4000]) if letter in b" :,\n[]{}\"'"]
    if len(marks) < 2:
        return _put(random, text)
    begin = random.randrange(len(marks) - 1)
    return text[: marks[begin] + 1] + random.choice(PIECES) + text[marks[begin + 1] :]


def _bytes(random: Random, text: bytes) -> bytes:
    at = _place(random, text)
    return text[:at] + random.randbytes(random.choice((1, 2, 4, 8, 64))) + text[at:]


WAYS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip,
    _cut,
    _repeat,
    _put,
    _put,
    _instead_of_a_word,
    _instead_of_a_word,
    _bytes,
)
