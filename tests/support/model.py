"""A model folder of a few kilobytes, whole and in Hugging Face format, for tests to damage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 12,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e"]


def write_model(folder: Path, shards: int = 1) -> Path:
    """Config, tokenizer and weights: four tensors, in one file or spread over shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    write_tokenizer(folder)
    write_weights(folder, some_tensors(), shards)
    return folder


def some_tensors() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return {f"model.layers.{i}.weight": random.normal(size=(64, 64)).astype(np.float32) for i in range(4)}


def write_weights(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], shards: int = 1) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 8}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
