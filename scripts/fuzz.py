"""Feed broken input to everything that reads files, and find what is not answered by one message.

Every input is a function of the seed and its number: `--only NUMBER` makes it again, `--keep FOLDER` writes it there.
It counts as a finding when something other than an MlxtuneError escapes, a process dies, it takes more than 5 s of the
processor or 1 GB, a message is longer than 4,000 characters or holds control characters, or anything is written past
the program's own output. Ends with 1 where there is a finding.

    scripts/fuzz --inputs 1000000 --seed 1
    scripts/fuzz --seconds 60 --kinds recipe config
    scripts/fuzz --seed 1 --only 12345 --keep /tmp/input
"""

import argparse
import contextlib
import faulthandler
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

for name, value in {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(name, value)
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # as the command line does

from fuzzing.kinds import KINDS, Kind  # noqa: E402
from fuzzing.tally import WHATS, Finding, Tally, findings, table  # noqa: E402

from mlxtune.errors import LONGEST, MlxtuneError  # noqa: E402
from mlxtune.format import printable  # noqa: E402

SLOW_SECONDS = 5.0  # of the processor
STUCK_SECONDS = 60.0  # of the clock, which runs on while other programs have the processor
MEMORY_BYTES = 1_000_000_000
TELL_EVERY_SECONDS = 1.0


class TooSlow(BaseException):
    """The processor's time for an input is over. Not an Exception, so that what is tested does not catch it."""


def kind_of(kinds: Mapping[str, Kind], random: Random) -> str:
    return random.choices(list(kinds), [kind.share for kind in kinds.values()])[0]


def write(kinds: Mapping[str, Kind], seed: int, number: int, folder: Path) -> str:
    """Write an input into a folder; its kind comes back."""
    random = Random(f"{seed}/{number}")
    name = kind_of(kinds, random)
    kinds[name].write(random, folder)
    return name


def fault_of(kind: Kind, folder: Path) -> str:
    """What is wrong with how an input is read, or one of "taken" and "refused"."""
    signal.setitimer(signal.ITIMER_PROF, SLOW_SECONDS)
    try:
        kind.read(folder)
    except MlxtuneError as error:
        return _fault_of_message(str(error))
    except TooSlow as error:
        return f"more than {SLOW_SECONDS:.0f} s at {_place(error)}"
    except BaseException as error:  # a panic of Rust is one
        return f"{type(error).__name__} at {_place(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "taken"


def _fault_of_message(message: str) -> str:
    if len(message) > LONGEST:
        return f"a message of more than {LONGEST:,} characters: {message[:60]!r}"
    return "refused" if printable(message) == message else f"a raw message: {message[:200]!r}"


def _place(error: BaseException) -> str:
    """The deepest line of ours, and the deepest of all."""
    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    ours = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}mlxtune{os.sep}" in frame.filename
    ]
    return ", ".join(dict.fromkeys([*ours[-1:], *frames[-1:]]))


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


class Worker:
    """A process that tries every `step`-th input from `first` on, and what it has told so far."""

    def __init__(self, options: argparse.Namespace, kinds: Mapping[str, Kind], first: int, until: float) -> None:
        self.board = multiprocessing.Array("d", 2, lock=False)  # the input that is being read, and since when
        self.board[:] = [first, time.monotonic()]
        self.told, tell = multiprocessing.Pipe(duplex=False)
        given = (options, kinds, first, until, self.board, tell)
        self.process = multiprocessing.get_context("fork").Process(target=_work, args=given, daemon=True)
        self.process.start()
        tell.close()

    @property
    def number(self) -> int:
        return int(self.board[0])

    def is_stuck(self) -> bool:
        return time.monotonic() - self.board[1] > STUCK_SECONDS


def _work(options: Any, kinds: Mapping[str, Kind], first: int, until: float, board: Any, tell: Any) -> None:
    signal.signal(signal.SIGPROF, _too_slow)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    noise = _silent()
    _limit_memory()
    counts: Counter[tuple[str, str]] = Counter()
    findings: list[Finding] = []
    said = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        number = first
        while number < options.inputs and time.monotonic() < until:
            board[:] = [number, time.monotonic()]
            folder = Path(place) / "input"
            try:
                kind, outcome = attempt(kinds, options.seed, number, folder)
            except BaseException as error:  # between inputs, where nothing of ours runs
                what = f"{type(error).__name__} at {_place(error)}: {str(error)[:100]}"
                kind, outcome = kind_of(kinds, Random(f"{options.seed}/{number}")), f"the fuzzer itself: {what}"
            if outcome in ("taken", "refused") and os.fstat(noise).st_size:
                outcome = f"raw output: {os.pread(noise, 300, 0).decode(errors='replace').strip()[:150]!r}"
            os.ftruncate(noise, 0)
            counts[kind, outcome if outcome in ("taken", "refused") else "findings"] += 1
            if outcome not in ("taken", "refused"):
                findings.append(Finding(kind, outcome, number))
            number += options.workers
            if time.monotonic() - said > TELL_EVERY_SECONDS:
                tell.send((counts, findings))
                counts, findings, said = Counter(), [], time.monotonic()
    tell.send((counts, findings))
    tell.send(None)


