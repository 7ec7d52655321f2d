"""What a message quotes from outside stays short and printable."""

import io

import pytest
from hypothesis import given, strategies

from mlxtune.errors import LONGEST, BadData, BadModel, Faults
from mlxtune.format import line, printable, shown
from mlxtune.report.console import error

HOSTILE = "\x1b[2J\x9b31m\u202e\u200b\ud800\0\r" * 1000


def drawn(fault):
    stream = io.StringIO()
    error(fault, stream)
    return stream.getvalue()


def is_raw(text):
    return any(letter != "\n" and not (letter.isprintable() or letter.isspace()) for letter in text)


def test_a_message_is_short_and_printable_whatever_it_quotes():
    fault = BadModel(HOSTILE, expected=HOSTILE, found=HOSTILE, remedy=HOSTILE + "\n" * 9000)
    for text in (str(fault), drawn(fault)):
        assert len(text) < LONGEST
        assert not is_raw(text)


@pytest.mark.slow
def test_of_many_faults_the_first_are_told_and_the_others_counted():
    faults = Faults([BadData(f"rows.jsonl:{number}", expected="x", found=HOSTILE) for number in range(100)])
    for text in (str(faults), drawn(faults)):
        assert len(text) < LONGEST
        assert text.count("rows.jsonl:") > 3
        assert "more faults" in text


def test_a_few_faults_are_all_told():
    faults = Faults([BadData(f"a:{number}", expected="x", found="y") for number in range(5)])
    assert str(faults).count("expected x") == 5
    assert "more faults" not in str(faults)


@given(strategies.text(strategies.characters()))
def test_no_control_character_is_left_of_any_text(text):
    assert not any(letter in printable(text) for letter in "\x1b\x07\r\x9b\u202e\u2066\u200b\ud800")
    assert "\n" not in line(text)
    assert len(shown(text)) <= 65


def test_text_of_any_language_stays_as_it_is():
    text = "naïve „Zitat“\u00a0日本語\u3000\u0645\u06cc\u200c\u062e 👩\u200d🚀 क्\u200dष\tx\n"
    assert printable(text) == text
