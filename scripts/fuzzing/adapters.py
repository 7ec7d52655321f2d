"""An adapter of the built-in model, its config or its header changed."""

from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from fuzzing import mutate
from fuzzing.models import header_file
from safetensors.numpy import save_file

from mlxtune.adapters import fit
from mlxtune.adapters import folder as adapter
from mlxtune.backends.numpy import adapter as numpy_adapter
from mlxtune.models import weights
from mlxtune.models.hub import BUILT_IN


@cache
def _parameters() -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in weights.headers(BUILT_IN).items()}


def _linears() -> dict[str, tuple[int, int]]:
    shapes = {name.removesuffix(".weight"): shape for name, shape in _parameters().items() if ".layers." in name}
    return {name: (shape[1], shape[0]) for name, shape in shapes.items() if len(shape) == 2}


def write_adapter(random: Random, folder: Path) -> None:
    module = "model.layers.4.mlp.up_proj"
    lora = {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": ["mlp.up_proj"]}
    about = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": lora, "mlxtune": {"untied_head": False}}
    tensors = {f"{module}.lora_a": (96, 2), f"{module}.lora_b": (2, 112)}
    if random.random() < 0.2:
        about["fine_tune_type"], tensors = "full", {"model.norm.weight": (96,)}
    in_config = random.random() < 0.6
    text = mutate.as_json(mutate.document(random, about) if in_config else about)
    (folder / adapter.CONFIG).write_bytes(mutate.data(random, text) if in_config and random.random() < 0.3 else text)
    if in_config:
        save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, folder / adapter.WEIGHTS)
    else:
        (folder / adapter.WEIGHTS).write_bytes(header_file(random, tensors))


def read_adapter(folder: Path) -> None:
    found = adapter.find(folder)
    fit.check(found, _parameters(), _linears())
    numpy_adapter.apply(found, {name: np.zeros(shape, np.float32) for name, shape in _parameters().items()})
