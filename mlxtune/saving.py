"""What a run saves while it trains: checkpoints, and the adapter of the best validation.

Training stands still while tensors are copied into the system's file cache. That they are hashed, on the disk and in
their place is waited for in a thread, which holds nothing of the model: to write all of it there would need weights and
moments twice.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from mlxtune import checkpoint
from mlxtune.backends.base import Learner
from mlxtune.events import Checkpoint, Event
from mlxtune.export import adapter


class _Begun(NamedTuple):
    """A checkpoint on its way to the disk. seconds: that training stood still for it."""

    step: int
    seconds: float
    path: Future[Path]


class Saving:
    """One checkpoint and one adapter at a time are on their way to the disk.

    keep: how many checkpoints stay. saved: the last one that is on the disk. tell: hears of each checkpoint that is, in
    whatever method is called next. Every method raises the OSError of a file that could not be written, whichever it
    was.
    """

    def __init__(
        self, learner: Learner, run: Path, best: Path, keep: int, saved: Path | None, tell: Callable[[Event], None]
    ) -> None:
        self.learner, self.run, self.best, self.keep, self.saved, self.tell = learner, run, best, keep, saved, tell
        self._newest = saved  # on the disk or on its way
        self._checkpoint: _Begun | None = None
        self._adapter: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "mlxtune-saving")

    def close(self) -> None:
        """End the thread, when it is through with what was begun."""
        self._thread.shutdown()

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Save a step, unless it is saved."""
        target = checkpoint.step_folder(self.run, step)
        if target == self._newest:
            return
        began = perf_counter()
        self._wait_for_checkpoint()
        checkpoint.write(self.run, step, self.learner.weights(), self.learner.optimizer_state())
        seconds = perf_counter() - began
        self._checkpoint = _Begun(step, seconds, self._thread.submit(self._settle, step, state, self._adapter))
        self._newest = target

    def _settle(self, step: int, state: dict[str, Any], best: "Future[None] | None") -> Path:
        """best: the adapter that the state counts on, which the thread has been through; it raises what went wrong."""
        path = checkpoint.settle(self.run, step, state, best.result if best is not None else lambda: None)
        checkpoint.prune(self.run, self.keep)
        return path

    def save_adapter(self, about: dict[str, Any]) -> None:
        """Save what is trained now in the place of the adapter before."""
        self._wait_for_adapter()
        adapter.write(self.best, self.learner.weights(), self.learner.anatomy, self.learner.selection, about)
        self._adapter = self._thread.submit(adapter.settle, self.best)

    def look(self) -> None:
        """Tell of what came to be on the disk; does not wait."""
        if self._checkpoint is not None and self._checkpoint.path.done():
            self._wait_for_checkpoint()
        if self._adapter is not None and self._adapter.done():
            self._wait_for_adapter()

    def wait(self) -> None:
        """Until everything is on the disk."""
        self._wait_for_checkpoint()
        self._wait_for_adapter()

    def _wait_for_checkpoint(self) -> None:
        begun, self._checkpoint = self._checkpoint, None
        if begun is None:
            return
        self.saved = begun.path.result()
        n_bytes = sum(file.stat().st_size for file in self.saved.iterdir())
        self.tell(Checkpoint(begun.step, str(self.saved), n_bytes, begun.seconds, self.learner.memory()))

    def _wait_for_adapter(self) -> None:
        coming, self._adapter = self._adapter, None
        if coming is not None:
            coming.result()
