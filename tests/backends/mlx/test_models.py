"""Architectures of mlx-lm through the learner: loading, anatomy, selection, LoRA, heads, adapters, refusals."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from mlxtune.adapters import folder as folders
from mlxtune.backends.base import Job
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.model.keys import rope_only
from mlxtune.backends.mlx.model.load import load_lazily
from mlxtune.errors import BadModel, BadSetting
from mlxtune.export import adapter
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.mlx import VOCABULARY, make_batch, make_learner, whole_model, write_model

TIED = {"tie_word_embeddings": True}
FAMILIES = {
    "llama": ("llama", {}),
    "llama tied": ("llama", TIED),
    "llama 3 rope": ("llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", TIED),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma2": ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, **TIED}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": 6, **TIED,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    }),
    "phi3": ("phi3", {}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_ctx": 64, **TIED}),
    "stablelm": ("stablelm", {}),
    "granite": ("granite", {}),
}  # fmt: skip
LAYERS = {"gemma3": 6}
ALWAYS_TIED = ("gemma2", "gemma3", "gpt2")  # mlx-lm's code for these uses the embedding as the head


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    model_type, changes = FAMILIES[family]
    return write_model(tmp_path_factory.mktemp("model"), model_type, **changes)


def logits(model, batch):
    """Of the tokens before each row's end."""
    inside_BT = np.arange(batch.tokens_BT.shape[1]) < batch.lengths_B[:, None]
    return np.array(model(mx.array(batch.tokens_BT)))[inside_BT]


def torch_logits(folder, batch):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    inside_BT = np.arange(batch.tokens_BT.shape[1]) < batch.lengths_B[:, None]
    with torch.no_grad():
        return model(input_ids=torch.tensor(batch.tokens_BT.astype(np.int64))).logits.numpy()[inside_BT]


@pytest.mark.few(2)
def test_logits_are_those_of_transformers(folder):
    batch = make_batch(0)
    ours, theirs = logits(load_lazily(folder, "fp32"), batch), torch_logits(folder, batch)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_anatomy_finds_layers_head_embedding_and_final_norm(family, folder):
    anatomy = MlxBlueprint(Job(folder, "fp32", LastN(last_n=1), AdamW(), None, 0)).anatomy
    assert len(anatomy.layers) == LAYERS.get(family, 3)
    assert (anatomy.head is None) == ("tie_word_embeddings" in FAMILIES[family][1])
    assert re.search(r"embed_tokens|wte", anatomy.embedding)
    outside = {name for name in anatomy.parameters if not re.search(r"\.(layers|h)\.\d+\.", name)}
    positions = {"model.wpe.weight"} & outside
    assert set(anatomy.final_norm) == outside - {anatomy.head, anatomy.embedding} - positions
    assert anatomy.final_norm


def every_parameter(learner):
    return {name: np.array(array) for name, array in tree_flatten(whole_model(learner).parameters())}


def changed_by_steps(learner):
    """The names of the parameters that two steps change, and of those that they do not."""
    before = every_parameter(learner)
    for step in range(2):
        learner.step([make_batch(step)], 1e-2)
    after = every_parameter(learner)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    return changed, after.keys() - changed


def last_layers_of(learner, count):
    numbers = {name: re.search(r"\.(?:layers|h)\.(\d+)\.", name) for name in every_parameter(learner)}
    n_layers = len(learner.parts.anatomy.layers)
    return {name for name, match in numbers.items() if match and int(match[1]) >= n_layers - count}


@pytest.mark.few(2)
def test_last_n_trains_exactly_the_last_layers_the_final_norm_and_a_head_of_its_own(folder):
    learner = make_learner(folder, LastN(last_n=2))
    head = {learner.parts.anatomy.head} - {None}
    expected = last_layers_of(learner, 2) | set(learner.parts.anatomy.final_norm) | head
    changed, frozen = changed_by_steps(learner)
    assert changed == set(learner.parts.selection.train) == expected
    assert frozen


@pytest.mark.few(2)
def test_full_trains_everything(folder):
    assert changed_by_steps(make_learner(folder, Full()))[1] == set()


def test_no_head_freezes_a_head_of_its_own(tmp_path):
    learner = make_learner(write_model(tmp_path), LastN(last_n=1, head=False))
    assert "lm_head.weight" in changed_by_steps(learner)[1]


@pytest.mark.few(2)
def test_lora_starts_at_the_model_exactly_and_trains_nothing_else(folder):
    batch, learner = make_batch(0), make_learner(folder, Lora(rank=4, scale=3.0))
    assert np.array_equal(logits(whole_model(learner), batch), logits(load_lazily(folder, "fp32"), batch))
    for name, array in learner.trained.weights.items():
        values = np.array(array)
        if name.endswith("lora_b"):
            assert not values.any()
        else:
            bound = values.shape[0] ** -0.5
            assert 0.9 * bound < np.abs(values).max() <= bound
    assert changed_by_steps(learner)[0] == set(learner.trained.weights)


ADAPTED = {"lora": Lora(rank=4, scale=3.0, last_n=2), "last-n": LastN(last_n=2)}


