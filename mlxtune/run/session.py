"""One training run from start to end: its folder, its checkpoints, its end, whatever ends it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlxtune import engine
from mlxtune.engine import NotFinite
from mlxtune.errors import BadRun, BadSetting, MlxtuneError, RunStopped
from mlxtune.events import End, Eval, Event, Notice, Step
from mlxtune.memory.guard import TooLarge
from mlxtune.planning import shape as run_shape
from mlxtune.recipe.recipe import Recipe, build
from mlxtune.report.base import Report, Reports
from mlxtune.report.log import Log, last_end
from mlxtune.run import ending, outcome
from mlxtune.run import folder as run_folder
from mlxtune.run import identity as run_identity
from mlxtune.run.beginning import Begun, begin
from mlxtune.run.prepare import Prepared, prepare, start_event
from mlxtune.run.results import Results
from mlxtune.run.sampler import Sampler
from mlxtune.run.signals import Asked, StopRequests
from mlxtune.storage.documents import user_path


def start(recipe: Recipe, reports: Sequence[Report] = (), resume: str = "auto") -> End:
    """Run a recipe. resume: "auto" goes on with the run in run.out if there is one, "never" refuses it.

    Raises MlxtuneError for bad input, before anything is written. A run that stops by itself or is asked to stop gives
    an End that says so, with its exit code.
    """
    out = recipe.run.out
    folder = user_path(out, BadSetting, "run.out") if out else run_folder.default_folder(recipe)
    new = resume == "never" or not out  # another process may take the same name meanwhile
    run_folder.check(folder, new=new)
    prepared = prepare(run_identity.at_its_time(recipe, folder), Reports(reports))
    weights, optimizer = prepared.size.trainable_bytes, prepared.size.optimizer_bytes
    run_folder.check_room(folder, weights + optimizer, weights, recipe.checkpoint.keep)
    with run_folder.claim(folder, new=new):
        return _in_its_folder(prepared, folder, reports)


def resume(folder: Path, overrides: dict[str, Any], reports: Sequence[Report] = ()) -> End:
    """Go on with the run in a folder, under the settings that it was begun with."""
    folder = user_path(folder, BadRun)
    tree = run_identity.saved_recipe(folder)
    return start(build(tree, {**overrides, "run.out": str(folder)}, str(folder)), reports)


def _logged(log: Log, end: End) -> End:
    """The end, once the log has it. On a full disk it says so, unless it says that something else went wrong."""
    try:
        log(end)
    except RunStopped as fault:
        return end if end.exit_code else replace(end, status="stopped", message=str(fault), exit_code=fault.exit_code)
    return end


def _in_its_folder(prepared: Prepared, folder: Path, reports: Sequence[Report]) -> End:
    """Begin or go on, train, end; of a run that has ended, its end again. Memory is held to the plan all the while."""
    told = Reports(reports)
    if run_identity.is_run(folder):
        lines = run_identity.differences(prepared.recipe, prepared.fingerprints, folder)
        run_identity.refuse_differences(folder, lines)
        if (end := _finished(prepared, folder)) is not None:
            told(end)
            return end
    with _held(prepared):
        begun = begin(prepared, folder, told)
    with _held(begun.prepared):
        return _Session(begun, folder, reports, told).run()


def _held(prepared: Prepared) -> AbstractContextManager[None]:
    return prepared.blueprint.limited(prepared.held_bytes, prepared.plan.cache_bytes)


def _finished(prepared: Prepared, folder: Path) -> End | None:
    """How the run ended, where it has nothing left to do under these settings."""
    end, patience = last_end(folder / run_folder.METRICS), prepared.recipe.train.patience
    if end is None or end.status not in ("done", "patience", "diverged"):
        return None
    before = run_identity.saved_recipe(folder)["train"]["patience"]
    out_of_patience = patience is not None and before is not None and patience <= before
    if end.steps < prepared.pace.total and not out_of_patience:
        return None
    return replace(end, message=f"Already done. {end.message}".strip())


class _Session:
    """A run from its next step on. shown: the reports; tell: these, and the log."""

    def __init__(self, begun: Begun, folder: Path, shown: Sequence[Report], tell: Reports) -> None:
        self.prepared, self.learner, self.progress, self.saving = begun
        self.folder, self.shown, self.tell = folder, Reports(shown), tell
        self.begun_at = self.progress.step  # of the checkpoint that this sitting goes on from
        self.results = Results(begun, self.shown)
        self.sampler = Sampler(self.prepared, self.learner, self.progress, tell)

    def run(self) -> End:
        """To the end, whatever ends it."""
        log = Log(self.folder / run_folder.METRICS)
        with closing(log), closing(self.saving), StopRequests() as requests:
            self.tell.all.append(log)
            end = _logged(log, self._train_until_the_end(requests))
            self.shown(end)
        return end

    def _train_until_the_end(self, requests: StopRequests) -> End:
        try:
            self.tell(start_event(self.prepared, str(self.folder), self.progress, self.learner.memory()))
            error = self._train_to_a_stop(requests)
            self._save_the_result(requests)
        except Asked:
            with suppress(OSError):
                self.saving.wait()  # for what is on its way to the disk already
            return self._end("interrupted", message=self._interrupted(at_once=True), exit_code=requests.exit_code or 0)
        except NotFinite as fault:
            return self._end("stopped", self._not_finite(fault))
        except OSError as fault:
            return self._end("stopped", ending.disk_fault(fault, self.folder, self.saving.saved))
        except RunStopped as fault:
            return self._end("stopped", fault)
        if error is not None:
            return self._end("stopped", ending.too_large(error, self.folder, self.saving.saved))
        if requests.exit_code is not None and not self._complete:
            return self._end("interrupted", message=self._interrupted(at_once=False), exit_code=requests.exit_code)
        return self._end("done" if self.progress.step >= self.prepared.pace.total else "patience")

    @property
    def _complete(self) -> bool:
        """Whether nothing is left to do, the last validation included."""
        return self.progress.step >= self.prepared.pace.total and not self._eval_is_due

    @property
    def _eval_is_due(self) -> bool:
        return engine.eval_is_due(self.prepared.feed, self.progress, self.prepared.pace)

    def _train_to_a_stop(self, requests: StopRequests) -> TooLarge | None:
        """Train to the end, or to where it is asked to stop or has to. What was begun to be saved is on the disk."""
        try:
            self._train(requests)
        except TooLarge as error:
            return error
        except Asked:  # in a validation, where no step is lost
            if requests.times > 1:
                raise
        finally:
            requests.at_once = False
        return None

    def _train(self, requests: StopRequests) -> None:
        recipe, feed, guard = self.prepared.recipe, self.prepared.feed, self.prepared.guard
        guard.before_bytes = self.learner.memory().peak_memory_bytes

        def check(step: int, window: Sequence[tuple[int, ...]]) -> None:
            requests.at_once = False  # the step that begins is worth waiting for
            guard.check((run_shape.micro_batch(feed.train, batch) for batch in window), step)

        requests.at_once = True  # in the samples and the validation before the first step
        if requests.signal is not None:
            return
        self.sampler.look()
        for event in engine.train(self.learner, feed, recipe.train, recipe.schedule, self.progress, check):
            requests.at_once = False
            self._hear(event)
            if isinstance(event, Step):
                requests.at_once = True  # no step is lost
                self.sampler.look()
                requests.at_once = False
            is_pause = isinstance(event, Step | Eval)
            due = self.progress.step % recipe.checkpoint.save_every == 0 and self.progress.step > 0
            if requests.signal is None and is_pause and due and not self._eval_is_due:
                self._save()
            requests.at_once = True  # in what may come now, a validation
            if requests.signal is not None and is_pause:
                return

    def _hear(self, event: Event) -> None:
        if isinstance(event, Step):
            self.prepared.guard.note(event.memory)
        if isinstance(event, Step | Eval):
            self.saving.approve()  # the weights of the checkpoint before this step were computed with
        self.tell(event)
        self.saving.look()
        if isinstance(event, Eval):
            self.results.take(event)

    def _save_the_result(self, requests: StopRequests) -> None:
        """A checkpoint and the adapters, of the best weights and of the last, on the disk."""
        if self.progress.step == 0:
            return
        if requests.signal is not None:
            self.tell(Notice(self.progress.step, "Saving; asked once more, it stops at once, without a checkpoint."))
        self._save()
        self.results.finish(in_haste=requests.signal is not None)
        self.saving.wait()

    def _save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        state = {
            "progress": asdict(self.progress),
            "learner": self.learner.scalars(),
            "fingerprints": self.prepared.fingerprints,
        }
        self.saving.save_checkpoint(self.progress.step, state)
        if self.progress.evaluated_step == self.progress.step:
            self.saving.approve()

    def _not_finite(self, error: NotFinite) -> RunStopped:
        rows = [self.prepared.dataset.train[row].source for row in error.rows]
        aside = self.saving.set_aside()
        return ending.not_finite(error, rows, self.saving.good, aside)

    def _interrupted(self, *, at_once: bool) -> str:
        saved = self.saving.saved
        step = int(saved.name) if saved else None
        return ending.interrupted(self.folder, self.progress.step, self.begun_at, step, at_once=at_once)

    def _end(self, status: str, error: MlxtuneError | None = None, *, message: str = "", exit_code: int = 0) -> End:
        progress, results = self.progress, self.results
        losses, kept = results.losses, results.best or results.last
        said = outcome.words(losses, self.prepared.recipe, progress.step, self._skipped) if progress.step else ""
        if losses.diverged and status in ("done", "patience"):
            status, exit_code = "diverged", RunStopped.exit_code
        return End(
            status=status,
            steps=progress.step,
            tokens=progress.tokens,
            final_loss=progress.last_loss,
            best_eval_loss=losses.best,
            best_step=results.best.step if results.best and losses.best is not None else None,
            wall_seconds=progress.seconds,
            memory=self.learner.memory(),
            run=str(self.folder),
            adapter=str(kept.folder) if kept else None,
            message="\n".join(part for part in (said, str(error) if error else message) if part),
            exit_code=error.exit_code if error else exit_code,
            model=self.prepared.recipe.model.name or "tiny",
            adapter_step=kept.step if kept else None,
            adapter_last=str(results.last.folder) if results.last and results.last is not kept else None,
            start_loss=losses.before,
            last_eval_loss=losses.last,
            learned=losses.learned,
        )

    @property
    def _skipped(self) -> int:
        """Steps that updated nothing, as their gradient overflowed."""
        counts = self.learner.scalars()
        return int(counts["steps"] - counts["updates"])
