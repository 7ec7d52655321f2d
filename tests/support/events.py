"""A made-up run, as the engine and the run would tell it."""

import math
from collections.abc import Iterator
from typing import Any

from mlxtune.events import Checkpoint, End, Eval, Event, Memory, Notice, Start, Step

GB = 10**9
MEMORY = Memory(30 * GB, 34 * GB, GB)


def start(**changed: Any) -> Start:
    told: dict[str, Any] = {
        "run": "runs/story",
        "model": "dolphin-8b",
        "backend": "mlx",
        "device": "Apple M3 Max, 64 GB",
        "precision": "bf16",
        "strategy": "last 4 of 32 layers, final norm, head",
        "trainable_tensors": 38,
        "trainable_parameters": 1_397_796_864,
        "frozen_tensors": 253,
        "frozen_parameters": 6_632_464_384,
        "trainable_bytes": 2_795_593_728,
        "frozen_bytes": 13_264_928_768,
        "gradient_bytes": 2_795_593_728,
        "optimizer_bytes": 11_182_374_912,
        "full_bytes": 96_363_134_976,
        "train_rows": 950,
        "valid_rows": 50,
        "skipped_rows": 3,
        "steps": 1000,
        "first_step": 1,
        "steps_per_epoch": 238,
        "padding_waste": 0.031,
        "memory_limit_bytes": 48 * GB,
        "predicted_peak_bytes": 31 * GB,
        "memory": Memory(17 * GB, 18 * GB, 0),
        "notes": ("No validation file: 50 of 1,000 rows were set aside.",),
    }
    return Start(**told | changed)


def step(number: int, **changed: Any) -> Step:
    told: dict[str, Any] = {
        "step": number,
        "epoch": 1 + (number - 1) // 238,
        "loss": 1.2 + 1.6 * math.exp(-number / 160),
        "tokens": 1000,
        "tokens_per_second": 690.0,
        "learning_rate": 1e-5,
        "grad_norm": 1.1,
        "memory": MEMORY,
        "seconds": 1.45,
    }
    return Step(**told | changed)


def evaluation(number: int, best: bool = True) -> Eval:
    loss = 1.25 + 1.6 * math.exp(-number / 180)
    return Eval(number, loss, math.exp(loss), tokens=5120, rows=50, seconds=4.2, best=best, memory=MEMORY)


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(number, f"runs/story/checkpoints/{number:06d}", bytes=14 * GB, seconds=3.1, memory=MEMORY)


def end(**changed: Any) -> End:
    told: dict[str, Any] = {
        "status": "done",
        "steps": 1000,
        "tokens": 1_000_000,
        "final_loss": 1.2031,
        "best_eval_loss": 1.2562,
        "best_step": 1000,
        "wall_seconds": 1495.0,
        "memory": MEMORY,
        "run": "runs/story",
        "adapter": "runs/story/adapter",
    }
    return End(**told | changed)


def run(steps: int = 1000, until: int | None = None) -> Iterator[Event]:
    """A whole run, or one that breaks off after `until` steps."""
    yield start(steps=steps)
    yield evaluation(0)
    for number in range(1, (until or steps) + 1):
        yield step(number)
        if number == 120:
            yield Notice(number, "The gradient norm is 40 times its mean.")
        if number % 100 == 0:
            yield evaluation(number)
            yield checkpoint(number)
    if until is None:
        yield end(steps=steps)


def odd_events() -> Iterator[Event]:
    """Values that a run should never tell, but will one day."""
    nan, inf = math.nan, math.inf
    yield start(steps=0, first_step=1, steps_per_epoch=0, padding_waste=nan, memory_limit_bytes=0, notes=("\x1b[2J",))
    yield start(trainable_parameters=0, frozen_parameters=0, trainable_bytes=0, frozen_bytes=0, gradient_bytes=0)
    yield start(model="[bold]a[/b] \x1b[31m\n", run="", strategy="")
    for number, odd in enumerate((nan, inf, -inf, 0.0, -1.0, 1e300), start=1):
        yield step(number, loss=odd, grad_norm=odd, learning_rate=odd, tokens_per_second=odd, seconds=odd, tokens=0)
        yield Eval(number, odd, odd, tokens=0, rows=0, seconds=odd, best=True, memory=MEMORY)
        yield Checkpoint(number, "", bytes=0, seconds=odd, memory=MEMORY)
    yield step(5_000_000, skipped=True, memory=Memory(0, 0, 0))
    yield Notice(0, "")
    yield end(status="a new one", final_loss=None, best_eval_loss=None, best_step=None, wall_seconds=nan, adapter=None)
    yield end(final_loss=nan, best_eval_loss=inf, wall_seconds=0.0, message="two\nlines")
