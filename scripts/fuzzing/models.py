"""What lies in a model's folder but for its tokenizer: config.json, safetensors headers, the index of shards."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzzing import mutate
from safetensors.numpy import save_file

from mlxtune import inference as try_it
from mlxtune import speech
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.backends.numpy import config as numpy_config
from mlxtune.errors import MlxtuneError
from mlxtune.models import config as model_config
from mlxtune.models import outline, weights
from mlxtune.models.fingerprint import fingerprint
from mlxtune.models.hub import BUILT_IN
from mlxtune.planning.predict import Planner
from mlxtune.recipe.recipe import build


def of_built_in(name: str) -> Any:
    return json.loads((BUILT_IN / name).read_text())


@cache
def _configs() -> list[Any]:
    base = of_built_in("config.json")
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1}
    return [
        base,
        {**base, "rope_scaling": {**rope, "original_max_position_embeddings": 128}},
        {**base, "model_type": "qwen2", "rope_scaling": yarn, "use_sliding_window": True, "sliding_window": 64},
        {**base, "model_type": "qwen3", "layer_types": ["full_attention"] * 5, "rope_parameters": {"rope_theta": 1e6}},
        {**base, "model_type": "gemma3_text", "query_pre_attn_scalar": 256, "sliding_window_pattern": 6},
        {**base, "model_type": "mistral", "sliding_window": 64, "quantization": {"bits": 4, "group_size": 64}},
        {"model_type": "gemma3", "text_config": base, "quantization_config": {"quant_method": "gptq", "bits": 4}},
        {
            **base,
            "model_type": "phi3",
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        },
        {**base, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 32, "n_positions": 64},
    ]


def _write_json(name: str, seeds: Callable[[], list[Any]]) -> Callable[[Random, Path], None]:
    def write(random: Random, folder: Path) -> None:
        text = mutate.as_json(mutate.document(random, random.choice(seeds())))
        (folder / name).write_bytes(mutate.data(random, text) if random.random() < 0.3 else text)

    return write


def write_config(random: Random, folder: Path) -> None:
    """Half of them beside weights, whose headers say what the config need not."""
    _write_json("config.json", _configs)(random, folder)
    if random.random() < 0.5:
        (folder / "model.safetensors").symlink_to(BUILT_IN / "model.safetensors")


def read_config(folder: Path) -> None:
    model_config.read(folder)
    with suppress(MlxtuneError):  # the plan is for MLX, which has more
        numpy_config.read(folder)
    recipe = build({}, {"model.name": str(folder), "data.max_seq_length": 64, "backend.name": "mlx"})
    Planner(recipe).plan(recipe)


def header_file(random: Random, tensors: Mapping[str, Any]) -> bytes:
    """A safetensors file of small tensors whose header was changed; some keep the length that stands before it."""
    place, entries = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = mutate.as_json(entries)
    changed = mutate.as_json(mutate.document(random, entries)) if random.random() < 0.7 else mutate.data(random, text)
    length = len(changed) if random.random() < 0.9 else random.choice((0, 1, len(text), 2**31, 2**62, 2**64 - 1))
    return length.to_bytes(8, "little") + changed + bytes(place)


def write_model(random: Random, folder: Path) -> None:
    """The built-in model, whole but for one of its documents."""
    changed = random.choice(("config.json", "config.json", "generation_config.json"))
    for path in BUILT_IN.iterdir():
        if path.name == changed:
            (folder / path.name).write_bytes(mutate.as_json(mutate.document(random, of_built_in(changed))))
        else:
            (folder / path.name).symlink_to(path)


def read_model(folder: Path) -> None:
    settings = BackendSettings(name="numpy", precision="fp32")
    loaded = try_it.load(str(folder), None, settings)
    list(speech.complete(loaded, "Once", Sampling(max_tokens=2, temperature=0.0, top_p=1.0, seed=0)))


SMALL = {"model.embed_tokens.weight": (8, 4), "model.norm.weight": (4,), "lm_head.weight": (8, 4)}


def write_header(random: Random, folder: Path) -> None:
    (folder / "config.json").write_bytes(mutate.as_json(_configs()[0]))
    (folder / "model.safetensors").write_bytes(header_file(random, SMALL))


def write_index(random: Random, folder: Path) -> None:
    (folder / "config.json").write_bytes(mutate.as_json(_configs()[0]))
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    parts = [dict(list(SMALL.items())[number::2]) for number in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        save_file({key: np.zeros(shape, np.float32) for key, shape in part.items()}, folder / name)
    places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = {"metadata": {"total_size": 9}, "weight_map": places}
    text = mutate.as_json(mutate.document(random, index))
    (folder / "model.safetensors.index.json").write_bytes(mutate.data(random, text) if random.random() < 0.3 else text)


def read_weights(folder: Path) -> None:
    weights.headers(folder)
    fingerprint(folder)
    outline.outline(str(folder))
