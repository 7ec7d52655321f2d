"""Whether an adapter is one of a model: both backends ask before they put it in.

What mlx-lm's adapters have besides whole parameters and LoRA of linear modules (DoRA, LoRA of embeddings and experts)
is for the backend to take or to refuse.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mlxtune.errors import BadModel
from mlxtune.models.fit import Shape
from mlxtune.models.folder import some
from mlxtune.models.weights import TensorInfo, header
from mlxtune.storage import documents

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
KINDS = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
PARTNER = {"lora_a": "lora_b", "lora_b": "lora_a"}  # that a tensor is nothing without

Tensors = Mapping[str, TensorInfo]
Shapes = Mapping[str, Shape]


class Lora(BaseModel, frozen=True):
    """What mlx-lm's format has of a LoRA."""

    model_config = KINDS

    rank: Annotated[int, Field(ge=1, le=100_000)]
    scale: Annotated[float, Field(ge=-1e9, le=1e9)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    keys: list[str] | None = None


class About(BaseModel, frozen=True):
    """adapter_config.json, as far as it is read."""

    model_config = KINDS

    fine_tune_type: str = "lora"
    num_layers: Annotated[int, Field(ge=-1, le=100_000)]
    lora_parameters: dict[str, Any] | None = None
    mlxtune: dict[str, Any] | None = None

    @property
    def untied_head(self) -> bool:
        return self.mlxtune is not None and self.mlxtune.get("untied_head") is True

    @property
    def end_of_turn(self) -> str | None:
        """What --end-of-turn named when it was trained."""
        named = (self.mlxtune or {}).get("end_of_turn")
        return named if isinstance(named, str) else None


def read(folder: Path) -> About:
    """What an adapter's folder says of it. Raises BadModel that names the key of each bad value."""
    path = folder / CONFIG
    return documents.check(documents.read_object(path, BadModel), About, path, BadModel)


def lora(folder: Path, about: About) -> Lora:
    """The LoRA of an adapter's config. Raises BadModel, as `read` does."""
    return documents.check(about.lora_parameters or {}, Lora, f"{folder / CONFIG}: lora_parameters", BadModel)


def check(folder: Path, parameters: Shapes, linears: Mapping[str, tuple[int, int]]) -> None:
    """Raises BadModel with the tensors that have no place in the model. linears: module names to (in, out)."""
    about, tensors = read(folder), header(folder / WEIGHTS)
    match about.fine_tune_type:
        case "full":
            faults = _misfits(tensors, parameters)
        case "lora":
            faults = _lora_misfits(tensors, parameters, linears, lora(folder, about).rank)
        case _:
            return
    if faults:
        raise BadModel(
            str(folder / WEIGHTS),
            expected="an adapter of this model",
            found=f"{len(faults):,} of {len(tensors):,} tensors with no place in it: {some(sorted(faults), limit=3)}",
            remedy="Name with --model the model that the adapter was trained on.",
        )


def _misfits(tensors: Tensors, needed: Shapes) -> list[str]:
    """Tensors that the model has no parameter for, or one of another shape."""
    unlike = [
        f"{name} {[*info.shape]} for {[*needed[name]]}"
        for name, info in tensors.items()
        if name in needed and info.shape != needed[name]
    ]
    return [*(name for name in tensors if name not in needed), *unlike]


def _lora_misfits(tensors: Tensors, parameters: Shapes, linears: Mapping[str, tuple[int, int]], rank: int) -> list[str]:
    """The same for LoRA, and halves of pairs. Only the shapes beside linear modules are known here."""
    matrices = {name.removesuffix(".weight") for name, shape in parameters.items() if len(shape) > 1}
    modules = {name: name.rpartition(".") for name in tensors}
    lora = {name for name, (module, _, end) in modules.items() if end in PARTNER and module in matrices}
    known: dict[str, Shape] = {}
    for module, (n_in, n_out) in linears.items():
        known |= {f"{module}.lora_a": (n_in, rank), f"{module}.lora_b": (rank, n_out)}
    halves = [name for name in lora if f"{modules[name][0]}.{PARTNER[modules[name][2]]}" not in tensors]
    needed = {name: known.get(name, tensors[name].shape) for name in lora}
    return [*_misfits(tensors, needed), *(f"{name} without its other half" for name in halves)]
