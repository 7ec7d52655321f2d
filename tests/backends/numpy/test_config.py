"""What of config.json and of the weight files makes a decoder, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from mlxtune.backends.numpy import config, weights
from mlxtune.backends.numpy.arrays import Flat
from mlxtune.backends.numpy.layout import lay_out
from mlxtune.errors import BadModel
from mlxtune.models.shapes import shapes
from mlxtune.storage.files import write_tensors
from tests.support.assets import assets_folder
from tests.support.numpy import BASE, KINDS, learner, random_batch, random_weights, tensors, write_model


def write_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**BASE, "model_type": "llama", **changes}))
    return folder


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("Meta-Llama-3-8B", 8_030_261_248),
        ("Mistral-7B-v0.1", 7_241_732_096),
        ("Qwen2.5-7B-Instruct", 7_615_616_512),
    ],
)
def test_published_parameter_counts_are_hit(name, n_parameters, tmp_path):
    shutil.copy(assets_folder() / "configs" / f"{name}.json", tmp_path / "config.json")
    decoder = config.read(tmp_path)
    assert lay_out(shapes(decoder), ()).size == n_parameters


def test_a_model_outside_the_family_is_refused_with_its_name_and_what_is_there(tmp_path):
    shutil.copy(assets_folder() / "configs" / "gemma2-2b.json", tmp_path / "config.json")
    with pytest.raises(BadModel, match=r"Gemma2ForCausalLM with model_type gemma2") as told:
        config.read(tmp_path)
    assert all(word in str(told.value) for word in (*config.FAMILIES, "yarn", "--backend mlx"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "RoPE type proportional"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "without short_factor and long_factor"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "without low_freq_factor, high_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantised ones"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "that divide"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ],
)
def test_what_the_arithmetic_does_not_have_is_refused(changes, word, tmp_path):
    with pytest.raises(BadModel, match=word):
        config.read(write_config(tmp_path, **changes))


def test_missing_and_left_over_tensors_are_named(tmp_path):
    folder = write_model(tmp_path, **KINDS["llama"])
    arrays = random_weights(config.read(folder))
    arrays["model.layers.9.mlp.up_proj.weight"] = arrays.pop("model.layers.1.mlp.up_proj.weight")
    (folder / "model.safetensors").unlink()
    write_tensors(folder / "model.safetensors", tensors(arrays))
    with pytest.raises(BadModel) as told:
        weights.find(folder, config.read(folder))
    assert "1 missing: model.layers.1.mlp.up_proj.weight" in str(told.value)
    assert "1 left over: model.layers.9.mlp.up_proj.weight" in str(told.value)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    folder = write_model(tmp_path, **KINDS["llama"])
    write_config(tmp_path, vocab_size=60)
    with pytest.raises(BadModel, match=r"2 of another shape: .*embed_tokens.weight \[61, 32\] for \[60, 32\]"):
        weights.find(folder, config.read(folder))


def test_a_tied_model_saved_with_only_its_head_loads(tmp_path):
    usual, odd = (write_model(tmp_path / name, **KINDS["llama, tied"]) for name in ("usual", "odd"))
    arrays = random_weights(config.read(odd))
    arrays["lm_head.weight"] = arrays.pop("model.embed_tokens.weight")
    (odd / "model.safetensors").unlink()
    write_tensors(odd / "model.safetensors", tensors(arrays))
    batch = random_batch()
    assert learner(odd).evaluate(batch) == learner(usual).evaluate(batch)


def test_shards_load_as_one_file_does(tmp_path):
    whole, sharded = (write_model(tmp_path / name, **KINDS["llama"]) for name in ("whole", "sharded"))
    arrays = list(random_weights(config.read(whole)).items())
    (sharded / "model.safetensors").unlink()
    for number in (1, 2):
        write_tensors(sharded / f"model-{number:05}-of-00002.safetensors", tensors(dict(arrays[number - 1 :: 2])))
    assert np.array_equal(learner(whole).flat.buffer, learner(sharded).flat.buffer)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit_weights_come_back_as_they_were(precision, tmp_path):
    folder = write_model(tmp_path, precision, **KINDS["llama"])
    decoder = config.read(folder)
    layout = lay_out(shapes(decoder), ())
    flat = Flat(layout, np.empty(layout.size, np.float32))
    weights.read(weights.find(folder, decoder), flat, precision)
    written = random_weights(decoder)
    for tensor in tensors(written, precision):
        assert np.array_equal(flat[tensor.info.name], written[tensor.info.name])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_rounding_is_torch_s(precision):
    torch = pytest.importorskip("torch", reason="the oracle of this test is not installed")
    numbers = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    expected = torch.from_numpy(numbers.copy()).to(dtype).float().numpy()
    weights.round_to(numbers, precision)
    assert np.array_equal(numbers, expected)
