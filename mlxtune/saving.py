"""What a run saves while it trains: checkpoints, and the adapter of the best validation.

Training stands still while tensors are handed to the system, at the speed of memory. That they are hashed, on the disk
and in their place is waited for in a thread, which holds nothing of the model: to write all of it there would need
weights and moments twice.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from mlxtune import checkpoint
from mlxtune.backends.base import Learner
from mlxtune.export import adapter


class Saved(NamedTuple):
    """A checkpoint that is on the disk. seconds: that training stood still for it."""

    step: int
    path: Path
    bytes: int
    seconds: float


class Saving:
    """One checkpoint and one adapter at a time are on their way to the disk.

    keep: how many checkpoints stay. saved: the last one that is on the disk. tell: hears of each, in whatever method is
    called next. Every method raises the OSError of a file that could not be written, whichever it was.
    """

    def __init__(
        self, run: Path, adapter_folder: Path, keep: int, saved: Path | None, tell: Callable[[Saved], None]
    ) -> None:
        self.run, self.adapter, self.keep, self.saved, self.tell = run, adapter_folder, keep, saved, tell
        self._begun = saved
        self._checkpoint: Future[Saved] | None = None
        self._adapter: Future[None] | None = None
        self._thread: ThreadPoolExecutor

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The thread, for as long as something may be saved."""
        with ThreadPoolExecutor(1, "mlxtune-saving") as self._thread:
            yield

    def save_checkpoint(self, step: int, learner: Learner, state: dict[str, Any]) -> None:
        """Save a step, unless it is saved. It is there when `tell` hears of it."""
        target = checkpoint.step_folder(self.run, step)
        if target == self._begun:
            return
        began = perf_counter()
        self._wait_for_checkpoint()
        checkpoint.write(self.run, step, learner.weights(), learner.optimizer_state())
        self._begun = target
        self._checkpoint = self._thread.submit(self._settle, step, state, perf_counter() - began, self._adapter)

    def _settle(self, step: int, state: dict[str, Any], seconds: float, before: "Future[None] | None") -> Saved:
        """before: the adapter that the state counts on, which the thread had to do first."""
        if before is not None:
            before.result()
        path = checkpoint.settle(self.run, step, state)
        checkpoint.prune(self.run, self.keep)
        return Saved(step, path, sum(file.stat().st_size for file in path.iterdir()), seconds)

    def save_adapter(self, learner: Learner, about: dict[str, Any]) -> None:
        """Save what is trained now in the place of the adapter before."""
        self._wait_for_adapter()
        adapter.write(self.adapter, learner.weights(), learner.anatomy, learner.selection, about)
        self._adapter = self._thread.submit(adapter.settle, self.adapter)

    def look(self) -> None:
        """Tell of a checkpoint that came to be on the disk; does not wait."""
        if self._checkpoint is not None and self._checkpoint.done():
            self._wait_for_checkpoint()
        if self._adapter is not None and self._adapter.done():
            self._wait_for_adapter()

    def wait(self) -> None:
        """Until everything is on the disk."""
        self._wait_for_checkpoint()
        self._wait_for_adapter()

    def _wait_for_checkpoint(self) -> None:
        coming, self._checkpoint = self._checkpoint, None
        if coming is None:
            return
        saved = coming.result()
        self.saved = saved.path
        self.tell(saved)

    def _wait_for_adapter(self) -> None:
        coming, self._adapter = self._adapter, None
        if coming is not None:
            coming.result()
