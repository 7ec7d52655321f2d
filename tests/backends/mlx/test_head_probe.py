"""What is found out of a model's head, and that the loss in shards on it is the model's own, over mlx-lm's families."""

import importlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama
from mlx_lm.tuner.lora import LoRALinear

from mlxtune.backends.mlx.head.cross_entropy import Head, cut, log_probabilities
from mlxtune.backends.mlx.head.output import IDENTITY, Output
from mlxtune.backends.mlx.head.probe import probe, stopped_at

VOCABULARY = 97
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "rope_theta": 1e4,
}
TIED = {"tie_word_embeddings": True}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}
FAMILIES = {  # name: module, changes of the config, what follows the head
    "llama": ("llama", {}, IDENTITY),
    "llama tied": ("llama", TIED, IDENTITY),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8.0, "final_logit_softcapping": 7.0}, Output(cap=7.0)),
    "granite": ("granite", {
        "logits_scaling": 8.0, "attention_multiplier": 0.2, "embedding_multiplier": 12.0, "residual_multiplier": 0.2,
        **NO_BIAS,
    }, Output(factor=1 / 8)),
    "cohere2": ("cohere2", {
        "layer_norm_eps": 1e-5, "logit_scale": 0.06, "sliding_window": 9, "sliding_window_pattern": 2,
        **NO_BIAS,
    }, Output(factor=float(np.float32(0.06)))),
    "gpt2": ("gpt2", {
        "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "layer_norm_epsilon": 1e-5,
    }, IDENTITY),
    "phi": ("phi", {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5}, IDENTITY),
    "phi3": ("phi3", {"rope_scaling": None}, IDENTITY),
    "olmo2": ("olmo2", {}, IDENTITY),
    "qwen3": ("qwen3", {}, IDENTITY),
}  # fmt: skip
TOKENS_BT = mx.array(np.random.default_rng(0).integers(0, VOCABULARY, (2, 9)))
TARGETS_N = TOKENS_BT[:, 1:].flatten()


def make_model(module, changes, model_class=None):
    """Random weights, none of them evaluated."""
    family = importlib.import_module(f"mlx_lm.models.{module}")
    mx.random.seed(0)
    args = family.ModelArgs.from_dict({**SHAPE, "model_type": module, **changes})
    model = (model_class or family.Model)(args)
    model.update(tree_map(lambda array: array + 0.2 * mx.random.normal(array.shape), model.parameters()))
    return model


@pytest.fixture(params=FAMILIES)
def family(request):
    module, changes, output = FAMILIES[request.param]
    return make_model(module, changes), output


def head_input(head, call):
    with stopped_at(head) as entered:
        call()
    return entered[0]


def logits_of(head, hidden_BTD):
    return head.output.logits(hidden_BTD @ head.weight.T + (0 if head.bias is None else head.bias))


def test_the_output_function_is_found_exactly(family):
    model, output = family
    assert probe(model).output == output


def test_what_enters_the_head_its_weight_and_its_output_make_the_models_logits(family):
    model, _ = family
    head = probe(model)
    logits_BTV = logits_of(head, head_input(head, lambda: model(TOKENS_BT)))
    np.testing.assert_allclose(np.array(logits_BTV), np.array(model(TOKENS_BT)), rtol=1e-5, atol=1e-5)


def test_the_loss_in_shards_gives_the_gradients_of_the_models_own_loss(family):
    """Of every weight; the head is an array of its own, also where it is tied."""
    model, _ = family
    head = probe(model)

    def in_shards(weights, shards):
        model.update(weights)
        hidden_BTD = head_input(head, lambda: model(TOKENS_BT[:, :-1]))
        shared = Head(shards, head.bias, head.output)
        return -mx.sum(log_probabilities(hidden_BTD.reshape(-1, 32), shared, TARGETS_N, head_trains=True))

    def own(weights):
        model.update(weights)
        logits_BTV = model(TOKENS_BT[:, :-1])
        return mx.sum(mx.fast.cross_entropy(logits_BTV.reshape(-1, VOCABULARY), TARGETS_N))

    weights, shards = model.parameters(), cut(head.weight, 40)
    loss, (gradients, by_shard) = mx.value_and_grad(in_shards, argnums=(0, 1))(weights, shards)
    own_loss, own_gradients = mx.value_and_grad(own)(weights)
    ours, theirs = dict(tree_flatten(gradients)), dict(tree_flatten(own_gradients))
    name = next(name for name, array in tree_flatten(model.parameters()) if array is head.weight)
    ours[name] = ours[name] + mx.concatenate(by_shard)
    assert abs(loss.item() / own_loss.item() - 1) < 1e-6
    for name in theirs:
        difference, largest = mx.abs(ours[name] - theirs[name]).max(), mx.abs(theirs[name]).max()
        assert difference.item() <= 1e-5 * largest.item(), name


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bf16", "fp16"])
def test_models_of_16_bits_have_the_same_output(family, dtype):
    model, output = family
    model.set_dtype(dtype)
    assert probe(model).output == output


def test_a_head_is_its_own_again_after_use_and_after_an_error(family):
    model, _ = family
    before = np.array(model(TOKENS_BT))
    head = probe(model)
    own = type(head.module)
    with pytest.raises(ZeroDivisionError):
        head_input(head, lambda: 1 / 0)
    head_input(head, lambda: model(TOKENS_BT))
    assert own in (nn.Linear, nn.Embedding)
    assert type(head.module) is own
    assert np.array_equal(np.array(model(TOKENS_BT)), before)


def test_no_weight_is_read():
    model = make_model("llama", {"hidden_size": 512})
    before = mx.get_active_memory()
    assert probe(model)
    assert mx.get_active_memory() - before < VOCABULARY * 512


# Heads that are not known


def after_head(change):
    class Model(llama.Model):
        def __call__(self, tokens_BT):
            return change(super().__call__(tokens_BT))

    return Model


def without_the_last(logits_BTV):
    return mx.where(mx.arange(VOCABULARY) < 90, logits_BTV, -mx.inf)


class CalledTwice(llama.Model):
    def __call__(self, tokens_BT):
        return (super().__call__(tokens_BT) + super().__call__(tokens_BT)) / 2


class LastTokenOnly(llama.Model):
    def __call__(self, tokens_BT):
        return self.lm_head(self.model(tokens_BT)[:, -1:])


class AroundTheHead(llama.Model):
    def __call__(self, tokens_BT):
        return self.model(tokens_BT) @ self.lm_head.weight.T


UNKNOWN = {
    "masked tokens": after_head(without_the_last),
    "a shift": after_head(lambda logits_BTV: logits_BTV + 0.01),
    "normalised": after_head(lambda logits_BTV: logits_BTV - mx.logsumexp(logits_BTV, axis=-1, keepdims=True)),
    "another function": after_head(lambda logits_BTV: 7 * mx.erf(logits_BTV / 7)),
    "rounded": after_head(lambda logits_BTV: logits_BTV.astype(mx.bfloat16)),
    "fewer tokens": after_head(lambda logits_BTV: logits_BTV[..., :90]),
    "called twice": CalledTwice,
    "the last token only": LastTokenOnly,
    "not called": AroundTheHead,
}


@pytest.mark.parametrize("model_class", UNKNOWN.values(), ids=UNKNOWN)
def test_where_something_else_is_done_to_the_products_the_head_is_unknown(model_class):
    assert probe(make_model("llama", {}, model_class)) is None


def test_a_head_with_an_adapter_is_unknown_even_before_the_adapter_does_anything():
    model = make_model("llama", {})
    model.lm_head = LoRALinear.from_base(model.lm_head)
    assert probe(model) is None
