"""What trains: fine_tune_type, num_layers and lora_parameters as a strategy."""

from typing import Any

from mlxtune.adapters.adapter import FULL, KINDS
from mlxtune.recipe.from_mlx_lm.work import Translation


def strategy(work: Translation) -> None:
    """fine_tune_type full is last-n here: mlx-lm trains the last layers whole, and nothing outside them."""
    kind, layers = work.value("fine_tune_type"), work.value("num_layers")
    if type(layers) is not int:
        work.refuse("num_layers", "a whole number, or -1 for all layers", repr(layers))
        return
    last_n = layers if layers > 0 else "all"
    if layers == 0:
        work.notes.append("num_layers: 0 is all layers in mlx-lm, so it is here.")
    if isinstance(kind, str) and kind in KINDS:
        work.recipe["strategy"] = {"name": kind, "last_n": last_n, **_settings(work)}
    elif kind == FULL:
        work.recipe["strategy"] = {"name": "last-n", "last_n": last_n, "head": False}
        work.notes.append("fine_tune_type full: mlx-lm trains the layers alone; here the final norm trains too.")
        if work.given.get("lora_parameters"):
            work.notes.append("lora_parameters: nothing reads them with fine_tune_type full.")
    else:
        remedy = "lora is the nearest." if isinstance(kind, str) else ""
        work.refuse("fine_tune_type", " or ".join([*KINDS, FULL]), repr(kind), remedy)


def _settings(work: Translation) -> dict[str, Any]:
    """rank, scale and dropout, which mlx-lm wants all three of, and the keys as targets."""
    given = work.value("lora_parameters")
    if not work.is_section("lora_parameters", given):
        return {}
    needed = ("rank", "scale", "dropout")
    if "alpha" in given:
        work.refuse("lora_parameters.alpha", "scale", "alpha", "scale is alpha / rank.")
    work.refuse_unknown("lora_parameters", given, (*needed, "keys", "alpha"))
    if absent := [key for key in needed if given.get(key) is None]:
        work.refuse("lora_parameters", "rank, scale and dropout", f"no {', no '.join(absent)}")
    made = {key: given.get(key) for key in needed}
    return made if given.get("keys") is None else {**made, "target": given["keys"]}
