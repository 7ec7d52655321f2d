"""Whether an adapter is one of a model: both backends ask before they put it in.

What mlx-lm's adapters have besides whole parameters and our kinds on linear modules (other kinds, adapters of
embeddings and experts) is for the backend to take or to refuse.
"""

from collections.abc import Mapping

from mlxtune.adapters.adapter import FULL, KINDS, make, parameters
from mlxtune.adapters.folder import WEIGHTS, Saved
from mlxtune.adapters.kind import Settings
from mlxtune.errors import BadModel
from mlxtune.models.fit import Shape
from mlxtune.models.folder import some
from mlxtune.models.weights import TensorInfo, header

Tensors = Mapping[str, TensorInfo]
Shapes = Mapping[str, Shape]
Linears = Mapping[str, tuple[int, int]]


def check(saved: Saved, model: Shapes, linears: Linears) -> None:
    """Raises BadModel with the tensors that have no place in the model. linears: module names to (in, out)."""
    tensors = header(saved.folder / WEIGHTS)
    if saved.kind == FULL:
        faults = _misfits(tensors, model)
    elif saved.settings is not None:
        faults = _of_kind(saved.kind, saved.settings, tensors, model, linears)
    else:
        return
    if faults:
        raise BadModel(
            str(saved.folder / WEIGHTS),
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


def _of_kind(kind: str, settings: Settings, tensors: Tensors, model: Shapes, linears: Linears) -> list[str]:
    """The same for adapters, and arrays without the others of theirs. Only shapes beside linear modules are known."""
    matrices = {name.removesuffix(".weight") for name, shape in model.items() if len(shape) > 1}
    names = KINDS[kind].NAMES
    modules = {name: module for name in tensors for module, _, end in [name.rpartition(".")] if end in names}
    placed = {name: module for name, module in modules.items() if module in matrices}
    known = parameters(make(kind, module, shape, settings) for module, shape in linears.items())
    needed = {name: known[name].shape if name in known else tensors[name].shape for name in placed}
    alone = [
        f"{name} without its {missing}"
        for name, module in placed.items()
        for missing in names
        if f"{module}.{missing}" not in tensors
    ]
    return [*_misfits(tensors, needed), *alone]
