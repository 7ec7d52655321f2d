"""What the reports say of a run's start and end: names and texts, the same in a panel and a pipe."""

import shlex
from typing import NamedTuple

from mlxtune import format as words
from mlxtune.events import End, Start
from mlxtune.format import count, counted, decimals, duration, line, share, size

STATUS = {
    "done": "done",
    "patience": "stopped early, as validation got no better",
    "interrupted": "interrupted",
    "stopped": "stopped",
    "diverged": "diverged, and learned nothing",
}


class Fact(NamedTuple):
    name: str
    text: str


def opening(start: Start) -> list[Fact]:
    """What runs, on what, how much of it trains, and for how long."""
    return [
        Fact("model", line(start.model)),
        Fact("strategy", line(start.strategy)),
        Fact("device", f"{line(start.device)}, {start.backend}, {start.precision}"),
        Fact("state", _state(start)),
        Fact("memory", f"{size(start.predicted_peak_bytes)} at its peak, of {size(start.memory_limit_bytes)}"),
        Fact("data", _data(start)),
        Fact("steps", _steps(start)),
        Fact("run", line(start.run)),
        *(Fact("note", line(note)) for note in start.notes),
    ]


def anatomy(start: Start) -> list[tuple[str, ...]]:
    """What trains and what is frozen, as a table: a row of headings, then trainable, frozen and total."""
    tensors = (start.trainable_tensors, start.frozen_tensors)
    parameters = (start.trainable_parameters, start.frozen_parameters)
    weights = (start.trainable_bytes, start.frozen_bytes)
    whole = max(1, sum(parameters))
    columns = [
        ("", "trainable", "frozen", "total"),
        ("tensors", *map(count, (*tensors, sum(tensors)))),
        ("parameters", *map(count, (*parameters, sum(parameters)))),
        ("share", *(share(part / whole) for part in parameters), ""),
        ("weights", *map(size, (*weights, sum(weights)))),
        ("gradients", size(start.gradient_bytes), words.UNKNOWN, size(start.gradient_bytes)),
        ("optimizer", size(start.optimizer_bytes), words.UNKNOWN, size(start.optimizer_bytes)),
    ]
    return list(zip(*columns, strict=True))


def ending(end: End) -> list[Fact]:
    """What came of the run, and where it lies."""
    facts = [
        Fact("final loss", decimals(end.final_loss)),
        Fact("validation", _best(end)),
        Fact("trained", f"{counted(end.steps, 'step')}, {counted(end.tokens, 'token')}"),
        Fact("time", duration(end.wall_seconds)),
        Fact("memory", f"{size(end.peak_memory_bytes)} at its peak"),
        Fact("run", line(end.run)),
    ]
    facts += [Fact("adapter", _adapter(end))] if end.adapter else []
    facts += [Fact("last", f"{line(end.adapter_last)}, of step {count(end.steps)}")] if end.adapter_last else []
    return facts + ([Fact("note", line(end.message))] if end.message else [])


def next_command(start: Start | None, end: End) -> str | None:
    """The command that tries the result, quoted for a shell; None where there is none, or nothing was learned.

    A run that had ended before has no start.
    """
    model = start.model if start else end.model
    if end.adapter is None or end.learned is False or not model:
        return None
    command = ["mlxtune", "generate", "--model", line(model), "--adapter", line(end.adapter)]
    return f'{shlex.join(command)} --prompt "..."'


def _state(start: Start) -> str:
    held = start.trainable_bytes + start.frozen_bytes + start.gradient_bytes + start.optimizer_bytes
    said = f"{size(held)} of weights, gradients and optimizer state"
    if start.frozen_parameters == 0 or held <= 0:
        return said
    return f"{said}, {start.full_bytes / held:.1f} times less than training everything ({size(start.full_bytes)})"


def _data(start: Start) -> str:
    skipped = f", {count(start.skipped_rows)} skipped" if start.skipped_rows else ""
    rows = f"{counted(start.train_rows, 'row')}, {count(start.valid_rows)} for validation"
    padding = f"; {share(start.padding_waste)} of what is computed is padding" if start.padding_waste > 0 else ""
    return f"{rows}{skipped}{padding}"


def _steps(start: Start) -> str:
    span = count(start.steps)
    if start.first_step > 1:
        span = f"{count(start.first_step)} to {span}, resumed after step {count(start.first_step - 1)}"
    if start.steps_per_epoch < 1:
        return span
    return f"{span}; {epochs(start.steps, start.steps_per_epoch)}"


def epochs(steps: int, per_epoch: int) -> str:
    """How far through the rows a run goes.

    >>> epochs(150, 100), epochs(100, 100), epochs(3, 262)
    ('1.5 epochs of 100 steps', '1 epoch of 100 steps', '1.1% of an epoch of 262 steps')
    """
    done, of = steps / per_epoch, f"of {counted(per_epoch, 'step')}"
    if done < 1:
        return f"{share(done)} of an epoch {of}"
    return f"1 epoch {of}" if steps == per_epoch else f"{done:,.1f}".removesuffix(".0") + f" epochs {of}"


def _best(end: End) -> str:
    if end.best_eval_loss is None or end.best_step is None:
        return "none"
    before = "" if end.start_loss is None else f"{decimals(end.start_loss)} before training; "
    return f"{before}{decimals(end.best_eval_loss)} at best, after step {count(end.best_step)}"


def _adapter(end: End) -> str:
    said = line(end.adapter or "")
    if end.adapter_step is None:
        return said
    checked = ", not validated" if end.start_loss is not None and end.best_step != end.adapter_step else ""
    return f"{said}, of step {count(end.adapter_step)}{checked}"
