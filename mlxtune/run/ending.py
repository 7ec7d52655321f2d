"""What is said where a run ends before its last step: what was expected, what was found, and how to go on."""

from collections.abc import Sequence
from pathlib import Path

from mlxtune.engine import NotFinite
from mlxtune.errors import RunStopped
from mlxtune.format import count
from mlxtune.memory.guard import LOWER, TooLarge


def not_finite(error: NotFinite, rows: Sequence[str], good: Path | None, aside: str) -> RunStopped:
    """A loss, gradient or weight that is NaN or infinite. rows: names of the step's; aside: a checkpoint to doubt."""
    lines = [f"The batch's rows: {', '.join(rows)}."] if rows else []
    lines.append(last_good(good))
    if aside:
        lines.append(f"The one after it does not compute; it is kept as {aside}.")
    if error.step == 0:
        lines.append("Nothing was trained yet: look at the validation rows, or give --precision bf16 or fp32.")
    else:
        lines.append("Lower --learning-rate, or give --clip-norm" + ("; look at these rows." if rows else "."))
    return RunStopped(f"step {error.step:,}", expected=error.what, found=error.found, remedy="\n".join(lines))


def too_large(error: TooLarge, folder: Path, good: Path | None) -> RunStopped:
    """A batch that does not fit the memory that the run may take."""
    remedy = f"{last_good(good)} --grad-checkpoint or a larger --memory-limit go on from it:"
    remedy += f"\nmlxtune train --resume {folder} --grad-checkpoint\nFor a new run: {LOWER}"
    return RunStopped(error.where, expected=error.expected, found=error.found, remedy=remedy)


def disk_fault(error: OSError, folder: Path, good: Path | None) -> RunStopped:
    """A file of the run that could not be written."""
    return RunStopped(
        str(error.filename or folder),
        expected="to write the files of the run",
        found=error.strerror or str(error),
        remedy=f"{last_good(good)}\nMake room and resume with: mlxtune train --resume {folder}",
    )


def interrupted(folder: Path, step: int, begun_at: int, saved: int | None, *, at_once: bool) -> str:
    """step: the last that was done; begun_at: the last before this sitting; saved: the last with a checkpoint."""
    resume = f"Resume with: mlxtune train --resume {folder}"
    if step == 0:
        return f"Interrupted before the first step: nothing was trained. {resume}"
    if saved == step:
        before = f"Interrupted before step {count(step + 1)}: all is as it was. " if step == begun_at else ""
        return before + resume
    kept = f"the last is of step {count(saved)}" if saved else "there is none"
    stopped = "Stopped at once, without" if at_once else "There is no"
    return f"{stopped} a checkpoint of step {count(step)}: {kept}. {resume}"


def last_good(good: Path | None) -> str:
    """Where to find it."""
    return f"The last good checkpoint: {good}." if good else "There is no checkpoint yet."
