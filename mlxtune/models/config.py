"""config.json as a typed value: the sizes that strategies, memory arithmetic and reports need.

Names of keys follow the Hugging Face configurations; older families (GPT-2 and its kin) spell them otherwise. Nothing
is executed: a model that needs Python code of its own is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.errors import BadModel, MlxtuneError, raise_all
from mlxtune.format import count, shown
from mlxtune.models.folder import contents, json_object
from mlxtune.models.keys import Keys
from mlxtune.storage.documents import check

# Families whose configuration ties the head to the embedding when config.json does not say; transformers 5 holds the
# same defaults, and a test compares them.
TIED_BY_DEFAULT = frozenset({
    "cohere", "cohere2", "ernie4_5", "ernie4_5_moe", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n",
    "gemma3n_text", "gemma4", "gemma4_text", "gpt2", "gpt_bigcode", "lfm2", "lfm2_moe", "mamba", "minicpm3",
    "recurrent_gemma", "smollm3", "starcoder2",
})  # fmt: skip

WITHOUT_ATTENTION = frozenset({"mamba", "mamba2", "rwkv7"})

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "vocab_size": ("vocab_size",),
    "n_heads": ("num_attention_heads", "n_head", "n_heads"),
    "n_kv_heads": ("num_key_value_heads", "n_kv_heads"),
    "head_dim": ("head_dim",),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "max_positions": ("max_position_embeddings", "n_positions", "max_seq_len"),
}

LARGEST_SIZE, LARGEST = 2**31, {"n_layers": 10_000}  # beyond them a file is damaged, and a plan of it without end


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a decoder. A size of 0 says that the family has no such thing, or that config.json does not say."""

    model_type: str
    architectures: tuple[str, ...]
    n_layers: int
    hidden_size: int
    vocab_size: int  # rows of the embedding
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    tied: bool  # the head is the embedding
    max_positions: int
    dtype: str | None  # of the stored weights, as config.json says: "bfloat16"
    quantized: str | None  # in words: "4 bits, groups of 64"; None where the weights are plain numbers
    raw: Mapping[str, Any] = field(repr=False, compare=False)  # config.json as it is


def read(folder: Path) -> ModelConfig:
    """The config of a model folder. BadModel tells every fault of the file at once."""
    path = folder / "config.json"
    if not path.is_file():
        raise _no_model(folder)
    return of(json_object(path), path)


