"""What a run saves while it trains: checkpoints, the adapter of the best validation, and the last one.

Training stands still while tensors are copied into the system's file cache. That they are hashed, on the disk and in
their place is waited for in a thread, which holds nothing of the model: to write all of it there would need weights and
moments twice.

A checkpoint is good when the weights that it holds were seen to compute: in the step after it, or in a validation. The
last good one is never removed.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from mlxtune.adapters import folder as folders
from mlxtune.backends.base import Blueprint, Learner
from mlxtune.events import Checkpoint, Event
from mlxtune.export import adapter
from mlxtune.storage import checkpoint
from mlxtune.storage.files import bring_back, drop_folder, put_by, recover_folder, remove

SCHEDULED = "scheduled"  # see `keep_scheduled`


class _Begun(NamedTuple):
    """A checkpoint on its way to the disk. seconds: that training stood still for it."""

    step: int
    seconds: float
    path: Future[Path]


def recover(run: Path) -> checkpoint.Found | None:
    """The checkpoint to go on from, and the adapters as the schedule's last validation left them.

    Whatever a kill or an interruption did is undone.
    """
    found = checkpoint.newest(run)
    for name in (adapter.BEST, adapter.LAST):
        recover_folder(run / name)
    bring_back(run / adapter.BEST, SCHEDULED)
    return found


class Saving:
    """One checkpoint and one adapter at a time are on their way to the disk.

    keep: how many checkpoints stay. found: the one that the run goes on from. saved: the last one that is on the disk;
    good: the last good one. tell: hears of each checkpoint that is, in whatever method is called next. Every method
    raises the OSError of a file that could not be written, whichever it was.
    """

    def __init__(
        self,
        learner: Learner,
        blueprint: Blueprint,
        run: Path,
        keep: int,
        tell: Callable[[Event], None],
        found: checkpoint.Found | None = None,
    ) -> None:
        self.learner, self.blueprint, self.run, self.keep, self.tell = learner, blueprint, run, keep, tell
        self.best, self.last = run / adapter.BEST, run / adapter.LAST
        self.saved: Path | None = None
        self.good: Path | None = None
        self._newest: Path | None = None  # on the disk or on its way
        self._newest_is_good = False
        self._checkpoint: _Begun | None = None
        self._adapter: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "mlxtune-saving")
        if found is not None:
            self.saved = self._newest = found.path
            *_, self.good = None, *checkpoint.folders(run)[:-1]  # training went on from it

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
        settling = self._thread.submit(self._settle, step, state, self._adapter, self.good)
        self._checkpoint = _Begun(step, seconds, settling)
        self._newest, self._newest_is_good = target, False

    def _settle(self, step: int, state: dict[str, Any], best: "Future[None] | None", good: Path | None) -> Path:
        """best: the adapter that the state counts on, which the thread has been through; it raises what went wrong."""
        path = checkpoint.settle(self.run, step, state, best.result if best is not None else lambda: None)
        checkpoint.prune(self.run, self.keep, good)
        return path

    def approve(self) -> None:
        """The weights of the newest checkpoint were seen to compute: it is good."""
        self._newest_is_good = True
        self._note_good()

    def _note_good(self) -> None:
        if self._newest_is_good and self._checkpoint is None and self.good != self.saved:
            self.good = self.saved
            checkpoint.prune(self.run, self.keep)

    def set_aside(self) -> str:
        """Where the newest checkpoint turned out not to compute, give it a name that no run goes on from; its name."""
        self._wait_for_checkpoint()
        if self.saved is None or self.saved == self.good:
            return ""
        aside = self.saved.with_name(f"{self.saved.name}-not-finite")
        remove(aside)  # of an earlier sitting: the same, and a resumed run says what the unbroken one does
        self.saved.rename(aside)
        self.saved = self._newest = self.good
        return str(aside)

    def save_best(self, about: dict[str, Any]) -> None:
        """Save what is trained now in the place of the best adapter before."""
        self._save_adapter(self.best, about)

    def save_last(self, about: dict[str, Any]) -> None:
        """Save what is trained now beside the best."""
        self._save_adapter(self.last, about)

    def drop_last(self) -> None:
        """The best weights are the last: remove what an earlier sitting left beside them."""
        drop_folder(self.last)

    def keep_scheduled(self) -> None:
        """Keep the best adapter beside the one that comes in its place, until the run is resumed.

        A validation that only an interruption asked for must not change what the resumed run ends with.
        """
        self._wait_for_adapter()
        put_by(self.best, SCHEDULED)

    def _save_adapter(self, folder: Path, about: dict[str, Any]) -> None:
        self._wait_for_adapter()
        adapter.write(folder, self.learner.weights(), self.blueprint.anatomy, self.blueprint.selection, about)
        self._adapter = self._thread.submit(folders.settle, folder)

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
        self._note_good()
        self.tell(Checkpoint(begun.step, str(self.saved), n_bytes, begun.seconds, self.learner.memory()))

    def _wait_for_adapter(self) -> None:
        coming, self._adapter = self._adapter, None
        if coming is not None:
            coming.result()
