"""Which report a person gets, how an error looks, and the table after several recipes."""

import io
import re
import sys

import pytest

from mlxtune.errors import BadData, BadSetting, Faults
from mlxtune.report.console import console, error, recipes_table
from mlxtune.report.live import Screen
from mlxtune.report.plain import Plain
from tests.support import events as told
from tests.support.stream import Stream


@pytest.fixture(autouse=True)
def _a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def test_a_terminal_gets_the_panel_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(console(stream=Stream(True)), Screen)
    assert isinstance(console(stream=Stream(False)), Plain)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(console(stream=Stream(False)), Plain)


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(console(stream=Stream(True, encoding="ascii")), Plain)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(console(stream=Stream(True)), Plain)


def test_with_json_nothing_is_written_on_standard_output(monkeypatch: pytest.MonkeyPatch):
    out, err = Stream(False), Stream(False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    report = console(json=True)
    for event in told.run(steps=3):
        report(event)
    report.close()
    assert out.getvalue() == ""
    assert "step 3/3 " in err.getvalue()


def test_an_error_is_one_message_with_its_remedy_beneath():
    stream = Stream(False)
    remedy = "4 more rows have the same fault: 12, 13, 40, 41.\nMend the rows."
    error(BadData("train.jsonl:7", expected="a JSON object", found="`{`", remedy=remedy), stream)
    assert stream.getvalue() == (
        "error: train.jsonl:7: expected a JSON object, found `{`.\n"
        "       4 more rows have the same fault: 12, 13, 40, 41.\n"
        "       Mend the rows.\n"
    )


def test_several_faults_are_told_one_by_one():
    stream = Stream(False)
    error(Faults([BadSetting(name, expected="1", found="0", remedy="Use 1.") for name in ("a", "b")]), stream)
    assert [line[:10] for line in stream.getvalue().splitlines()] == [
        "error: a: ",
        "       Use",
        "error: b: ",
        "       Use",
    ]


def test_the_first_line_of_an_error_is_red_in_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch):
    fault = BadSetting("a", expected="1", found="0", remedy="Use 1.")
    shown, piped = Stream(True), Stream(False)
    error(fault, shown)
    monkeypatch.setenv("FORCE_COLOR", "1")
    error(fault, piped)
    first, second = shown.getvalue().splitlines()
    assert first.startswith("\x1b[1;31merror: \x1b[0m\x1b[31ma: expected")
    assert "\x1b" not in second
    assert "\x1b" not in piped.getvalue()


def test_an_error_keeps_the_spaces_of_what_was_found_but_no_control_codes():
    stream = Stream(True)
    error(BadSetting("a", expected="1", found="`x   y\x1b[2J`", remedy="Use:\n    a: 1"), stream)
    assert "`x   y\\x1b[2J`" in stream.getvalue()
    assert "\n           a: 1\n" in stream.getvalue()


def test_a_long_error_is_not_wrapped_so_that_paths_can_be_copied():
    stream = Stream(False)
    error(BadData("/".join(["folder"] * 60), expected="x", found="y"), stream)
    assert len(stream.getvalue().splitlines()) == 1


def test_an_error_without_words_still_says_something():
    stream = Stream(False)
    error(KeyError(), stream)
    assert stream.getvalue() == "error: KeyError\n"


def test_the_table_has_a_line_for_each_recipe_failed_ones_too():
    stream = Stream(False)
    ends = [told.end(), told.end(status="stopped", final_loss=float("nan"), best_eval_loss=None), None]
    recipes_table(list(zip(("a.yaml", "recipes/[b].yaml", "c.yaml"), ends, strict=True)), stream)
    headings, *rows = stream.getvalue().splitlines()
    assert " ".join(headings.split()) == "recipe status steps final loss best validation peak memory time run"
    assert " ".join(rows[0].split()) == "a.yaml done 1,000 1.2031 1.2562 34.0 GB 24m 55s runs/story"
    assert rows[1].split()[:5] == ["recipes/[b].yaml", "stopped", "1,000", "nan", "-"]
    assert rows[2].split()[:3] == ["c.yaml", "failed", "-"]
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("width", [120, 80, 60])
def test_the_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Stream(True)
    recipes_table([("recipes/dolphin-8b-last-4.yaml", told.end(run="runs/2025-01-01-dolphin-8b-last-4"))], stream)
    assert "1.2562" in stream.getvalue()


def test_in_a_terminal_an_error_is_folded_between_words_and_a_path_and_a_command_stay_whole():
    path, command = f"/data/{'long-' * 20}rows.jsonl", f"mlxtune train --resume runs/{'x' * 80}"
    fault = BadData(path, expected="at least one row with an answer that carries loss", found="none", remedy=command)
    stream = io.StringIO()
    stream.isatty = lambda: True
    error(fault, stream)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert any(path in line for line in lines)
    assert any(command in line for line in lines)
    assert "expected at least one row with an answer" in " ".join(" ".join(lines).split())
    assert all(len(line) <= 80 for line in lines if path not in line and command not in line)
