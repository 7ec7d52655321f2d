"""The screen: fits every terminal, survives every number, and says what it should."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, RenderableType

from mlxtune.events import Preparing
from mlxtune.report import panel
from mlxtune.report.frame import frame
from mlxtune.report.live import Screen
from mlxtune.report.tally import Tally
from tests.support import events as told

SIZES = [(100, 30), (80, 24), (60, 20), (200, 60), (40, 12), (30, 50), (120, 8), (20, 4), (8, 2), (1, 1)]


def tally_of(events) -> Tally:
    tally = Tally()
    for event in events:
        tally.take(event)
    return tally


def drawn(picture: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(picture)
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_picture_fits_the_terminal_at_every_moment(width: int, height: int):
    tally = Tally()
    for event in told.run(steps=300):
        tally.take(event)
        if event.kind != "step" or event.step % 50 == 1:
            lines = drawn(frame(tally, width, height), width)
            assert len(lines) <= height
            assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.few(2)
def test_odd_numbers_never_break_the_picture(width: int, height: int):
    tally = Tally()
    drawn(frame(tally, width, height), width)
    for event in told.odd_events():
        tally.take(event)
        drawn(frame(tally, width, height, waited=1e12), width)
        if event.kind == "start":
            drawn(panel.opening(event, width), width)
        if event.kind == "end":
            drawn(panel.ending(tally, event, width), width)


@pytest.mark.parametrize("width", [100, 80])
def test_nothing_is_cut_off_where_there_is_room(width: int):
    lines = drawn(frame(tally_of(told.run(steps=1000, until=700)), width, 24), width)
    text = "\n".join(lines)
    assert "…" not in text
    for said in ("step 700 of 1,000", "70%", "left", "loss", "validation", "at 700", "1.0e-5", "1.1000", "690"):
        assert said in text
    for said in ("3.1%", "30.0 GB", "34.0 GB", "1.0 GB", "70.8% of 48.0 GB", "◆", "checkpoint  700", "3 of 5"):
        assert said in text


def test_a_tall_terminal_shows_the_curve_and_a_short_one_leaves_it_out():
    tally = tally_of(told.run(steps=300, until=250))
    assert "◆" in "\n".join(drawn(frame(tally, 80, 24), 80))
    assert "◆" not in "\n".join(drawn(frame(tally, 80, 9), 80))


@pytest.mark.parametrize("loss", [0.5, 10.4084, 123.4567, 98765.4321, 1.5e7])
def test_a_loss_of_any_size_leaves_every_row_of_the_picture_whole(loss: float):
    tally = tally_of([told.start(), *(told.step(number, loss=loss / number) for number in range(1, 9))])
    lines = drawn(frame(tally, 80, 24), 80)
    assert len(lines) >= 18
    assert {(cell_len(line), line[0] in "╭│╰", line[-1] in "╮│╯") for line in lines} == {(80, True, True)}


def test_a_terminal_that_is_resized_is_cleared_and_drawn_anew():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, height=24, color_system=None)
    screen = Screen(console, clock=lambda: 0.0)
    for event in told.run(steps=130, until=50):
        screen(event)
    console.size = ConsoleDimensions(60, 12)
    before = len(stream.getvalue())
    screen._draw()
    drawn_anew = stream.getvalue()[before:]
    screen.close()
    assert "\x1b[2J" in drawn_anew
    rows = drawn_anew[drawn_anew.index("\x1b[2J") :].splitlines()
    assert max(cell_len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", row)) for row in rows) == 60


def test_work_before_the_first_step_is_named_at_once():
    text = played([Preparing("reading [the] rows"), Preparing("tokenizing", 5, 10)], color_system=None)
    assert "reading [the] rows" in text
    assert "50%" in text


def test_before_the_first_step_the_picture_waits_without_numbers():
    lines = drawn(frame(tally_of([told.start()]), 80, 24), 80)
    assert "step 0 of 1,000" in lines[1]
    assert "first step" in lines[1]


def test_skipped_updates_are_counted():
    events = [told.start(), told.step(1, skipped=True), told.step(2), told.step(3, skipped=True)]
    assert "overflowed  2 steps" in "\n".join(drawn(frame(tally_of(events), 60, 24), 60))


def test_the_opening_panel_has_the_table_of_what_trains_in_any_width():
    for width in (100, 80, 60, 50):
        text = "\n".join(drawn(panel.opening(told.start(), width), width))
        for said in ("trainable", "frozen", "1,397,796,864", "6,632,464,384", "17.4%", "11.2 GB"):
            assert said in text


def test_the_ending_panel_has_the_numbers_that_count():
    events = list(told.run(steps=1000))
    text = "\n".join(drawn(panel.ending(tally_of(events), told.end(), 80), 80))
    for said in ("done", "1.2031", "1.2562 at best, after step 1,000", "1,000,000 tokens", "24m 55s", "34.0 GB", "◆"):
        assert said in text


def played(events, **console) -> str:
    stream = io.StringIO()
    screen = Screen(Console(file=stream, force_terminal=True, width=80, height=30, **console), clock=lambda: 0.0)
    for event in events:
        screen(event)
    screen.close()
    return stream.getvalue()


def test_the_screen_ends_with_the_summary_the_command_and_a_visible_cursor():
    text = played(told.run(steps=130), color_system=None)
    after = text[text.rindex("done") :]
    assert "--adapter runs/story/adapter --prompt" in after
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "step 120  The gradient norm is 40 times its mean." in text


def test_a_run_that_breaks_off_leaves_its_last_picture():
    text = played(told.run(steps=130, until=50), color_system=None)
    assert "step 50 of 130" in text[text.rindex("\x1b[?25l") :]


def test_without_colours_there_are_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36" not in played(told.run(steps=5))
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[36" in played(told.run(steps=5), color_system="standard")


def test_a_terminal_that_was_closed_does_not_end_the_run():
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, f"Input/output error on {text[:9]!r}")

    screen = Screen(Console(file=Gone(), force_terminal=True, width=80, height=30), clock=lambda: 0.0)
    for event in told.run(steps=130):
        screen(event)
    screen.close()


def test_odd_events_never_break_the_screen():
    played(told.odd_events())


def test_names_are_shown_as_they_are_and_never_as_markup_or_control_codes():
    text = played(told.odd_events(), color_system=None)
    assert "[bold]a[/b]" in text
    assert "\x1b[2J" not in text
    assert "\x1b[31m" not in text


def test_a_long_run_keeps_a_bounded_curve():
    tally = Tally()
    for number in range(1, 20_001):
        tally.take(told.step(number))
    assert len(tally.curve.points) <= 1024
    assert tally.smooth[0].step == 1
    assert tally.smooth[-1].step == 20_000


def test_time_left_counts_the_validations_that_are_to_come():
    tally = tally_of(
        [told.start(steps=20, eval_every=1), *(e for n in range(1, 11) for e in (told.evaluation(n), told.step(n)))]
    )
    assert tally.seconds_left == pytest.approx(10 * (4.2 + 1.45))
