"""Names and shapes of all parameters without the weights; transformers, mlx-lm and the headers are the oracles."""

import json
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models import published
from mlxtune.models.aliases import ALIASES
from mlxtune.models.dimensions import FAMILIES, Dimensions
from mlxtune.models.hub import resolve
from mlxtune.models.outline import FROM_CONFIG, FROM_HEADERS, FROM_HUB, FROM_PACKAGE, Outline, outline
from tests.support.assets import assets_folder
from tests.support.hub import Hub, place_in_cache, serve, use, use_cache
from tests.support.model import CONFIG, some_tensors, write_json, write_model, write_tokenizer, write_weights

REPO = "org/name"
PUBLISHED = {
    "Meta-Llama-3-8B": 8_030_261_248,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
}
REAL = (*PUBLISHED, "gemma2-2b", "llama-3.2-1b", "qwen2-0.5b", "smollm2-135m")
UNKNOWN = {**CONFIG, "model_type": "olmo2"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def real(name: str, folder: Path) -> Path:
    shutil.copy(assets_folder() / "configs" / f"{name}.json", folder / "config.json")
    return folder


def random_config(family: str, seed: int) -> dict[str, Any]:
    """A small config that is the same to transformers and to mlx-lm."""
    random = np.random.default_rng([FAMILIES.index(family), seed])
    n_kv_heads = int(random.integers(1, 4))
    config = {
        "model_type": family,
        "num_hidden_layers": int(random.integers(1, 4)),
        "hidden_size": 36 * int(random.integers(2, 5)),  # which every number of heads below divides
        "intermediate_size": int(random.integers(10, 35)),
        "vocab_size": int(random.integers(37, 70)),
        "num_attention_heads": n_kv_heads * int(random.integers(2, 4)),
        "num_key_value_heads": n_kv_heads,
        "head_dim": 2 * int(random.integers(3, 9)),
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "pad_token_id": 0,
    }
    if family == "gemma3_text":
        config["num_hidden_layers"] = 6  # mlx-lm's code needs one layer that sees the whole text, the sixth
    if family == "qwen2":
        del config["head_dim"]  # mlx-lm reads none
    tied = family in ("gemma", "gemma2") or bool(seed % 2)  # mlx-lm ties these two whatever the config says
    biases = {"attention_bias": seed == 2} if family in ("llama", "smollm3") else {}
    return {**config, **biases, "tie_word_embeddings": tied}


def torch_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of transformers' model of a config, without memory for its weights."""
    torch = pytest.importorskip("torch", reason="the oracle of this test is not installed")
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def zeros(shapes: Any) -> dict[str, Any]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def dimensions(found: Outline) -> Dimensions:
    assert found.dimensions is not None
    return found.dimensions


@pytest.mark.parametrize(("name", "n_parameters"), PUBLISHED.items())
def test_published_parameter_counts_are_hit(name, n_parameters, tmp_path):
    found = outline(str(real(name, tmp_path)))
    assert found.source == FROM_CONFIG
    assert sum(map(prod, found.shapes.values())) == n_parameters


@pytest.mark.parametrize("name", REAL)
def test_shapes_of_real_models_are_those_of_transformers(name, tmp_path):
    assert outline(str(real(name, tmp_path))).shapes == torch_shapes(tmp_path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_of_every_family_are_those_of_transformers(family, seed, tmp_path):
    write_json(tmp_path / "config.json", random_config(family, seed))
    assert outline(str(tmp_path)).shapes == torch_shapes(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_width_of_a_head_has_its_familys_default(family, tmp_path):
    write_json(tmp_path / "config.json", {k: v for k, v in random_config(family, 0).items() if k != "head_dim"})
    assert outline(str(tmp_path)).shapes == torch_shapes(tmp_path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_into_mlx_lms_tree_of_the_same_shapes(family, seed, tmp_path):
    pytest.importorskip("mlx_lm", reason="the oracle of this test is not installed")
    from mlx.utils import tree_flatten

    from mlxtune.backends.mlx.model.load import load_lazily

    write_json(tmp_path / "config.json", random_config(family, seed))
    from_config = outline(str(tmp_path))
    save_file(zeros(from_config.shapes), tmp_path / "model.safetensors", {"format": "pt"})
    tree = {name: tuple(array.shape) for name, array in tree_flatten(load_lazily(tmp_path, "fp32").parameters())}
    from_headers = outline(str(tmp_path))
    assert from_config.shapes == from_headers.shapes == tree
    assert (from_config.source, from_headers.source) == (FROM_CONFIG, FROM_HEADERS)
    assert from_config.dimensions == from_headers.dimensions


@pytest.mark.parametrize("change", [{"mlp_bias": True}, {"intermediate_size": None}, {"model_type": "olmo2"}])
def test_what_dimensions_cannot_say_has_none(change, tmp_path):
    write_json(write_model(tmp_path) / "config.json", {**CONFIG, **change})
    found = outline(str(tmp_path))
    assert (found.dimensions, found.source) == (None, FROM_HEADERS)


@pytest.mark.parametrize("shards", [1, 3])
def test_headers_tell_every_tensor_with_layers_in_order_of_their_numbers(shards, tmp_path):
    write_json(tmp_path / "config.json", UNKNOWN)
    names = [f"model.layers.{layer}.{part}" for layer in range(12) for part in ("a.weight", "experts.3.weight")]
    tensors = zeros({name: (layer + 1, 2) for layer, name in enumerate([EMBEDDING, *names, "model.norm.weight"])})
    write_weights(tmp_path, tensors, shards)
    found = outline(str(tmp_path)).shapes
    assert found == {name: array.shape for name, array in tensors.items()}
    numbers = [int(name.split(".")[2]) for name in found if "layers" in name]
    assert numbers == sorted(numbers)


def test_headers_win_over_the_config(tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    shapes = {**outline(str(tmp_path)).shapes, EMBEDDING: (CONFIG["vocab_size"] + 3, CONFIG["hidden_size"])}
    save_file(zeros(shapes), tmp_path / "model.safetensors")
    found = outline(str(tmp_path))
    assert (found.shapes, found.source) == (shapes, FROM_HEADERS)
    assert dimensions(found).vocab_size == CONFIG["vocab_size"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_was_saved_with_a_tied_model_is_left_out(tied, tmp_path):
    write_json(tmp_path / "config.json", {**CONFIG, "tie_word_embeddings": tied})
    expected = dict(outline(str(tmp_path)).shapes)
    more = {HEAD: expected[EMBEDDING], "model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}
    save_file(zeros(expected | more), tmp_path / "model.safetensors")
    assert outline(str(tmp_path)).shapes == expected
    assert (HEAD in expected) is not tied


def test_the_head_of_a_tied_model_that_was_saved_alone_is_its_embedding(tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    expected = dict(outline(str(tmp_path)).shapes)
    stored = {name.replace(EMBEDDING, HEAD): shape for name, shape in expected.items()}
    save_file(zeros(stored), tmp_path / "model.safetensors")
    assert outline(str(tmp_path)).shapes == expected


def test_the_built_in_model_has_an_outline():
    found = outline(None)
    assert found.source == FROM_HEADERS
    assert found.shapes.keys() == outline("tiny").shapes.keys()


@pytest.mark.parametrize(
    ("file", "remedy"), [("readme.txt", "Weights are the files"), ("pytorch_model.bin", "Convert them")]
)
def test_an_unknown_family_without_weights_is_told_with_a_remedy(file, remedy, tmp_path):
    write_json(tmp_path / "config.json", UNKNOWN)
    (tmp_path / file).write_text("")
    with pytest.raises(BadModel, match=remedy) as told:
        outline(str(tmp_path))
    for words in ("model*.safetensors", "olmo2", str(tmp_path), file, *FAMILIES):
        assert words in str(told.value)


def test_a_folder_in_part_or_without_a_config_is_told_as_loading_tells_it(tmp_path):
    with pytest.raises(BadModel, match=r"a model folder with config\.json"):
        outline(str(tmp_path))
    (write_model(tmp_path / "part", shards=2) / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(BadModel, match=r"all shards .* found no model-00001-of-00002\.safetensors"):
        outline(str(tmp_path / "part"))


def test_it_takes_under_two_seconds_and_no_array_library(tmp_path):
    """Seconds of the processor, so that a busy machine is no fault; the interpreter's start is among them."""
    code = (
        "import json, sys, time; from mlxtune.models.outline import outline; "
        "sources = [outline(name).source for name in (sys.argv[1], None)]; "
        "print(json.dumps([sources, sorted(sys.modules), time.process_time()]))"
    )
    command = [sys.executable, "-c", code, str(real("Meta-Llama-3-8B", tmp_path))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    sources, modules, seconds = json.loads(ended.stdout)
    assert sources == [FROM_CONFIG, FROM_HEADERS]
    assert not set(modules) & {"mlx", "mlx.core", "mlx_lm", "torch", "transformers", "numpy", "huggingface_hub"}
    assert seconds < 2


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return use_cache(tmp_path / "cache", monkeypatch)


@pytest.fixture
def hub(tmp_path, cache, monkeypatch):  # noqa: ARG001 - the cache is this test's own
    """A hub on this machine with a model whose weights are larger than what is asked for at once."""
    write_model(tmp_path / "repo")
    large = {f"model.layers.{layer}.weight": np.ones((300, 300), np.float32) for layer in range(3)}
    write_weights(tmp_path / "repo", large)
    with serve(Hub(REPO, tmp_path / "repo")) as there:
        use(there, monkeypatch)
        yield there


def test_of_a_known_family_on_the_hub_only_config_and_tokenizer_are_fetched(hub):
    found = outline(REPO)
    assert (found.source, found.config.model_type) == (FROM_CONFIG, "llama")
    assert hub.fetched == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    hub.asked.clear()
    assert resolve(REPO).joinpath("model.safetensors").is_file()
    assert hub.fetched == {"model.safetensors"}
    assert outline(REPO).source == FROM_HEADERS


@pytest.mark.parametrize("shards", [1, 3])
def test_of_another_family_on_the_hub_only_headers_are_asked_for_besides(hub, shards):
    write_json(hub.folder / "config.json", UNKNOWN)
    if shards > 1:
        (hub.folder / "model.safetensors").unlink()
        write_weights(hub.folder, {f"model.layers.{i}.weight": np.ones((300, 300)) for i in range(3)}, shards)
    found = outline(REPO)
    assert (found.source, found.dimensions) == (FROM_HUB, None)
    assert found.shapes == {f"model.layers.{layer}.weight": (300, 300) for layer in range(3)}
    weights = {name: size for name, size in hub.sent_bytes.items() if name.endswith(".safetensors")}
    assert len(weights) == shards
    for name, sent in weights.items():
        assert 0 < sent < (hub.folder / name).stat().st_size / 5


def test_a_complete_copy_in_the_cache_is_read_without_asking_the_hub(cache):
    write_model(place_in_cache(cache, REPO))
    found = outline(REPO)
    assert found.source == FROM_HEADERS
    assert found.shapes == {name: array.shape for name, array in some_tensors().items()}


def test_a_config_in_the_cache_is_enough_for_a_known_family_when_offline(cache):
    folder = place_in_cache(cache, REPO)
    write_json(folder / "config.json", CONFIG)
    write_tokenizer(folder)
    assert outline(REPO).source == FROM_CONFIG
    write_json(folder / "config.json", UNKNOWN)
    with pytest.raises(BadModel, match="HF_HUB_OFFLINE is set"):
        outline(REPO)


@pytest.mark.parametrize(
    ("lost", "file", "told"),
    [
        ("config.json", "adapter_config.json", r"found no config\.json\.\n.*is an adapter"),
        (
            "model.safetensors",
            "model.bin",
            r"expected model\.safetensors or its index in the repository, found neither",
        ),
    ],
)
def test_a_repository_that_cannot_be_outlined_is_told_with_a_remedy(hub, lost, file, told):
    write_json(hub.folder / "config.json", UNKNOWN)
    (hub.folder / lost).unlink()
    (hub.folder / file).write_text("{}")
    with pytest.raises(BadModel, match=told):
        outline(REPO)


def test_a_name_that_is_nothing_is_told_as_training_tells_it(cache):  # noqa: ARG001 - nothing is asked
    with pytest.raises(BadModel, match="Did you mean dolphin-8b"):
        outline("dolfin-8b")


OF_FILES = {
    "meta-llama/Meta-Llama-3-8B": "Meta-Llama-3-8B",
    "Qwen/Qwen2.5-7B-Instruct": "Qwen2.5-7B-Instruct",
    "google/gemma-2-2b": "gemma2-2b",
    "meta-llama/Llama-3.2-1B": "llama-3.2-1b",
    "HuggingFaceTB/SmolLM2-135M": "smollm2-135m",
}
COUNTS = {  # as published with the models
    "cognitivecomputations/dolphin-2.9-llama3-8b": 8_030_277_632,
    "google/gemma-3-1b-it": 999_885_952,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}


@pytest.mark.parametrize(("repo", "name"), OF_FILES.items())
def test_what_is_known_of_a_model_with_an_alias_is_its_config(repo, name, tmp_path):
    """Its count too, so, as the shapes of a config are transformers'."""
    known, read = published.config(repo), model_config.read(real(name, tmp_path))
    assert known is not None
    assert Dimensions.of(known) == Dimensions.of(read)
    assert (known.max_positions, known.tied) == (read.max_positions, read.tied)
    assert published.n_parameters(repo) == sum(map(prod, torch_shapes(tmp_path).values()))


@pytest.mark.parametrize(("repo", "count"), COUNTS.items())
def test_models_whose_config_is_not_here_have_their_published_count(repo, count):
    assert published.n_parameters(repo) == count


def test_every_alias_is_known_without_the_hub(cache):  # noqa: ARG001 - nothing is in it
    assert published.PUBLISHED.keys() == {*ALIASES.values()}
    for alias in ALIASES:
        found = outline(alias)
        assert found.source == FROM_PACKAGE
        assert sum(map(prod, found.shapes.values())) == published.n_parameters(ALIASES[alias])


def test_what_lies_in_the_cache_wins_over_what_is_known(cache):
    write_model(place_in_cache(cache, "meta-llama/Meta-Llama-3-8B"))
    assert outline("llama-3-8b").source == FROM_HEADERS
