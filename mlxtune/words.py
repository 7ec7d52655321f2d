"""Numbers as a person reads them. GB is 10^9 bytes everywhere; what is not known is a dash, never an exception."""

import math
import re

UNKNOWN = "-"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count(value: float) -> str:
    """A whole number with thousands separators.

    >>> count(8030261248)
    '8,030,261,248'
    """
    return f"{value:,.0f}" if math.isfinite(value) else UNKNOWN


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
    if found is None:
        return None
    number, unit, binary = found.groups()
    return round(float(number) * float(1024 if binary else 1000) ** " kmgtp".index(unit or " "))


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
    ('17.4%', '<0.1%', '0.0%')
    """
    if not math.isfinite(part):
        return UNKNOWN
    return "<0.1%" if 0 < part < 0.0005 else f"{part:.1%}"


def line(text: str) -> str:
    r"""Text that came from outside, as one printable line: no control codes that would move the cursor.

    >>> line("two\nlines\x1b[2J")
    'two lines�[2J'
    """
    return "".join(" " if letter.isspace() else letter if letter.isprintable() else "\ufffd" for letter in text)