def of(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """The config in a document. path: where it is from, for messages."""
    check_kinds(raw, path)
    flat = {**raw, **_mapping(raw, "text_config")}  # a multimodal config keeps its language model's sizes there
    faults: list[MlxtuneError] = []
    sizes = {name: _size(path, flat, name, faults) for name in SPELLINGS}
    model_type = raw.get("model_type") or ""
    faults += _missing(path, sizes, model_type)
    faults += _own_code(path, raw)
    raise_all(faults or _disagreeing(path, flat, sizes))
    return _config(model_type, raw, flat, {name: size or 0 for name, size in sizes.items()})


def document(path: Path) -> dict[str, Any]:
    """A config.json as it is, with every known key of its kind. Raises BadModel."""
    raw = json_object(path)
    check_kinds(raw, path)
    return raw


def check_kinds(raw: Mapping[str, Any], path: Path) -> None:
    """Raises BadModel for each key with a value of the wrong kind or out of its range."""
    for part, where in ((raw, f"{path}"), (_mapping(raw, "text_config"), f"{path}: text_config")):
        check(part, Keys, where, BadModel)


def _config(model_type: str, raw: Mapping[str, Any], flat: Mapping[str, Any], sizes: Mapping[str, int]) -> ModelConfig:
    n_heads = sizes["n_heads"]
    text_type = str(flat.get("model_type", model_type))
    tied = flat.get("tie_word_embeddings")
    dtype = flat.get("dtype") or flat.get("torch_dtype")
    return ModelConfig(
        model_type=model_type,
        architectures=tuple(raw.get("architectures") or ()),
        n_layers=sizes["n_layers"],
        hidden_size=sizes["hidden_size"],
        vocab_size=sizes["vocab_size"],
        n_heads=n_heads,
        n_kv_heads=sizes["n_kv_heads"] or n_heads,
        head_dim=sizes["head_dim"] or (sizes["hidden_size"] // n_heads if n_heads else 0),
        intermediate_size=sizes["intermediate_size"],
        tied=text_type in TIED_BY_DEFAULT if tied is None else bool(tied),
        max_positions=sizes["max_positions"],
        dtype=str(dtype) if dtype else None,
        quantized=_quantized(flat),
        raw=raw,
    )


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, Mapping) else {}


def _size(path: Path, flat: Mapping[str, Any], name: str, faults: list[MlxtuneError]) -> int | None:
    """The size under any of its spellings; None where it is absent or null."""
    key = next((key for key in SPELLINGS[name] if flat.get(key) is not None), None)
    if key is None:
        return None
    value, most = flat[key], LARGEST.get(name, LARGEST_SIZE)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
        return value
    faults.append(BadModel(f"{path}: {key}", expected=f"a whole number from 1 to {count(most)}", found=shown(value)))
    return 0


def _disagreeing(path: Path, flat: Mapping[str, Any], sizes: Mapping[str, int | None]) -> list[MlxtuneError]:
    """Sizes that are right by themselves and not beside each other."""
    n_heads, n_kv_heads, kinds = sizes["n_heads"], sizes["n_kv_heads"], flat.get("layer_types")
    faults = []
    if n_heads and n_kv_heads and n_heads % n_kv_heads:
        found = f"{n_kv_heads:,} beside {n_heads:,} attention heads"
        faults.append((SPELLINGS["n_kv_heads"][0], "key-value heads that divide the attention heads", found))
    if kinds is not None and len(kinds) != sizes["n_layers"]:
        faults.append(("layer_types", f"a kind for each of {sizes['n_layers']:,} layers", f"{len(kinds):,}"))
    return [BadModel(f"{path}: {key}", expected=expected, found=found) for key, expected, found in faults]


def _missing(path: Path, sizes: Mapping[str, int | None], model_type: str) -> list[MlxtuneError]:
    needed = ["n_layers", "hidden_size", "vocab_size"]
    needed += [] if model_type in WITHOUT_ATTENTION else ["n_heads"]
    absent = [SPELLINGS[name][0] for name in needed if sizes[name] is None]
    absent = absent if model_type else ["model_type", *absent]
    if not absent:
        return []
    remedy = "Is this the config.json of a language model? Fetch it again from where the model comes from."
    return [BadModel(str(path), expected=f"the keys {', '.join(absent)}", found="none of them", remedy=remedy)]


def _own_code(path: Path, raw: Mapping[str, Any]) -> list[MlxtuneError]:
    """`auto_map` alone is harmless: it names code for transformers, where MLX has an architecture of its own."""
    if raw.get("model_file") is None:
        return []
    return [
        BadModel(
            f"{path}: model_file",
            expected="an architecture that mlx-lm has",
            found=f"a model that needs Python code of its own, {raw['model_file']}",
            remedy="Code that comes with a model is never run. Use a model of a family that mlx-lm has.",
        )
    ]


def _quantized(flat: Mapping[str, Any]) -> str | None:
    """MLX writes `quantization` (bits, group size), other tools `quantization_config` (a method)."""
    stored = _mapping(flat, "quantization") or _mapping(flat, "quantization_config")
    if not stored:
        return None
    words = {"quant_method": "{}", "bits": "{} bits", "group_size": "groups of {}"}
    return ", ".join(text.format(stored[key]) for key, text in words.items() if stored.get(key)) or "quantized"


def _no_model(folder: Path) -> BadModel:
    remedy = "A model folder holds config.json, tokenizer.json and model*.safetensors in Hugging Face format."
    if (folder / "adapter_config.json").is_file():
        remedy = "This folder is an adapter. Give the model that it was made for as --model."
    elif any(folder.glob("*.gguf")):
        remedy = "GGUF files are for running a model. Use the repository that it was made from, with safetensors."
    return BadModel(str(folder), expected="a model folder with config.json", found=contents(folder), remedy=remedy)
