"""`python -m mlxtune.data.store.worker`: makes portions of rows for the process that started it.

It is told what to make in its standard input and answers in its standard output. It ends when its input does, so with
the process that started it. Nothing of that process is imported or run again, as `multiprocessing` would with a script
that has no guard.
"""

import os
import signal
import sys

import numpy as np

from mlxtune.data.rows import Maker
from mlxtune.data.store.chunks import Portion
from mlxtune.data.store.exchange import Failed, Job, answer, receive, send
from mlxtune.errors import MlxtuneError


def main() -> None:
    """Make portions until there are no more."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # transformers imports it in 3 s, for nothing here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first one decides
    asked, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        job: Job = receive(asked)
        maker = _maker(job)
        while True:
            portion: Portion = receive(asked)
            try:
                if isinstance(maker, MlxtuneError):
                    raise maker
                send(told, answer(maker, portion, np.dtype(job.dtype)))
            except MlxtuneError as error:
                send(told, Failed(error))
    except (EOFError, BrokenPipeError):
        return


def _maker(job: Job) -> Maker | MlxtuneError:
    """What makes the rows, or why there is none, which is told when the first are asked for."""
    try:
        return Maker(job.wanted, job.open_tokenizer())
    except MlxtuneError as error:
        return error


if __name__ == "__main__":
    main()
