"""mlx-lm's training YAML as a recipe: every key is mapped or refused, and what differs in meaning is said.

The keys and their defaults are those of mlx_lm/lora.py; how they act is read from mlx_lm/tuner/trainer.py. A key that
is absent or null has mlx-lm's default here too, so the recipe trains what the file trained there.
"""

from collections.abc import Mapping
from typing import Any

from mlxtune.errors import raise_all
from mlxtune.format import counted
from mlxtune.recipe.from_mlx_lm.keys import ALWAYS, DEFAULTS, IN_ITERATIONS, REFUSED, SAME
from mlxtune.recipe.from_mlx_lm.optimizer import optimizer, schedule
from mlxtune.recipe.from_mlx_lm.strategy import strategy
from mlxtune.recipe.from_mlx_lm.work import Recipe, Translation


def translate(config: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """The recipe of an mlx-lm training file, as sections of keys, and what the user should know about it.

    Raises BadSetting or Faults with everything that cannot be kept.

    >>> recipe, notes = translate({"model": "Qwen/Qwen3-0.6B", "data": "rows", "num_layers": -1, "iters": 100})
    >>> recipe["strategy"]["last_n"], recipe["train"]["max_steps"]
    ('all', 100)
    """
    work = Translation(config)
    work.refuse_unknown("", config, DEFAULTS)
    _refuse_what_cannot_be(work)
    for key, target in SAME.items():
        work.set(target, work.value(key))
    steps = _cadence(work)
    _evaluation(work)
    strategy(work)
    optimizer(work)
    schedule(work, steps)
    _loss(work)
    raise_all(work.faults)
    return work.recipe, [*work.notes, *ALWAYS]


def _refuse_what_cannot_be(work: Translation) -> None:
    for key, remedy in REFUSED.items():
        if work.value(key) != DEFAULTS[key]:
            work.refuse(key, f"{DEFAULTS[key]!r} or no such key", repr(work.value(key)), remedy)
    if work.given.get("train") is False:
        work.refuse("train", "true", "false", "To evaluate only, run `mlxtune eval`.")


def _cadence(work: Translation) -> int:
    """mlx-lm's iterations are micro-batches, steps here are updates; the number of steps comes back."""
    accumulate = work.count("grad_accumulation_steps")
    work.set("train.grad_accum", accumulate)
    work.set("train.clip_norm", None)  # mlx-lm never clips
    for key, target in IN_ITERATIONS.items():
        iterations = work.count(key)
        work.set(target, max(1, iterations // accumulate))
        if accumulate > 1:
            work.notes.append(f"{key}: {_in_steps(iterations, accumulate)}.")
    if accumulate > 1:
        work.notes.append("Micro-batches count by their tokens; mlx-lm gives each the same weight.")
    return int(work.recipe["train"]["max_steps"])


def _in_steps(iterations: int, accumulate: int) -> str:
    """How many iterations make how many steps, in words.

    >>> _in_steps(1001, 4)
    '1,001 iterations of one micro-batch are 250 steps of 4, rounded down'
    """
    steps = max(1, iterations // accumulate)
    rounded = "" if iterations == steps * accumulate else ", rounded " + ("down" if iterations > accumulate else "up")
    whole = counted(iterations, "iteration")
    be = "is" if iterations == 1 else "are"
    return f"{whole} of one micro-batch {be} {counted(steps, 'step')} of {accumulate}{rounded}"


def _evaluation(work: Translation) -> None:
    batches = work.value("val_batches")
    if type(batches) is not int:
        work.refuse("val_batches", "a whole number", repr(batches))
    elif batches != -1:
        some = counted(batches, "batch", "batches")
        work.notes.append(f"val_batches: all validation rows are used; mlx-lm would take {some} of them.")
    if work.given.get("steps_per_report") is not None:
        work.notes.append("steps_per_report: every step is reported.")
    if work.given.get("test_batches") is not None:
        work.notes.append("test_batches: nothing reads it, as the test rows are not evaluated by training.")
    work.notes.append(f"adapter_path: the run's folder; the adapter is {work.value('adapter_path')}/adapter.")


def _loss(work: Translation) -> None:
    """mlx-lm masks all but the last turn, or nothing."""
    masked = work.value("mask_prompt")
    if not isinstance(masked, bool):
        work.refuse("mask_prompt", "true or false", repr(masked))
    work.set("data.loss_on", "last" if masked else "all")
    which = "on, so only the last turn carries loss" if masked else "off, so prompts carry loss too"
    work.notes.append(f"mask_prompt: {which}, as in mlx-lm; data.loss_on auto is every answer and only those.")
    limit = work.value("max_seq_length")
    work.notes.append(f"max_seq_length: a row whose answer lies beyond {limit} tokens is skipped and counted, not cut.")
