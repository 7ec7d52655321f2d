"""Plain lines: few enough to read, the same in every pipe, and no reason for a run to die."""

import io
import re
from dataclasses import replace

import pytest

from mlxtune.report.plain import Plain
from mlxtune.report.tally import Tally
from tests.support import events as told


def lines_of(events) -> list[str]:
    stream = io.StringIO()
    report = Plain(stream)
    for event in events:
        report(event)
    report.close()
    return stream.getvalue().splitlines()


def starting(lines: list[str], word: str) -> list[str]:
    return [line for line in lines if line.startswith(f"{word} ")]


def test_a_short_run_shows_every_step():
    assert len(starting(lines_of(told.run(steps=60)), "step")) == 60


def test_a_thousand_fast_steps_are_about_a_hundred_lines_with_the_first_and_the_last():
    events = [told.start(), *(told.step(number, seconds=0.01) for number in range(1, 1001))]
    shown = starting(lines_of(events), "step")
    assert 90 <= len(shown) <= 110
    assert shown[0].startswith("step 1/1000 ")
    assert shown[-1].startswith("step 1000/1000 ")


def test_slow_steps_are_shown_at_least_every_half_minute():
    events = [told.start(steps=100_000), *(told.step(number, seconds=10.0) for number in range(1, 31))]
    assert len(starting(lines_of(events), "step")) == 10


def test_a_loss_that_is_not_finite_is_always_shown():
    events = [told.start(), told.step(1), told.step(7, loss=float("nan"), seconds=0.0)]
    assert "step 7/1000 loss nan " in lines_of(events)[-1]


def test_lines_have_no_colour_codes_and_no_trailing_blanks():
    for line in lines_of([*told.run(), *told.odd_events()]):
        assert line.isprintable()
        assert line == line.rstrip()


def test_a_step_is_words_and_values_in_turn():
    (line,) = starting(lines_of([told.start(), told.step(1)]), "step")
    words = line.split()
    names = "step loss smoothed learning_rate grad_norm tokens_per_second active peak cache left"
    assert words[::2] == names.split()
    assert words[1::2][:2] == ["1/1000", "2.7900"]
    assert all(re.search(r"\d", value) for value in words[1::2])


def test_the_opening_says_what_trains_and_what_that_costs():
    text = "\n".join(lines_of([told.start()]))
    for said in (
        "dolphin-8b",
        "1,397,796,864",
        "17.4%",
        "13.3 GB",
        "11.2 GB",
        "3.2 times less",
        "96.4 GB",
        "3 skipped",
    ):
        assert said in text


def test_a_resumed_run_says_where_it_begins():
    assert "401 to 1,000, resumed after step 400" in "\n".join(lines_of([told.start(first_step=401)]))


def test_the_end_names_the_command_to_try_next_quoted_for_a_shell():
    lines = lines_of([told.start(model="my models/llama"), told.end()])
    (command,) = starting(lines, "try")
    assert "mlxtune generate --model 'my models/llama' --adapter runs/story/adapter --prompt" in command


def test_every_line_is_flushed_at_once(monkeypatch: pytest.MonkeyPatch):
    stream, flushed = io.StringIO(), []
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(stream.getvalue()))
    Plain(stream)(told.evaluation(0))
    assert flushed == [stream.getvalue()]


def test_a_reader_that_went_away_does_not_end_the_run():
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    report = Plain(Gone())
    for event in told.run(steps=3):
        report(event)
    report.close()


def test_a_stream_of_plain_ascii_takes_any_name():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Plain(stream)(told.start(model="модель"))
    assert rb"\u043c" in raw.getvalue()


def test_the_time_left_has_the_validations_that_are_to_come():
    tally = Tally()
    tally.take(told.start(steps=100, eval_every=20))
    tally.take(replace(told.evaluation(0), seconds=30.0))
    for number in range(1, 41):
        tally.take(told.step(number, seconds=1.0))
        if number % 20 == 0:
            tally.take(replace(told.evaluation(number), seconds=30.0))
    assert tally.seconds_left == pytest.approx(60 * 1.0 + 3 * 30.0)
    tally.take(told.step(41, seconds=1.0))
    assert tally.seconds_left == pytest.approx(59 * 1.0 + 3 * 30.0)
