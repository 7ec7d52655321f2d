"""The program ends with one message and an exit code, whatever it is given and wherever it writes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlxtune.cli import net
from mlxtune.errors import BadData, RunStopped
from tests.support.cli import TEXT_ROWS, write

POSIX = pytest.mark.skipif(os.name == "nt", reason="a POSIX system's shell")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line of the shell, where $M is the program."""
    given = {**os.environ, "M": f"{sys.executable} -m mlxtune", "HF_HUB_OFFLINE": "1", **environment}
    where = {"PYTHONPATH": str(Path(net.__file__).parents[2]), "MLXTUNE_CACHE": str(folder / "cache")}
    command = ["bash", "-c", command]
    return subprocess.run(command, cwd=folder, env={**given, **where}, capture_output=True, text=True, check=False)


def ends(error: BaseException, *, debug: bool = False) -> int:
    def program() -> None:
        raise error

    return net.exit_code(program, debug=lambda: debug)


def test_a_fault_of_ours_is_one_message_that_names_a_file_of_details(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ends(KeyError("\x1b[2J" * 5000)) == 1
    said = capsys.readouterr().err
    assert "one of ours, KeyError" in said
    assert "Please report it" in said
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert len(said) < 4000
    (details,) = tmp_path.glob("mlxtune-fault-*.txt")
    assert str(details) in said
    assert "Traceback" in details.read_text()
    assert re.search(r"^numpy \d", details.read_text(), re.MULTILINE)


def test_debug_shows_the_traceback_and_keeps_the_exit_code(capsys):
    assert ends(BadData("rows.jsonl", expected="x", found="\x1b"), debug=True) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied", "/somewhere"), 2),
        (OSError(30, "Read-only file system", b"/some\xffwhere"), 2),
        (OSError(28, "No space left on device"), 3),
        (MemoryError(), 3),
        (RunStopped("", expected="x", found="y"), 3),
        (RecursionError("too deep"), 1),
    ],
)
def test_what_the_system_refuses_is_told_in_one_message(error, code, capsys):
    assert ends(error) == code
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
@POSIX
def test_a_reader_that_leaves_ends_the_program_quietly_as_it_ends_others(tmp_path):
    ended = shell("$M data --json --rows 200 | head -c 10 >/dev/null; echo ${PIPESTATUS[0]}", tmp_path)
    assert ended.stdout.split() == ["141"]
    assert ended.stderr == ""


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(streams, tmp_path):
    rows = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    said = shell(
        f"$M data --data {rows} {streams}; echo $? >code; $M data --data no {streams}; echo $? >>code", tmp_path
    )
    assert (tmp_path / "code").read_text().split() == ["0", "2"]
    assert "Traceback" not in said.stderr
    assert rows.read_text().count("\n") == len(TEXT_ROWS)


@pytest.mark.slow
@POSIX
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_standard_output_is_one_message(tmp_path):
    ended = shell("$M data --json >/dev/full", tmp_path)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: ")
    assert "No space left" in ended.stderr
    assert "Exception" not in ended.stderr


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_an_ascii_terminal_gets_escapes_and_json_stays_json(encoding, tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": "naïve 日本 " + row["text"]} for row in TEXT_ROWS])
    ended = shell(f"$M data --data {rows} && $M data --json --data {rows} >out.json", tmp_path, **encoding)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert r"na\xefve" in ended.stdout
    assert "naïve" in json.loads((tmp_path / "out.json").read_text())["shown"][0]["pieces"][-1]["text"]


HOSTILE = "\x1b[2Jx\x9b31m\u202e"


@pytest.mark.skipif(os.name == "nt", reason="names that a POSIX system has")
def test_a_file_name_and_a_row_reach_the_screen_with_their_escapes_written_out(mlxtune, tmp_path):
    rows = write(tmp_path / f"[red]{HOSTILE}.jsonl", [{"text": f"[bold]{HOSTILE} {row['text']}"} for row in TEXT_ROWS])
    said = mlxtune("data", "--data", rows)
    assert said.returncode == 0
    assert r"[red]\x1b[2Jx\x9b31m\u202e.jsonl" in said.stdout
    assert "[bold]" in said.stdout
    wrong = mlxtune("data", "--data", rows, "--model", f"[red]{HOSTILE}")
    assert wrong.returncode == 2
    assert r"[red]\x1b[2J" in wrong.stderr
    assert not any(letter in text for letter in "\x1b\x9b\u202e" for text in (*said[1:], *wrong[1:]))


PLACES = ["~nouser", "x" * 5000, "afile/x", "loop", "half\udc80"]


@pytest.mark.parametrize("option", ["--out", "--data", "--model", "--adapter", "--recipe", "--resume"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.few(2)
def test_a_path_that_is_none_is_one_message(option, place, mlxtune, tmp_path):
    (tmp_path / "afile").touch()
    (tmp_path / "loop").symlink_to("loop")
    verb = "eval" if option == "--adapter" else "train"
    found = mlxtune(verb, option, place, *(("--dry-run",) if option == "--recipe" else ()))
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert len(found.stderr) < 2000


@pytest.mark.parametrize("option", ["--prompt", "--model"])
def test_an_argument_that_is_no_text_is_refused(option, mlxtune):
    found = mlxtune("generate", *(() if option == "--prompt" else ("--prompt", "x")), option, "a\udcff")
    assert (found.returncode, found.stderr) == (2, "error: expected arguments in UTF-8, found `a\\udcff`.\n")


def test_a_home_folder_is_filled_in_wherever_a_path_is_given(mlxtune, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "rows.jsonl", TEXT_ROWS)
    (tmp_path / "r.yaml").write_text("run: {out: ~/run}\ntrain: {max_steps: 1}\ndata: {path: ~/rows.jsonl}\n")
    assert mlxtune("train", "--recipe", "~/r.yaml", "--precision", "fp32").returncode == 0
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    assert mlxtune("train", "--resume", "~/run", "--max-steps", 2).returncode == 0
    assert mlxtune("eval", "--adapter", "~/run/adapter", "--data", "~/rows.jsonl").returncode == 0


def test_more_tokens_than_any_answer_has_are_refused_before_room_is_made_for_them(mlxtune):
    found = mlxtune("generate", "--prompt", "x", "--max-tokens", 10**20)
    assert found.returncode == 2
    assert "--max-tokens" in found.stderr
