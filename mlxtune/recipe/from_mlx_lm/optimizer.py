"""The optimizer and its schedule: mlx.optimizers' arguments as ours."""

from collections.abc import Mapping
from typing import Any

from mlxtune.recipe.from_mlx_lm.work import Translation

# The arguments of those that are here too, with their defaults (mlx/optimizers/optimizers.py).
ADAM: Mapping[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8, "bias_correction": False}
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "adam": ADAM,
    "adamw": {**ADAM, "weight_decay": 0.01},
    "sgd": {"momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": False},
}


def optimizer(work: Translation) -> None:
    """adam, adamw and sgd have the same names and formulas here; the other optimizers are refused."""
    name = str(work.value("optimizer")).lower()
    if name not in ARGUMENTS:
        work.refuse("optimizer", "adam, adamw or sgd", repr(name), "adamw is the nearest.")
        return
    every = work.value("optimizer_config")
    if not work.is_section("optimizer_config", every):
        return
    for other, settings in every.items():
        if other != name and settings:
            work.notes.append(f"optimizer_config.{other}: nothing reads it with optimizer {name}.")
    given = every.get(name) or {}
    if not work.is_section(f"optimizer_config.{name}", given):
        return
    work.refuse_unknown(f"optimizer_config.{name}", given, ARGUMENTS[name])
    values = {**ARGUMENTS[name], **given}
    work.recipe["optimizer"] = {"name": name, **(_sgd if name == "sgd" else _adam)(work, name, values)}
    if values.get("weight_decay") and work.value("fine_tune_type") == "full":
        work.set("optimizer.decay_norms_and_biases", True)  # mlx-lm decays whatever trains


def _adam(work: Translation, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of adam and adamw."""
    betas = values["betas"]
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        work.refuse(f"optimizer_config.{name}.betas", "two numbers", repr(betas))
        return {}
    if not values["bias_correction"]:
        # Without it the first update is (1 - beta1) g / sqrt((1 - beta2) g^2) = 3.2 times the rate.
        work.notes.append("optimizer: bias correction is on; without it mlx-lm's first steps are three times as large.")
    decay = {"weight_decay": values["weight_decay"]} if name == "adamw" else {}
    return {"beta1": betas[0], "beta2": betas[1], "epsilon": values["eps"], **decay}


def _sgd(work: Translation, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Dampening makes every step smaller by one factor, so that a smaller rate does the same."""
    if values["dampening"]:
        remedy = "Take it out, and multiply the learning rate by 1 - dampening: the steps are the same."
        work.refuse(f"optimizer_config.{name}.dampening", "0 or no such key", repr(values["dampening"]), remedy)
    return {key: values[key] for key in ("momentum", "nesterov", "weight_decay")}


def schedule(work: Translation, steps: int) -> None:
    """lr_schedule, whose first argument is the rate, or a constant learning_rate."""
    given = work.value("lr_schedule")
    if given is None:
        work.recipe["schedule"] = {"name": "constant", "learning_rate": work.value("learning_rate")}
        return
    if not work.is_section("lr_schedule", given):
        return
    work.refuse_unknown("lr_schedule", given, ("name", "arguments", "warmup", "warmup_init"))
    if work.given.get("learning_rate") is not None:
        work.notes.append("learning_rate: nothing reads it beside lr_schedule, whose first argument is the rate.")
    _decay(work, given, _warmup(work, given), steps)


def _warmup(work: Translation, given: Mapping[str, Any]) -> int:
    """The steps of warmup. In mlx-lm they, too, count updates and not micro-batches."""
    warmup, start = given.get("warmup") or 0, given.get("warmup_init") or 0.0
    if type(warmup) is not int or warmup < 0:
        work.refuse("lr_schedule.warmup", "a whole number of steps", repr(warmup))
        return 0
    if warmup:
        work.notes.append(f"lr_schedule: warmup begins at rate / {warmup}; mlx-lm's at {start}, and ends a step later.")
    return warmup


def _decay(work: Translation, given: Mapping[str, Any], warmup: int, steps: int) -> None:
    """cosine_decay(rate, steps, end = 0) and linear_schedule(rate, end, steps), as mlx.optimizers has them."""
    name, arguments = given.get("name"), given.get("arguments")
    orders = {"cosine_decay": ("cosine", (0, 1, 2)), "linear_schedule": ("linear", (0, 2, 1))}
    if not isinstance(name, str) or name not in orders:
        work.refuse("lr_schedule.name", "cosine_decay or linear_schedule", repr(name))
        return
    numbers = list(arguments) if isinstance(arguments, list | tuple) else []
    numbers += [0.0] if name == "cosine_decay" and len(numbers) == 2 else []
    if len(numbers) != 3 or not all(type(number) in (int, float) for number in numbers):
        work.refuse("lr_schedule.arguments", f"the numbers that {name} takes", repr(arguments))
        return
    ours, order = orders[name]
    rate, length, end = (numbers[place] for place in order)
    if end > rate:
        work.refuse("lr_schedule.arguments", "a rate that falls", f"{rate:g} to {end:g}", "To rise, give a warmup.")
    if not steps - warmup - 1 <= length <= steps + 1:
        remedy = "Here the rate falls until the last step. Give that number of steps, or change iters."
        work.refuse("lr_schedule.arguments", f"a decay over the run's {steps - warmup:,} steps", f"{length:,}", remedy)
    work.recipe["schedule"] = {
        "name": ours,
        "learning_rate": float(rate),
        "warmup_steps": warmup,
        "min_learning_rate": float(end),
    }
