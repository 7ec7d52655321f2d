"""Writes the model of a case: random weights in Hugging Face format, and what its adapters start from."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.model.load import PRECISIONS, cast
from mlxtune.bench.sides.ours import make_job
from mlxtune.bench.sides.spec import ADAPTERS, SEED, Case, Spec
from mlxtune.storage.files import write_tensors


def run(spec: Spec) -> None:
    """The folder of `spec`, in its precision: mlx-lm trains in that of the file."""
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(spec.case)))
    mx.random.seed(SEED)
    model = llama.Model(llama.ModelArgs.from_dict(config(spec.case)))
    cast(model, PRECISIONS[spec.precision])
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    if spec.case.lora_rank:
        learner = MlxBlueprint(make_job(spec)).learner()
        write_tensors(folder / ADAPTERS, learner.weights())


def config(case: Case) -> dict[str, Any]:
    """Its config.json."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": case.layers,
        "hidden_size": case.hidden,
        "intermediate_size": case.inner,
        "num_attention_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "vocab_size": case.vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }
