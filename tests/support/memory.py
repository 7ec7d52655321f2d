"""What the tests of the memory plan share: models of a config alone, small random ones, and texts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.choose import has_mlx
from mlxtune.memory.setup import Setup
from mlxtune.models import config as model_config
from mlxtune.models.dimensions import Dimensions
from mlxtune.models.hub import BUILT_IN
from mlxtune.models.shapes import shapes
from mlxtune.planning.predict import Planner
from mlxtune.recipe.recipe import build
from mlxtune.storage.files import write_tensors
from tests.support.assets import assets_folder
from tests.support.numpy import tensors

MB = 10**6
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 2000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}
WORDS = ("the", "little", "mouse", "has", "a", "key", "that", "opens", "up", "old", "oak", "tree", "at", "night")


def config_folder(folder: Path, name: str) -> Path:
    """A model folder that holds nothing but a real config."""
    folder.mkdir(exist_ok=True)
    shutil.copy(assets_folder() / "configs" / f"{name}.json", folder / "config.json")
    return folder


def outline_folder(folder: Path, **changes: Any) -> Path:
    """The same of a small invented model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    return folder


def whole_folder(folder: Path, **changes: Any) -> Path:
    """The small model with random weights and the built-in tokenizer."""
    outline_folder(folder, **changes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILT_IN / name, folder / name)
    dimensions = Dimensions.of(model_config.read(folder))
    assert dimensions is not None
    drawn = np.random.default_rng(0)
    arrays = {
        name: (drawn.standard_normal(shape) * 0.5 / shape[-1] ** 0.5 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes(dimensions).items()
    }
    write_tensors(folder / "model.safetensors", tensors(arrays))
    return folder


def setup_of(folder: Path, **settings: Any) -> Setup:
    """What memory depends on, of a recipe for a config; settings by recipe key, with __ for the point."""
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    recipe = build({}, {"model.name": str(folder), "backend.name": "mlx", **keys})
    skip_without(recipe.backend.name)
    return Planner(recipe).plan(recipe).setup


def skip_without(backend: str) -> None:
    """Skip a test of a plan for MLX where it is not installed: there it is planned for a Mac alone."""
    if backend == "mlx" and not has_mlx():
        pytest.skip("MLX is not installed")


def words(count: int, seed: int = 0) -> str:
    """So many words, one or two tokens each."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count).tolist())


def text_of(path: Path, n_tokens: int) -> Path:
    """A text that is cut into rows as long as --max-seq-length, so many tokens of them at least."""
    path.write_text(words(n_tokens))
    return path
