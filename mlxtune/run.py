"""One training run from start to end: its folder, its checkpoints, its end, whatever ends it."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlxtune import checkpoint, engine, run_folder, run_shape
from mlxtune.documents import user_path
from mlxtune.engine import NotFinite, Progress
from mlxtune.errors import BadRun, BadSetting, MlxtuneError, RunStopped
from mlxtune.events import End, Eval, Preparing, Step
from mlxtune.memory.guard import LOWER, TooLarge
from mlxtune.prepare import Prepared, prepare, settled, start_event
from mlxtune.recipe import Recipe, build
from mlxtune.report.base import Report, Reports
from mlxtune.report.log import Log, rewind
from mlxtune.saving import Saving
from mlxtune.signals import StopRequests
from mlxtune.storage import free_bytes, recover_folder
from mlxtune.words import size


def start(recipe: Recipe, reports: Sequence[Report] = (), resume: str = "auto") -> End:
    """Run a recipe. resume: "auto" goes on with the run in run.out if there is one, "never" refuses it.

    Raises MlxtuneError for bad input, before anything is written. A run that stops by itself or is asked to stop gives
    an End that says so, with its exit code.
    """
    out = recipe.run.out
    folder = user_path(out, BadSetting, "run.out") if out else run_folder.default_folder(recipe)
    if resume == "never" or not run_folder.is_run(folder):
        run_folder.check_unclaimed(folder)
    prepared = prepare(run_folder.at_its_time(recipe, folder), Reports(reports))
    _check_disk(prepared, folder)
    with run_folder.claim(folder):
        return _Session(prepared, folder, reports).run()


def resume(folder: Path, overrides: dict[str, Any], reports: Sequence[Report] = ()) -> End:
    """Go on with the run in a folder, under the settings that it was begun with."""
    folder = user_path(folder, BadRun)
    tree = run_folder.saved_recipe(folder)
    return start(build(tree, {**overrides, "run.out": str(folder)}, str(folder)), reports)


def _check_disk(prepared: Prepared, folder: Path) -> None:
    """Refuse a disk that cannot hold the checkpoints that are still to come, before the first step."""
    weights, optimizer = prepared.size.trainable_bytes, prepared.size.optimizer_bytes
    keep = prepared.recipe.checkpoint.keep
    to_come = max(1, keep + 1 - len(checkpoint.folders(folder)))  # one is written before the oldest goes
    needed, free = to_come * (weights + optimizer) + 2 * weights, free_bytes(folder)
    if free < needed:
        raise BadSetting(
            f"{folder}",
            expected=f"{size(needed)} free for {to_come} checkpoints and the adapter",
            found=f"{size(free)} free",
            remedy="Make room, choose another --out, or lower --keep or what trains (--last-n, --strategy lora).",
        )


class _Session:
    """A run while it is in its folder."""

    def __init__(self, prepared: Prepared, folder: Path, reports: Sequence[Report]) -> None:
        self.prepared, self.folder, self.tell = prepared, folder, Reports(reports)
        self.learner, self.progress = prepared.learner, Progress()
        self.adapter, saved = folder / run_folder.ADAPTER, run_folder.newest_checkpoint(folder)
        self.saving = Saving(self.learner, folder, self.adapter, prepared.recipe.checkpoint.keep, saved, self.tell)

    def run(self) -> End:
        """Begin or go on, train, end."""
        with self._held():
            return self._run()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The backend's memory and cache held to the plan, until the end."""
        self.learner.limit(self.prepared.held_bytes, self.prepared.plan.cache_bytes)
        try:
            yield
        finally:
            self.learner.close()

    def _run(self) -> End:
        self._begin_or_resume()
        log = Log(self.folder / run_folder.METRICS)
        with closing(log), closing(self.saving), StopRequests() as requests:
            self.tell.all.append(log)
            self.tell(start_event(self.prepared, str(self.folder), self.progress))
            end = self._train_until_the_end(requests)
            self.tell(end)
        return end

    def _begin_or_resume(self) -> None:
        folder, fingerprints = self.folder, self.prepared.fingerprints
        recover_folder(self.adapter)
        saved = self.saving.saved
        state = checkpoint.load_state(saved) if saved else {}
        if run_folder.is_run(folder):
            run_folder.refuse_differences(folder, run_folder.differences(self.prepared.recipe, fingerprints, folder))
            self._refuse_finished(state)
        self.tell(Preparing("loading the model"))
        self.learner.prepare(self.tell)
        self.progress.packed = self.learner.packs_rows
        if saved:
            self._restore(saved, state)
        self.prepared = settled(self.prepared, packed=self.progress.packed)
        self.learner.limit(self.prepared.held_bytes, self.prepared.plan.cache_bytes)
        run_folder.write_identity(folder, self.prepared.recipe, self.learner.device, fingerprints)
        rewind(folder / run_folder.METRICS, self.progress.step)

    def _refuse_finished(self, state: dict[str, Any]) -> None:
        step, total = state.get("progress", {}).get("step", 0), self.prepared.pace.total
        if step >= total:
            raise BadRun(
                str(self.folder),
                expected="a run with steps left",
                found=f"one that has done its {total:,} steps",
                remedy="Choose another --out. With a constant learning rate, a larger --max-steps goes on with it.",
            )

    def _restore(self, saved: Path, state: dict[str, Any]) -> None:
        weights, optimizer = saved / checkpoint.WEIGHTS, saved / checkpoint.OPTIMIZER
        checkpoint.check_tensors(weights, (tensor.info for tensor in self.learner.weights()))
        checkpoint.check_tensors(optimizer, (tensor.info for tensor in self.learner.optimizer_state()))
        self.learner.restore(weights, optimizer, state["learner"])
        self.progress = Progress(**state["progress"])

    def _train_until_the_end(self, requests: StopRequests) -> End:
        try:
            self._train_and_save(requests)
        except NotFinite as error:
            return self._end("stopped", self._not_finite(error))
        except OSError as error:
            return self._end("stopped", self._disk_fault(error))
        except TooLarge as error:
            return self._end("stopped", self._too_large(error))
        except RunStopped as error:
            return self._end("stopped", error)
        if requests.exit_code is not None and not self._complete:
            message = f"Resume with: mlxtune train --resume {self.folder}"
            return self._end("interrupted", message=message, exit_code=requests.exit_code)
        early = self.progress.step < self.prepared.pace.total
        return self._end("patience" if early else "done")

    @property
    def _complete(self) -> bool:
        return self.progress.step >= self.prepared.pace.total

    def _train_and_save(self, requests: StopRequests) -> None:
        """Train to the end or to where it stops; what is saved then is on the disk, whatever ended it."""
        try:
            self._train(requests)
            self._save()
            self.saving.wait()
            if not self.prepared.feed.valid or not self.adapter.exists():
                self._save_adapter()
        except TooLarge:
            self._save()
            raise
        finally:
            self.saving.wait()

    def _train(self, requests: StopRequests) -> None:
        recipe, feed, paces = self.prepared.recipe, self.prepared.feed, self.prepared.pace
        guard = self.prepared.guard
        guard.before_bytes = self.learner.memory().peak_memory_bytes

        def check(step: int, window: Sequence[tuple[int, ...]]) -> None:
            guard.check((run_shape.micro_batch(feed.train, batch) for batch in window), step)

        for event in engine.train(self.learner, feed, recipe.train, recipe.schedule, self.progress, check):
            self.tell(event)
            self.saving.look()
            if isinstance(event, Step):
                guard.note(event.memory)
            if isinstance(event, Eval) and event.best:
                self._save_adapter()
            if requests.signal is not None and isinstance(event, Step | Eval):
                return
            due = self.progress.step % recipe.checkpoint.save_every == 0 and self.progress.step > 0
            if due and isinstance(event, Step | Eval) and not engine.eval_is_due(feed, self.progress, paces):
                self._save()

    def _save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        state = {
            "progress": asdict(self.progress),
            "learner": self.learner.scalars(),
            "fingerprints": self.prepared.fingerprints,
        }
        self.saving.save_checkpoint(self.progress.step, state)

    def _save_adapter(self) -> None:
        about = {
            "base_model": self.prepared.recipe.model.name,
            "step": self.progress.step,
            "eval_loss": self.progress.best_loss,
        }
        self.saving.save_adapter(about)

    def _not_finite(self, error: NotFinite) -> RunStopped:
        result, rows = error.result, [self.prepared.dataset.train[row].source for row in error.rows]
        return RunStopped(
            f"step {error.step:,}",
            expected="a finite loss and gradient",
            found=f"loss {result.loss.loss_sum / result.loss.n_tokens}, gradient norm {result.grad_norm}",
            remedy=f"The batch's rows: {', '.join(rows)}.\n{self._last_good()}\n"
            "Look at these rows, lower --learning-rate, or give --clip-norm.",
        )

    def _too_large(self, error: TooLarge) -> RunStopped:
        remedy = f"{self._last_good()} --grad-checkpoint or a larger --memory-limit go on from it:"
        remedy += f"\nmlxtune train --resume {self.folder} --grad-checkpoint\nFor a new run: {LOWER}"
        return RunStopped(error.where, expected=error.expected, found=error.found, remedy=remedy)

    def _disk_fault(self, error: OSError) -> RunStopped:
        return RunStopped(
            str(error.filename or self.folder),
            expected="to write the files of the run",
            found=error.strerror or str(error),
            remedy=f"{self._last_good()}\nMake room and resume with: mlxtune train --resume {self.folder}",
        )

    def _last_good(self) -> str:
        saved = self.saving.saved
        return f"The last good checkpoint: {saved}." if saved else "There is no checkpoint yet."

    def _end(self, status: str, error: MlxtuneError | None = None, *, message: str = "", exit_code: int = 0) -> End:
        progress = self.progress
        return End(
            status=status,
            steps=progress.step,
            tokens=progress.tokens,
            final_loss=progress.last_loss,
            best_eval_loss=progress.best_loss,
            best_step=progress.best_step,
            wall_seconds=progress.seconds,
            memory=self.learner.memory(),
            run=str(self.folder),
            adapter=str(self.adapter) if self.adapter.exists() else None,
            message=str(error) if error else message,
            exit_code=error.exit_code if error else exit_code,
        )
