import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import BadModel, Faults
from mlxtune.models.config import TIED_BY_DEFAULT, ModelConfig, read
from tests.support.assets import assets_folder
from tests.support.model import CONFIG, write_json, write_model


def read_with(tmp_path: Path, change: dict[str, Any]) -> ModelConfig:
    """The config with some keys changed; a key whose value is ... is left out."""
    write_json(tmp_path / "config.json", {k: v for k, v in {**CONFIG, **change}.items() if v is not ...})
    return read(tmp_path)


@pytest.mark.parametrize(
    ("file", "n_layers", "heads", "head_dim", "tied"),
    [
        ("Meta-Llama-3-8B.json", 32, (32, 8), 128, False),
        ("Mistral-7B-v0.1.json", 32, (32, 8), 128, False),
        ("Qwen2.5-7B-Instruct.json", 28, (28, 4), 128, False),
        ("llama-3.2-1b.json", 16, (32, 8), 64, True),
        ("qwen2-0.5b.json", 24, (14, 2), 64, True),
        ("gemma2-2b.json", 26, (8, 4), 256, True),  # says nothing of tying, and states a head_dim of its own
        ("smollm2-135m.json", 30, (9, 3), 64, True),
    ],
)
def test_configs_of_real_models_are_read(tmp_path, file, n_layers, heads, head_dim, tied):
    (tmp_path / "config.json").write_bytes((assets_folder() / "configs" / file).read_bytes())
    config = read(tmp_path)
    assert (config.n_layers, (config.n_heads, config.n_kv_heads)) == (n_layers, heads)
    assert (config.head_dim, config.tied) == (head_dim, tied)
    assert config.quantized is None
    assert config.dtype in ("bfloat16", "float16")


@pytest.mark.slow
def test_tying_defaults_are_those_of_transformers():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mlx_lm = pytest.importorskip("mlx_lm")
    # In transformers' class the wrapper of these says True, while its language model, whose sizes are read, says False.
    wrappers = {"kimi_k25", "mistral3"}
    families = {path.stem for path in (Path(mlx_lm.__file__).parent / "models").glob("*.py")}
    tied = {
        name for name in families & set(CONFIG_MAPPING) if getattr(CONFIG_MAPPING[name](), "tie_word_embeddings", False)
    }
    assert tied - wrappers == TIED_BY_DEFAULT & families


def test_heads_and_tying_have_their_familys_defaults_where_the_file_is_silent(tmp_path):
    silent = {"num_key_value_heads": ..., "head_dim": ..., "tie_word_embeddings": ...}
    config = read_with(tmp_path, silent)
    assert (config.n_kv_heads, config.head_dim, config.tied) == (4, 4, False)
    assert read_with(tmp_path, {**silent, "model_type": "gemma2"}).tied


def test_an_older_spelling_of_the_sizes_is_read(tmp_path):
    sizes = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    write_json(tmp_path / "config.json", {"model_type": "gpt2", **sizes})
    config = read(tmp_path)
    assert (config.n_layers, config.hidden_size, config.head_dim, config.max_positions) == (12, 768, 64, 1024)
    assert config.tied


