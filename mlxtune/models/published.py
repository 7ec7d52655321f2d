"""The sizes of the models that have an alias, so that they are planned and listed without the hub.

From the config.json that each model was published with. Seven of them are compared with the files in a test; the others
were written down from what is generally known of them, and their parameters compared with the published counts.
"""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.models import config as model_config
from mlxtune.models.config import ModelConfig
from mlxtune.models.dimensions import Dimensions
from mlxtune.models.shapes import shapes


class Sizes(NamedTuple):
    model_type: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    tied: bool


_LLAMA_3 = Sizes("llama", 32, 4096, 14336, 32, 8, 128, 128256, 8192, tied=False)
_LLAMA_3_1 = _LLAMA_3._replace(context=131072)
_LLAMA_1B = Sizes("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, tied=True)
_LLAMA_3B = Sizes("llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072, tied=True)
_MISTRAL = Sizes("mistral", 32, 4096, 14336, 32, 8, 128, 32768, 32768, tied=False)
_GEMMA_2 = Sizes("gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 8192, tied=True)
_QWEN_05B = Sizes("qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, tied=True)
_QWEN_15B = Sizes("qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 32768, tied=True)
_QWEN_7B = Sizes("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 32768, tied=False)
_SMOLLM_135M = Sizes("llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, tied=True)
_SMOLLM_360M = Sizes("llama", 32, 960, 2560, 15, 5, 64, 49152, 8192, tied=True)
_SMOLLM_1_7B = Sizes("llama", 24, 2048, 8192, 32, 32, 64, 49152, 8192, tied=True)

PUBLISHED = {
    "cognitivecomputations/dolphin-2.9-llama3-8b": _LLAMA_3._replace(vocabulary=128258),
    "google/gemma-2-2b": _GEMMA_2,
    "google/gemma-2-2b-it": _GEMMA_2,
    "google/gemma-3-1b-it": Sizes("gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144, 32768, tied=True),
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_3,
    "meta-llama/Llama-3.1-8B": _LLAMA_3_1,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_3_1,
    "meta-llama/Llama-3.2-1B": _LLAMA_1B,
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_1B,
    "meta-llama/Llama-3.2-3B": _LLAMA_3B,
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA_3B,
    "mistralai/Mistral-7B-v0.3": _MISTRAL,
    "mistralai/Mistral-7B-Instruct-v0.3": _MISTRAL,
    "Qwen/Qwen2.5-0.5B": _QWEN_05B,
    "Qwen/Qwen2.5-0.5B-Instruct": _QWEN_05B,
    "Qwen/Qwen2.5-1.5B": _QWEN_15B._replace(context=131072),
    "Qwen/Qwen2.5-1.5B-Instruct": _QWEN_15B,
    "Qwen/Qwen2.5-7B": _QWEN_7B._replace(context=131072),
    "Qwen/Qwen2.5-7B-Instruct": _QWEN_7B,
    "Qwen/Qwen3-0.6B": Sizes("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, tied=True),
    "Qwen/Qwen3-1.7B": Sizes("qwen3", 28, 2048, 6144, 16, 8, 128, 151936, 40960, tied=True),
    "Qwen/Qwen3-4B": Sizes("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, 40960, tied=True),
    "Qwen/Qwen3-8B": Sizes("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, tied=False),
    "HuggingFaceTB/SmolLM2-135M": _SMOLLM_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM_135M,
    "HuggingFaceTB/SmolLM2-360M": _SMOLLM_360M,
    "HuggingFaceTB/SmolLM2-360M-Instruct": _SMOLLM_360M,
    "HuggingFaceTB/SmolLM2-1.7B": _SMOLLM_1_7B,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _SMOLLM_1_7B,
}


def config(repo: str) -> ModelConfig | None:
    """The config of a hub repository; None where it is not among those known."""
    sizes = PUBLISHED.get(repo)
    return None if sizes is None else model_config.of(_raw(sizes), Path(repo))


def n_parameters(repo: str) -> int | None:
    """How many parameters it has, a tied head counted once.

    >>> n_parameters("meta-llama/Meta-Llama-3-8B")
    8030261248
    """
    found = config(repo)
    dimensions = found and Dimensions.of(found)
    return sum(map(prod, shapes(dimensions).values())) if dimensions else None


def _raw(sizes: Sizes) -> dict[str, Any]:
    return {
        "model_type": sizes.model_type,
        "num_hidden_layers": sizes.layers,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.context,
        "tie_word_embeddings": sizes.tied,
        "dtype": "bfloat16",
    }
