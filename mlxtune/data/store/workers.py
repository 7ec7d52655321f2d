"""Portions of rows made by several processes, given back in their order."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, cast

import numpy as np

from mlxtune.data.rows import Maker
from mlxtune.data.store.chunks import Portion
from mlxtune.data.store.exchange import Answer, Failed, Job, answer, receive, send
from mlxtune.errors import RunStopped

MOST = 8  # processes: one process that reads rows feeds about as many
ALONE = 3  # portions that are made here before others are started, which takes seconds
AHEAD = 2  # portions for each process that wait to be made or to be taken


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def made(portions: Iterable[Portion], job: Job, maker: Maker, n_processes: int | None = None) -> Iterator[Answer]:
    """Each portion's answer, in order. Of many, the first few are made here while as many processes start as there are
    cores, and the others by these."""
    portions, dtype = iter(portions), np.dtype(job.dtype)
    count = min(MOST, cores()) if n_processes is None else n_processes
    first = list(islice(portions, ALONE + 1)) if count > 1 else []
    processes = _started(job, count) if len(first) > ALONE else []
    try:
        alone = first[:ALONE] if processes else chain(first, portions)
        yield from (answer(maker, portion, dtype) for portion in alone)
        if processes:
            yield from _by_processes(chain(first[ALONE:], portions), processes)
    finally:
        for process in processes:
            process.end()


def _started(job: Job, count: int) -> list["_Process"]:
    """As many as the system lets start."""
    processes: list[_Process] = []
    with suppress(OSError):
        for _ in range(count):
            processes.append(_Process(job))  # noqa: PERF401  # those before one that fails stay
    return processes


def _by_processes(portions: Iterator[Portion], processes: list["_Process"]) -> Iterator[Answer]:
    """A thread for each process hands it a portion and waits for the answer."""
    idle: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        idle.put(process)
    count = len(processes)

    def ask(portion: Portion) -> Answer:
        process = idle.get()
        try:
            return process.ask(portion)
        finally:
            idle.put(process)

    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(count) as threads:
        try:
            for portion in portions:
                waiting.append(threads.submit(ask, portion))
                if len(waiting) > AHEAD * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            if waiting:  # an error, or whoever asked has gone: no answer is waited for
                for process in processes:
                    process.end()


class _Process:
    """A worker, which is told its job as it starts."""

    def __init__(self, job: Job) -> None:
        environment = {
            **os.environ,
            # It imports what this process would.
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "TOKENIZERS_PARALLELISM": "false",  # a core is one process's
        }
        self._process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlxtune.data.store.worker"],  # -P: not what lies in the folder of the moment
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        with suppress(OSError):  # it has died, which the first that asks is told
            send(cast(BinaryIO, self._process.stdin), job)

    def ask(self, portion: Portion) -> Answer:
        """Its answer. Raises MlxtuneError as the worker does, and RunStopped where that has died."""
        asked, told = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        try:
            send(asked, portion)
            answer = receive(told)
        except (OSError, EOFError, ValueError):
            raise self._died() from None
        if isinstance(answer, Failed):
            raise answer.error
        assert isinstance(answer, Answer)
        return answer

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # there is something in it that nobody reads any more
                    stream.close()

    def _died(self) -> RunStopped:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)  # its streams end a moment before it does
        code = self._process.poll()
        how = "has ended" if code is None else f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        remedy = "What was made so far is kept: start again. If memory is short, close other programs first."
        return RunStopped(
            "rows", expected="a process that makes tokens of them", found=f"one that {how}", remedy=remedy
        )