def test_a_multimodal_config_gives_its_language_models_sizes(tmp_path):
    text = {key: CONFIG[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")}
    write_json(tmp_path / "config.json", {"model_type": "gemma3", "text_config": {**text, "model_type": "gemma3_text"}})
    config = read(tmp_path)
    assert (config.model_type, config.n_layers, config.tied) == ("gemma3", 2, True)


def test_quantized_weights_are_told_in_words(tmp_path):
    assert read_with(tmp_path, {"quantization": {"bits": 4, "group_size": 64}}).quantized == "4 bits, groups of 64"
    assert read_with(tmp_path, {"quantization_config": {"quant_method": "mxfp4"}}).quantized == "mxfp4"
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    assert read_with(tmp_path, {"quantization_config": awq}).quantized == "awq, 4 bits, groups of 128"


def test_every_missing_key_is_named_at_once(tmp_path):
    with pytest.raises(BadModel, match="model_type, num_hidden_layers, vocab_size, num_attention_heads"):
        read_with(
            tmp_path, dict.fromkeys(("model_type", "num_hidden_layers", "vocab_size", "num_attention_heads"), ...)
        )


def test_every_size_that_is_no_size_is_named_at_once(tmp_path):
    with pytest.raises(Faults) as caught:
        read_with(tmp_path, {"hidden_size": "16", "vocab_size": 0, "num_hidden_layers": True, "head_dim": 2.5})
    for fault in ("hidden_size: expected a whole number from 1 to 2,147,483,648, found `16`", "0.", "true", "2.5"):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("num_hidden_layers", 10**30, "num_hidden_layers"),
        ("hidden_size", -4, "hidden_size"),
        ("model_type", 7, "model_type"),
        ("architectures", "LlamaForCausalLM", "architectures"),
        ("architectures", [None], "architectures.0"),
        ("tie_word_embeddings", "yes", "tie_word_embeddings"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps"),
        ("rms_norm_eps", "1e-5", "rms_norm_eps"),
        ("rope_theta", 0, "rope_theta"),
        ("rope_theta", True, "rope_theta"),
        ("rope_scaling", "llama3", "rope_scaling"),
        ("rope_scaling", {"rope_type": "linear", "factor": float("inf")}, "rope_scaling.factor"),
        ("rope_parameters", {"full_attention": {"rope_theta": -1}}, "rope_parameters.full_attention.rope_theta"),
        ("sliding_window", -5, "sliding_window"),
        ("layer_types", ["full_attention"], "layer_types"),
        ("num_key_value_heads", 3, "num_key_value_heads"),
        ("quantization", [4], "quantization"),
        ("text_config", [], "text_config"),
        ("text_config", {"rms_norm_eps": []}, "text_config: rms_norm_eps"),
    ],
)
def test_a_value_of_the_wrong_kind_or_size_is_told_by_its_key(key, value, where, tmp_path):
    with pytest.raises(BadModel) as caught:
        read_with(tmp_path, {key: value})
    assert f"config.json: {where}: expected" in str(caught.value)


def test_a_family_without_attention_has_no_heads(tmp_path):
    config = read_with(tmp_path, {"model_type": "mamba", "num_attention_heads": ..., "num_key_value_heads": ...})
    assert (config.n_heads, config.head_dim) == (0, 0)


def test_a_model_that_needs_code_of_its_own_is_refused_and_one_that_only_mentions_it_is_not(tmp_path):
    with pytest.raises(BadModel, match=r"Python code of its own, model\.py"):
        read_with(tmp_path, {"model_file": "model.py"})
    assert read_with(tmp_path, {"auto_map": {"AutoModel": "modeling.Model"}}).n_layers == 2


def test_broken_json_is_told_with_its_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama",\n "hidden_size": }')
    with pytest.raises(BadModel, match=r"config\.json:2: expected JSON, found a fault at column 17"):
        read(tmp_path)


@pytest.mark.parametrize("text", [b"[1, 2]", b"\xff\xfe\xfa", b'{"a": 1, "a": 2}', b""])
def test_what_is_no_json_object_is_told_as_such(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(BadModel, match=r"config\.json"):
        read(tmp_path)


def test_a_folder_that_is_no_model_is_told_with_what_it_holds(tmp_path):
    with pytest.raises(BadModel, match="found an empty folder"):
        read(tmp_path)
    with pytest.raises(BadModel, match="found nothing there"):
        read(tmp_path / "nowhere")
    for name in ("photo.jpg", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(BadModel, match=r"found a folder with notes\.txt, photo\.jpg"):
        read(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(BadModel, match="This folder is an adapter"):
        read(tmp_path)


def test_raw_keeps_every_key(tmp_path):
    write_model(tmp_path)
    assert read(tmp_path).raw == json.loads((tmp_path / "config.json").read_text())