@pytest.mark.parametrize("strategy", ADAPTED.values(), ids=ADAPTED)
@pytest.mark.few(2)
def test_adapters_load_in_mlx_lm_and_give_the_same_logits(folder, tmp_path, strategy):
    learner, batch = make_learner(folder, strategy), make_batch(0)
    start = logits(whole_model(learner), batch)
    changed_by_steps(learner)
    adapter.write(tmp_path / "adapter", learner.weights(), learner.parts.anatomy, learner.parts.selection, {})
    folders.settle(tmp_path / "adapter")
    loaded = load_adapters(load_lazily(folder, "fp32"), str(tmp_path / "adapter"))
    loaded.eval()
    ours = logits(whole_model(learner), batch)
    np.testing.assert_allclose(logits(loaded, batch), ours, rtol=1e-5, atol=1e-5)
    assert np.abs(ours - start).max() > 0.01


@pytest.mark.few(2)
def test_a_tied_head_is_untied_by_a_copy_that_trains_while_the_embedding_stays(family, folder):
    wanted = LastN(last_n=1, head=True)
    if family in ALWAYS_TIED:
        with pytest.raises(BadSetting, match="always uses its embedding as its head"):
            make_learner(folder, wanted)
        return
    learner, batch = make_learner(folder, wanted), make_batch(0)
    assert np.array_equal(logits(whole_model(learner), batch), logits(load_lazily(folder, "fp32"), batch))
    changed, frozen = changed_by_steps(learner)
    assert "lm_head.weight" in changed
    assert learner.parts.anatomy.embedding in frozen


# Configs and weights as they are found


def test_newer_keys_go_before_older_ones_and_nested_configs_are_read():
    rope = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    scaling = {**rope, "type": "linear"}
    assert rope_only({"rope_theta": 1e4, "rope_parameters": rope}) == {"rope_theta": 5e5, "rope_scaling": scaling}
    assert (
        rope_only({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 8.0}, "rope_parameters": rope}) == {}
    )
    nested = rope_only({"text_config": {"n": 1, "rope_parameters": rope}})
    assert nested == {"text_config": {"n": 1, "rope_parameters": rope, "rope_theta": 5e5, "rope_scaling": scaling}}


def rewritten(folder, change):
    """The folder, its table of tensors changed."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def test_a_tied_model_saved_with_only_its_head_loads(tmp_path):
    batch, plain = make_batch(0), write_model(tmp_path / "plain", **TIED)
    expected = logits(load_lazily(plain, "fp32"), batch)
    names = {"model.embed_tokens.weight": "lm_head.weight"}
    renamed = rewritten(plain, lambda tensors: {names.get(name, name): array for name, array in tensors.items()})
    assert np.array_equal(logits(load_lazily(renamed, "fp32"), batch), expected)


def without(name):
    return lambda tensors: {key: array for key, array in tensors.items() if key != name}


def test_a_missing_tensor_is_named(tmp_path):
    missing = "model.layers.1.self_attn.q_proj.weight"
    with pytest.raises(BadModel, match=re.escape(missing)):
        load_lazily(rewritten(write_model(tmp_path), without(missing)), "fp32")


def test_an_untied_model_without_its_head_is_refused(tmp_path):
    with pytest.raises(BadModel, match=r"lm_head\.weight"):
        load_lazily(rewritten(write_model(tmp_path), without("lm_head.weight")), "fp32")


def test_a_truncated_file_is_refused(tmp_path):
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadModel, match="model"):
        load_lazily(tmp_path, "fp32")


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    def cut(tensors):
        return {**tensors, "model.norm.weight": tensors["model.norm.weight"][:-1]}

    with pytest.raises(BadModel, match=r"norm\.weight"):
        load_lazily(rewritten(write_model(tmp_path), cut), "fp32")


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_an_architecture_that_mlx_lm_lacks_is_refused(tmp_path):
    with pytest.raises(BadModel, match="no_such_family"):
        load_lazily(with_config(write_model(tmp_path), model_type="no_such_family"), "fp32")


def test_code_of_the_folder_is_never_run(tmp_path):
    (write_model(tmp_path) / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(BadModel, match=r"evil\.py"):
        load_lazily(with_config(tmp_path, model_file="evil.py"), "fp32")


def test_a_quantised_model_is_refused(tmp_path):
    import mlx.nn as nn
    from mlx_lm.utils import load_model, quantize_model, save_model

    model, config = load_model(write_model(tmp_path / "plain"))
    nn.Module.eval(model)
    quantised, config = quantize_model(model, config, group_size=32, bits=4)
    save_model(tmp_path / "quantised", quantised)
    (tmp_path / "quantised" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModel, match="quantised ones"):
        load_lazily(tmp_path / "quantised", "bf16")


@pytest.mark.parametrize("strategy", [LastN(last_n=4), Lora(last_n=4)], ids=["last-n", "lora"])
def test_last_n_larger_than_the_model_says_the_models_count_and_reads_no_weight(tmp_path, strategy):
    folder = write_model(tmp_path)
    active = mx.get_active_memory()
    with pytest.raises(BadSetting, match="at most the model's 3 layers, found 4"):
        MlxBlueprint(Job(folder, "fp32", strategy, AdamW(), None, 0))
    assert mx.get_active_memory() - active < VOCABULARY


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_every_floating_weight_has_the_precision_of_the_run(tmp_path, precision):
    learner = make_learner(write_model(tmp_path), LastN(last_n=1), precision)
    found = {array.dtype for _, array in tree_flatten(whole_model(learner).parameters())}
    assert found == {{"bf16": mx.bfloat16, "fp16": mx.float16, "fp32": mx.float32}[precision]}