def attempt(kinds: Mapping[str, Kind], seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Write an input, read it, and clear up."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind = write(kinds, seed, number, folder)
    return kind, fault_of(kinds[kind], folder)


def _silent() -> int:
    """Everything that is printed goes to a file, whose descriptor comes back."""
    file = tempfile.TemporaryFile("ab")  # noqa: SIM115  # open to the end
    noise = os.dup(file.fileno())
    for number in (1, 2):
        os.dup2(noise, number)
    faulthandler.disable()
    return noise


def _limit_memory() -> None:
    status = Path("/proc/self/statm")
    if status.is_file():
        limit = int(status.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(options: argparse.Namespace, kinds: Mapping[str, Kind]) -> Tally:
    """Run the workers until the inputs or the time are over, or Ctrl-C; one that dies is replaced by one after it."""
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    tally, until = Tally(), time.monotonic() + (options.seconds or 10**9)
    workers = [Worker(options, kinds, first, until) for first in range(options.first, options.first + options.workers)]
    shown = time.monotonic()
    while workers and not stopped:
        for worker in list(workers):
            ended = _hear(worker, tally)
            if not ended and worker.is_stuck():
                worker.process.kill()
                worker.process.join()
            if ended or not worker.process.is_alive():
                workers.remove(worker)
                workers += [] if ended else [_after(worker, options, kinds, until, tally)]
        time.sleep(0.05)
        if options.progress and time.monotonic() - shown > options.progress:
            shown = time.monotonic()
            print(f"{tally.total:,} inputs, {len(tally.findings)} findings", file=sys.stderr, flush=True)
    return tally


def _hear(worker: Worker, tally: Tally) -> bool:
    """Take what a worker tells; whether it is through."""
    try:
        while worker.told.poll():
            said = worker.told.recv()
            if said is None:
                worker.process.join()
                return True
            tally.counts.update(said[0])
            for finding in said[1]:
                tally.add(finding)
    except (EOFError, OSError):
        pass
    return False


def _after(
    worker: Worker, options: argparse.Namespace, kinds: Mapping[str, Kind], until: float, tally: Tally
) -> Worker:
    """A worker that died: its last input is a finding, and another goes on with the next."""
    name = kind_of(kinds, Random(f"{options.seed}/{worker.number}"))
    code = worker.process.exitcode
    tally.counts[name, "findings"] += 1
    what = f"no answer in {STUCK_SECONDS:.0f} s" if code == -signal.SIGKILL else f"the process died with {code}"
    tally.add(Finding(name, what, worker.number))
    return Worker(options, kinds, worker.number + options.workers, until)


def _again(options: argparse.Namespace, kinds: Mapping[str, Kind]) -> int:
    """One input, with what is read of it and the traceback of what escapes."""
    signal.signal(signal.SIGPROF, _too_slow)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(options.keep or Path(place) / "input").absolute()
        folder.mkdir(parents=True)
        name = write(kinds, options.seed, options.only, folder)
        print(f"{name}: {sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))}", flush=True)
        signal.setitimer(signal.ITIMER_PROF, SLOW_SECONDS)
        _limit_memory()
        try:
            kinds[name].read(folder)
        except MlxtuneError as error:
            print(f"refused: {error}")
            return int(_fault_of_message(str(error)) != "refused")
        print("taken")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10**15, help="end before this number")
    parser.add_argument("--seconds", type=float, help="for how long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="only these; the inputs of a number are others then")
    parser.add_argument("--only", type=int, help="the one input of this number, with its traceback")
    parser.add_argument("--keep", help="with --only: a new folder for the input")
    parser.add_argument("--progress", type=float, default=0, help="seconds between lines on standard error")
    parser.add_argument("--json", help="a file for the counts")
    options = parser.parse_args()
    if options.first >= options.inputs:
        parser.error(f"--inputs is the number to end before: more than --first {options.first}, not {options.inputs}")
    kinds = {name: kind for name, kind in KINDS.items() if not options.kinds or name in options.kinds}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MLXTUNE_CACHE"] = cache
        if options.only is not None:
            return _again(options, kinds)
        if options.seconds is None and options.inputs == 10**15:
            options.seconds = 60.0
        for kind in kinds.values():
            warm(kind)
        began = time.monotonic()
        tally = fuzz(options, kinds)
    print("\n".join([*table(tally, kinds, time.monotonic() - began), *findings(tally, options)]))
    if options.json:
        counts = {name: {what: tally.counts[name, what] for what in WHATS} for name in kinds}
        Path(options.json).write_text(json.dumps(counts))
    return int(bool(tally.findings))


def warm(kind: Kind) -> None:
    """Import and make in this process what every worker needs; they are forked from it."""
    with tempfile.TemporaryDirectory() as place:
        kind.write(Random(0), Path(place))
        with contextlib.suppress(BaseException):  # it is counted when it is one of the inputs
            kind.read(Path(place))


if __name__ == "__main__":
    sys.exit(main())
