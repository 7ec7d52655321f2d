"""Numbers and foreign text as a person reads them: nothing raw reaches a terminal, nothing is without end.

GB is 10^9 bytes everywhere; what is not known is a dash, never an exception.
"""

import math
import re
from collections.abc import Iterable
from itertools import islice

UNKNOWN = "-"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count(value: float) -> str:
    """A whole number with thousands separators.

    >>> count(8030261248)
    '8,030,261,248'
    """
    return f"{value:,.0f}" if math.isfinite(value) else UNKNOWN


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts.

    >>> counted(1, "row"), counted(1100, "row"), counted(2, "batch", "batches")
    ('1 row', '1,100 rows', '2 batches')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(n_bytes: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point.

    >>> size(16_060_522_496), size(812), size(999_960_000)
    ('16.1 GB', '812 B', '1.0 GB')
    """
    if not math.isfinite(n_bytes):
        return UNKNOWN
    for power, unit in enumerate(_UNITS):
        scaled = n_bytes / 1000**power
        if round(abs(scaled), 1) < 1000 or unit == _UNITS[-1]:
            break
    return f"{scaled:.0f} {unit}" if power == 0 else f"{scaled:,.1f} {unit}"


def n_bytes(text: str) -> int | None:
    """The number of bytes that a text says; None where it says none.

    >>> n_bytes("24GB"), n_bytes("1.5 gib"), n_bytes("800_000"), n_bytes("plenty")
    (24000000000, 1610612736, 800000, None)
    """
    found = re.fullmatch(r"\s*([\d_]+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?\s*", text.lower())
    digits = found and found[1].replace("_", "")
    if not found or not digits or len(digits) > 30:
        return None
    return round(float(digits) * float(1024 if found[3] else 1000) ** " kmgtp".index(found[2] or " "))


def duration(seconds: float) -> str:
    """Seconds in the two largest units.

    >>> duration(4.21), duration(83.4), duration(3 * 3600 + 125), duration(90_000)
    ('4.2s', '1m 23s', '3h 02m', '1d 01h')
    """
    if not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def decimals(value: float | None) -> str:
    """A loss or a norm: four decimals while they say something.

    >>> decimals(2.015), decimals(1.5e7), decimals(float("nan")), decimals(None)
    ('2.0150', '1.5e7', 'nan', '-')
    """
    if value is None:
        return UNKNOWN
    return rate(value) if math.isfinite(value) and abs(value) >= 1e5 else f"{value:.4f}"


def rate(value: float) -> str:
    """A learning rate: two digits and the power of ten.

    >>> rate(1e-5), rate(2.5e-4), rate(0.0)
    ('1.0e-5', '2.5e-4', '0')
    """
    if value == 0:
        return "0"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def share(part: float) -> str:
    """A part of one, in percent.

    >>> share(0.1741), share(0.0002), share(0.0)
    ('17.4%', '<0.1%', '0%')
    """
    if not math.isfinite(part):
        return UNKNOWN
    if part == 0:
        return "0%"
    return "<0.1%" if 0 < part < 0.0005 else f"{part:.1%}"


# What a terminal obeys or hides instead of showing it: control codes (C0, C1), what has no width or turns the direction
# of text, separators of lines, halves of surrogate pairs. Newline and tab are text. A joiner (U+200C, U+200D) belongs
# to Persian, to Indic scripts and to emoji, and there never stands beside an ASCII letter.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    r"|[\u200c\u200d](?=[\x00-\x7f])|(?<=[\x00-\x7f])[\u200c\u200d]"
)


def printable(text: str) -> str:
    r"""Text from outside with its control characters written out, so that a terminal shows them and obeys none.

    >>> print(printable("red \x1b[31m, C1 \x9b2J, turned \u202egnp.exe, half \ud83d, naïve, 👨‍👩‍👧"))
    red \x1b[31m, C1 \x9b2J, turned \u202egnp.exe, half \ud83d, naïve, 👨‍👩‍👧
    """
    return _UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def line(text: str) -> str:
    r"""Text that came from outside, as one printable line.

    >>> print(line("two\nlines\x1b[2J"))
    two lines\x1b[2J
    """
    return printable(re.sub(r"[\t\n\r\f\v]", " ", text))


def shortened(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long, and how long it is.

    >>> shortened("abcdefghij" * 10, 40), shortened("short", 40)
    ('abcdefgh ... [100 characters] ... fghij', 'short')
    """
    if len(text) <= limit:
        return text
    middle = f" ... [{len(text):,} characters] ... "
    kept = max(0, limit - len(middle))
    return text[: kept * 3 // 5] + middle + text[len(text) - kept * 2 // 5 :]


def listed(words: Iterable[str], most: int) -> str:
    """The first words of a list, as one line has them.

    >>> listed(["a", "b", "c"], 2), listed([], 2)
    ('a, b, ...', '')
    """
    first = list(islice(words, most + 1))
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def shown(value: object, limit: int = 60) -> str:
    r"""A value as a message quotes it: on one line, no longer than is read, whatever it is.

    >>> print(shown("one\ntwo"), shown(None), shown([1, 2]), shown(10**5000), shown("\x1b[2J"))
    `one\ntwo` null a list a number of thousands of digits `\x1b[2J`
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        text = printable(value[: limit + 1]).replace("\n", "\\n").replace("\t", "\\t")
        return f"`{text[:limit]}...`" if len(text) > limit else f"`{text}`"
    if isinstance(value, bool):
        return f"the value `{str(value).lower()}`"
    if isinstance(value, int | float):
        return _number(value, limit)
    return "a list" if isinstance(value, list | tuple) else "an object" if isinstance(value, dict) else _other(value)


def _number(value: float, limit: int) -> str:
    try:
        digits = str(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return f"the number {digits}" if len(digits) <= limit else f"a number of {len(digits):,} digits"


def _other(value: object) -> str:
    return "bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
