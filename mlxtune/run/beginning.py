"""A run's beginning: its learner with the weights in memory, new or as the last checkpoint left it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlxtune.backends.base import Learner
from mlxtune.errors import BadRun
from mlxtune.events import Event, Preparing
from mlxtune.progress import Progress
from mlxtune.report.log import rewind
from mlxtune.run import folder as run_folder
from mlxtune.run import identity as run_identity
from mlxtune.run.prepare import Prepared, as_made
from mlxtune.run.saving import Saving, recover
from mlxtune.storage import checkpoint
from mlxtune.storage.documents import check
from mlxtune.storage.sealed import OTHER_VERSION

NO_CHECKPOINT = "There is no checkpoint in this run's folder: it begins again at step 1."


class Begun(NamedTuple):
    """A run that is ready for its next step. prepared: with what the learner turned out to be."""

    prepared: Prepared
    learner: Learner
    progress: Progress
    saving: Saving


def begin(prepared: Prepared, folder: Path, tell: Callable[[Event], None]) -> Begun:
    """Read the weights, go on from the last checkpoint if there is one, and write what the folder is a run of.

    Raises MlxtuneError for weights or a checkpoint that cannot be used, before the folder is changed.
    """
    found, goes_on = recover(folder), run_identity.is_run(folder)
    tell(Preparing("loading the model"))
    learner = prepared.blueprint.learner(prepared.work, tell)
    progress, notes = _restored(learner, found) if found else (Progress(valid_rows=prepared.feed.n_valid), ())
    if goes_on and not found:
        notes = (NO_CHECKPOINT,)
    prepared = as_made(prepared, learner.decisions, progress.valid_rows)
    run_identity.write_identity(folder, prepared.recipe, learner.device, prepared.fingerprints)
    if damaged := rewind(folder / run_folder.METRICS, progress.step):
        notes = (f"{run_folder.METRICS}: damaged lines were left out, {damaged:,} of them.", *notes)
    saving = Saving(learner, prepared.blueprint, folder, prepared.recipe.checkpoint.keep, tell, found)
    return Begun(prepared._replace(notes=(*notes, *prepared.notes)), learner, progress, saving)


def _restored(learner: Learner, found: checkpoint.Found) -> tuple[Progress, tuple[str, ...]]:
    """Where the run was, with the learner as it was, and what the user should know of it."""
    path, state = found.path, found.state
    progress = check(state["progress"], Progress, path / checkpoint.STATE, BadRun, OTHER_VERSION)
    weights, optimizer = path / checkpoint.WEIGHTS, path / checkpoint.OPTIMIZER
    checkpoint.check_tensors(weights, (tensor.info for tensor in learner.weights()))
    checkpoint.check_tensors(optimizer, (tensor.info for tensor in learner.optimizer_state()))
    return progress, (*found.notes, *learner.restore(weights, optimizer, state["learner"]))
