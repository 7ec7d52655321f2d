"""metrics.jsonl: valid JSON, each step once, whatever killed the run."""

import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mlxtune.errors import BadRun, RunStopped
from mlxtune.events import End, Event, Start, Step, as_json
from mlxtune.report.log import Log, dump, replay, rewind
from tests.support import events as told
from tests.support.checkout import ROOT


def write(path: Path, events: list[Event]) -> None:
    log = Log(path)
    for event in events:
        log(event)
    log.close()


def steps_of(path: Path) -> list[int]:
    return [event.step for event in replay(path) if isinstance(event, Step)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_each_event_is_one_line_of_json_with_the_frozen_keys(path: Path):
    events = list(told.run(steps=3))
    write(path, events)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == [event.kind for event in events]
    keys = "event step loss tokens tokens_per_second learning_rate grad_norm active_memory_bytes peak_memory_bytes"
    assert set(keys.split()) <= set(lines[2])


def test_replay_gives_back_the_events_that_were_logged(path: Path):
    events = list(told.run(steps=150))
    write(path, events)
    assert list(replay(path)) == events


def test_numbers_that_are_not_finite_are_null_and_come_back_as_nan(path: Path):
    write(path, [told.step(1, loss=math.nan, grad_norm=math.inf), told.end(best_eval_loss=None)])
    first, last = (json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines())
    assert first["loss"] is None
    assert first["grad_norm"] is None
    step, end = replay(path)
    assert isinstance(step, Step)
    assert math.isnan(step.loss)
    assert isinstance(end, End)
    assert end.best_eval_loss is None
    assert last["best_eval_loss"] is None


@pytest.mark.parametrize("event", list(told.odd_events()), ids=lambda event: event.kind)
def test_every_event_is_valid_json_however_odd_its_numbers(event: Event):
    found = json.loads(dump(event), parse_constant=pytest.fail)
    assert set(found) == set(as_json(event))


def test_the_log_is_appended_to_and_never_truncated(path: Path):
    write(path, [told.step(1)])
    write(path, [told.step(2)])
    assert steps_of(path) == [1, 2]


def test_rewind_drops_the_steps_after_the_checkpoint_and_the_end(path: Path):
    write(path, list(told.run(steps=250)))
    rewind(path, 200)
    events = list(replay(path))
    assert steps_of(path) == list(range(1, 201))
    assert isinstance(events[0], Start)
    assert events[-1] == told.checkpoint(200)
    assert not [path for path in path.parent.iterdir() if path.name != "metrics.jsonl"]


def test_rewind_keeps_the_start_of_every_sitting_that_left_steps(path: Path):
    sittings = [told.start(first_step=1), told.start(first_step=101), told.start(first_step=201)]
    write(path, [sittings[0], told.step(100), sittings[1], told.step(200), sittings[2]])
    rewind(path, 200)
    assert [event for event in replay(path) if isinstance(event, Start)] == sittings[:2]


def test_rewind_to_step_zero_begins_the_log_anew(path: Path):
    write(path, list(told.run(steps=5)))
    rewind(path, 0)
    assert path.read_bytes() == b""


def test_rewind_without_a_log_is_nothing(path: Path):
    rewind(path, 10)
    assert not path.exists()


def test_a_log_torn_at_any_byte_of_its_last_line_is_mended(path: Path):
    write(path, [told.step(1)])
    first = path.read_bytes()
    whole = first + dump(told.step(2)).encode() + b"\n"
    for cut in (*range(len(first), len(whole), 20), len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert steps_of(path) == [1]
        rewind(path, 2)
        assert path.read_bytes() == first


def test_zeros_that_a_power_cut_left_are_cut_off(path: Path):
    write(path, [told.step(1)])
    good = path.read_bytes()
    path.write_bytes(good + bytes(100) + b"\n")
    rewind(path, 5)
    assert path.read_bytes() == good


def test_killed_while_logging_and_rewound_the_log_has_each_step_once(path: Path):
    code = (
        "import sys; from pathlib import Path; from itertools import count\n"
        "from mlxtune.report.log import Log; from tests.support.events import step\n"
        "log = Log(Path(sys.argv[1]))\n"
        "for number in count(1): log(step(number)); number == 500 and print('go', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    rewind(path, 400)
    write(path, [told.step(number) for number in range(401, 410)])
    assert steps_of(path) == list(range(1, 410))


def test_a_line_that_is_no_event_is_named(path: Path):
    write(path, [told.step(1)])
    path.write_bytes(path.read_bytes() + b'{"event": "step"}\n')
    with pytest.raises(BadRun, match=r"metrics.jsonl:2: expected an event as JSON, found `{\"event\": \"step\"}`"):
        list(replay(path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_stops_the_run_with_a_message():
    log = Log(Path("/dev/full"))
    with closing(log), pytest.raises(RunStopped, match="No space left on device") as stopped:
        log(told.step(1))
    assert stopped.value.exit_code == 3


def test_a_disk_that_takes_half_a_line_leaves_no_torn_line(path: Path):
    resource = pytest.importorskip("resource", reason="no file can be held to a size here")
    log = Log(path)
    log(told.step(1))
    good = path.read_bytes()
    of_before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) * 3 // 2, of_before[1]))
    try:
        with pytest.raises(RunStopped):
            log(told.step(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, of_before)
    assert path.read_bytes() == good
    log.close()
