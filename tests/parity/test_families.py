"""Models of many families as transformers saves them, on both backends beside PyTorch; which keys of a config count.

`scripts/parity` makes a table of the same cases. The few that train too have a bit of everything that is put right.
"""

import json
import logging

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.model.load import load_lazily
from mlxtune.backends.numpy import config as numpy_config
from mlxtune.errors import BadModel, MlxtuneError
from mlxtune.models import declared
from mlxtune.strategies.full import Full
from scripts import parity
from scripts.parity_cases import CASES, FAMILIES, SHAPE, Case, rewrite, write
from tests.support.slow import all_but

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers', of the small configurations

ALL = {str(case): case for case in CASES}
FEW = (
    "phi3, window", "phi3, longrope, shorter rows", "llama, dynamic, longer rows", "llama, yarn, attention_factor",
    "llama, gelu", "starcoder2", "gemma2", "gemma2, untied", "gemma3_text", "gpt_oss", "gpt2", "qwen2_moe, tied",
    "qwen2, windows", "exaone4", "glm", "apertus",
)  # fmt: skip
# What is refused, by the key or the tensors that say why.
REFUSED = {
    "bitnet": "weight_scale",
    "nanochat": "missing",
    "olmo": "a package that is not installed",
    "jamba": "num_experts",
    "qwen3, biases": "attention_bias",
    "gemma2, no soft cap": "attn_logit_softcapping",
    "gemma2, both ways": "use_bidirectional_attention",
    "gemma3_text, full first": "layer_types",
    "gemma3_text, soft cap": "final_logit_softcapping",
    "starcoder2, no bias": "use_bias",
    "qwen2_moe, norm_topk_prob": "norm_topk_prob",
    "qwen2_moe, decoder_sparse_step 2": "decoder_sparse_step",
    "cohere2, full first": "layer_types",
    "olmoe, clip_qkv": "clip_qkv",
    "phi, qk_layernorm": "qk_layernorm",
    "phi, tied": "lm_head",
    "gpt2, scaled by layer": "scale_attn_by_inverse_layer_idx",
    "gpt2, n_inner 96": "n_inner",
    "gpt_bigcode, no multi_query": "multi_query",
    "gpt_oss, swiglu_limit": "swiglu_limit",
    "deepseek_v2, norm_topk_prob": "norm_topk_prob",
    "deepseek_v3, rope_interleave": "rope_interleave",
    "ernie4_5_moe, moe_norm_min": "moe_norm_min",
    "apertus, silu": "hidden_act",
    "mamba, epsilon 0.01": "layer_norm_epsilon",
    "falcon_h1, time_step_limit": "time_step_limit",
}
WITHIN = 2e-5  # of the largest; rounding gives 1e-6


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.CRITICAL)


def backends_of(case):
    return ("mlx", "numpy") if case.family in numpy_config.FAMILIES else ("mlx",)


@pytest.mark.parametrize("name", all_but(["phi3, window", "llama, yarn, attention_factor", "gemma2", "gpt2"], FEW))
@pytest.mark.few(1)
def test_logits_and_losses_are_those_of_transformers(name, tmp_path):
    check(ALL[name], tmp_path, ("full",))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in FEW])
def test_logits_and_losses_of_every_case_are_those_of_transformers_or_it_is_refused(name, tmp_path):
    check(ALL[name], tmp_path, ())


def check(case, folder, strategies):
    write(folder, case)
    for backend in backends_of(case):
        result = parity.compare_folder(case, folder, backend, strategies)
        if backend == "mlx" and str(case) in REFUSED:
            assert result.refused
            assert REFUSED[str(case)] in faults_of(folder)
        elif not (backend == "numpy" and result.refused):  # NumPy's refusals are tests of their own
            assert not result.refused
            assert max(difference for difference in result.differences.values() if difference is not None) < WITHIN


@pytest.mark.parametrize("family", [family for family in FAMILIES if f"{family}, biases" in ALL])
@pytest.mark.few(2)
def test_a_missing_key_has_transformers_default(family, tmp_path):
    """Keys that have their default are what files leave out."""
    case = ALL[family]
    folder = write(tmp_path, case)
    saved = json.loads((folder / "config.json").read_text())
    default = CONFIG_MAPPING[family]()
    absent = [key for key in declared.keys(default) & saved.keys() if saved[key] == getattr(default, key)]
    rewrite(folder, {}, without=tuple(absent))
    assert absent
    assert parity.compare_folder(case, folder, "mlx", ()).differences["logits"] < WITHIN


INERT_VALUES = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 0.25}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_are_taken_to_change_nothing_change_nothing(family):
    """Of transformers' logits, in evaluation."""
    settings = {**SHAPE, **FAMILIES[family]}
    plain = AutoConfig.for_model(family, **settings)
    changed = AutoConfig.for_model(family, **settings)
    for key in sorted((declared.keys(plain) & declared.inert(plain)) - SIZES):
        value = getattr(plain, key)
        if type(value) in INERT_VALUES and key not in plain.attribute_map:
            setattr(changed, key, INERT_VALUES[type(value)](value))
    models = [AutoModelForCausalLM.from_config(config).eval() for config in (plain, changed)]
    models[1].load_state_dict(models[0].state_dict())
    tokens_BT = torch.arange(3, 40)[None]
    with torch.no_grad():
        ours, theirs = (model(input_ids=tokens_BT, use_cache=False).logits.numpy() for model in models)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


# A context's length matters to RoPE, which we compute; positions of the GPTs are a table; ids are places in a table.
SIZES = {"max_position_embeddings", "original_max_position_embeddings", "pad_token_id", "mamba_expand", "is_decoder"}


def faults_of(folder):
    with pytest.raises(MlxtuneError) as fault:
        parity.learner_of("mlx", folder, Full())
    return str(fault.value)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_rope_without_a_type_is_refused_on_both_backends(key, tmp_path):
    folder = rewrite(write(tmp_path, Case("llama")), {key: {"factor": 2.0}}, without=("rope_parameters",))
    assert "no rope_type" in faults_of(folder)
    with pytest.raises(BadModel, match="no rope_type"):
        numpy_config.read(folder)


def test_every_key_that_no_one_computes_is_named_at_once(tmp_path):
    folder = rewrite(write(tmp_path, Case("qwen2_moe")), {"norm_topk_prob": True, "decoder_sparse_step": 2})
    found = faults_of(folder)
    assert "config.json: norm_topk_prob: expected False" in found
    assert "config.json: decoder_sparse_step: expected 1" in found


def test_keys_that_transformers_does_not_know_are_no_fault(tmp_path):
    folder = rewrite(write(tmp_path, Case("llama")), {"unsloth_fixed": True, "_name_or_path": "x", "my_key": [1]})
    assert load_lazily(folder, "fp32").corrected == ()


@pytest.mark.parametrize(("name", "words"), [("phi3, window", "sliding window of 16 tokens"), ("llama, gelu", "gelu")])
def test_a_model_that_mlx_lm_computes_otherwise_says_so(name, words, tmp_path):
    learner = MlxBlueprint(parity.job(write(tmp_path, ALL[name]), parity.STRATEGIES["LoRA"]))
    (note,) = [note for note in learner.notes if "mlx-lm leaves out" in note]
    assert words in note
    assert "mlx_lm.generate would compute another model" in note


def test_a_model_that_mlx_lm_has_right_says_nothing(tmp_path):
    learner = MlxBlueprint(parity.job(write(tmp_path, ALL["llama"]), parity.STRATEGIES["LoRA"]))
    assert learner.notes == ()
