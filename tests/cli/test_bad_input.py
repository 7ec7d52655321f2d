"""Bad input is refused with the same exit code and the same words on every backend, and leaves nothing behind."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.cli import BACKENDS, TEXT_ROWS, model, write

LAST = "model.layers.4.mlp.up_proj.weight"
SHORT = ("--precision", "fp32", "--max-steps", 2, "--batch-size", 2)


def rows(tmp_path, *more):
    return "--data", write(tmp_path / "rows.jsonl", [*TEXT_ROWS, *more])


def with_config(tmp_path, **changes):
    path = model(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return "--model", path.parent


def with_tensors(tmp_path, change):
    """A copy of the built-in model whose tensors were changed in place by a function of their table."""
    path = model(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return "--model", path.parent


def cut_short(tmp_path):
    path = model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return "--model", path.parent


def without(tmp_path, name):
    (model(tmp_path) / name).unlink()
    return "--model", tmp_path / "model"


def renamed(tensors):
    tensors["model.layers.4.mlp.other.weight"] = tensors.pop(LAST)


def reshaped(tensors):
    tensors[LAST] = tensors[LAST][:-1].copy()
    del tensors["model.norm.weight"]


def quantised(tmp_path):
    """Four bits, eight in each word of 32; groups of 32 share a scale and a bias, as MLX stores them."""

    def pack(tensors):
        n_rows, n_columns = tensors[LAST].shape
        tensors[LAST] = np.zeros((n_rows, n_columns // 8), np.uint32)
        for what in ("scales", "biases"):
            tensors[LAST.replace("weight", what)] = np.ones((n_rows, n_columns // 32), np.float16)

    folder = with_tensors(tmp_path, pack)[1]
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization": {"bits": 4, "group_size": 32}}))
    return "--model", folder


# What is wrong: a function from a folder to the options that bring it about.
TRAIN = {
    "no such data": lambda _: ("--data", "nowhere.jsonl"),
    "an empty file": lambda tmp_path: ("--data", write(tmp_path / "rows.jsonl", [])),
    "broken json": lambda tmp_path: rows(tmp_path, '{"text": "x",'),
    "text that is no string": lambda tmp_path: rows(tmp_path, {"text": 5}),
    "a row of no known form": lambda tmp_path: rows(tmp_path, {"words": "x"}),
    "rows that are too long": lambda tmp_path: (*rows(tmp_path), "--max-seq-length", 4),
    "a batch larger than the rows": lambda tmp_path: (*rows(tmp_path), "--batch-size", 12),
    "no such model folder": lambda _: ("--model", "./nowhere"),
    "no such alias": lambda _: ("--model", "dolfin-8b"),
    "no config": lambda tmp_path: without(tmp_path, "config.json"),
    "no weights": lambda tmp_path: without(tmp_path, "model.safetensors"),
    "no tokenizer": lambda tmp_path: without(tmp_path, "tokenizer.json"),
    "a size that is none": lambda tmp_path: with_config(tmp_path, hidden_size=-96),
    "code of its own": lambda tmp_path: with_config(tmp_path, model_file="model.py"),
    "quantised weights": quantised,
    "more layers in the config": lambda tmp_path: with_config(tmp_path, num_hidden_layers=6),
    "fewer layers in the config": lambda tmp_path: with_config(tmp_path, num_hidden_layers=4),
    "another width in the config": lambda tmp_path: with_config(tmp_path, intermediate_size=128),
    "a file cut short": cut_short,
    "a tensor missing": lambda tmp_path: with_tensors(tmp_path, lambda tensors: tensors.pop(LAST)),
    "a tensor left over": lambda tmp_path: with_tensors(tmp_path, lambda t: t.update(extra=np.ones(3, np.float32))),
    "a tensor of another name": lambda tmp_path: with_tensors(tmp_path, renamed),
    "a tensor of another shape": lambda tmp_path: with_tensors(tmp_path, reshaped),
    "whole numbers as weights": lambda tmp_path: with_tensors(
        tmp_path, lambda tensors: tensors.update({LAST: tensors[LAST].astype(np.int32)})
    ),
    "more layers than there are": lambda _: ("--last-n", 99),
    "no layers": lambda _: ("--last-n", 0),
    "a target that is nowhere": lambda _: ("--strategy", "lora", "--target", "w_proj"),
    "a rank of 0": lambda _: ("--strategy", "lora", "--rank", 0),
    "an unknown strategy": lambda _: ("--strategy", "another"),
    "a negative rate": lambda _: ("--learning-rate", -1e-3),
    "a rate that is no number": lambda _: ("--learning-rate", "nan"),
    "a negative norm": lambda _: ("--clip-norm", -1),
    "an unknown precision": lambda _: ("--precision", "int8"),
    "steps and epochs": lambda _: ("--epochs", 1),
    "no steps": lambda _: ("--max-steps", 0),
}


@pytest.fixture
def said(mlxtune, tmp_path):
    """What every backend says to the same arguments, which must be the same, and leave nothing new."""

    def call(*arguments, exit_code=2):
        before = sorted(tmp_path.rglob("*"))
        found = [mlxtune(*arguments, "--backend", backend) for backend in BACKENDS]
        assert {each.returncode for each in found} == {exit_code}
        assert len({each.stderr for each in found}) == 1
        assert found[0].stderr.startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return found[0].stderr

    return call


@pytest.mark.parametrize("options", TRAIN.values(), ids=TRAIN)
@pytest.mark.few(2)
def test_training_on_bad_input_is_refused_in_the_same_words(options, said, tmp_path):
    said("train", *SHORT, "--out", "run", *options(tmp_path))


def test_an_architecture_that_no_backend_has_is_refused_by_its_name(mlxtune, tmp_path):
    """Each backend says in its own words what it has."""
    options = with_config(tmp_path, model_type="nonesuch")
    for backend in BACKENDS:
        found = mlxtune("train", *SHORT, *options, "--backend", backend)
        assert (found.returncode, found.stderr[:7]) == (2, "error: ")
        assert "nonesuch" in found.stderr


def set_nan(tensors):
    tensors[LAST][0, 0] = np.nan


def test_a_base_model_that_is_not_finite_is_refused_by_its_tensor_on_every_backend(mlxtune, tmp_path):
    options = (*with_tensors(tmp_path, set_nan), *rows(tmp_path))
    for number, backend in enumerate(BACKENDS):
        found = mlxtune("train", *SHORT, *options, "--out", f"run{number}", "--backend", backend)
        assert found.returncode == 2
        assert LAST in found.stderr


def adapter(tmp_path, change, **config):
    """An adapter folder: LoRA of one module of the built-in model, but for a change of its tensors and its config."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    module = LAST.removesuffix(".weight")
    tensors = {f"{module}.lora_a": np.ones((96, 2), np.float32), f"{module}.lora_b": np.ones((2, 112), np.float32)}
    change(tensors)
    save_file(tensors, folder / "adapters.safetensors")
    lora = {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": ["mlp.up_proj"]}
    document = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": lora, **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def full(tensors):
    tensors.clear()
    tensors[LAST] = np.ones((112, 95), np.float32)


def of_layer_9(tensors):
    for name in list(tensors):
        tensors[name.replace("layers.4", "layers.9")] = tensors.pop(name)


def wider(tensors):
    for name in tensors:
        tensors[name] = np.ones((97, 2), np.float32)


def halved(tensors):
    del tensors[LAST.replace("weight", "lora_b")]


def of_a_norm(tensors):
    for name in list(tensors):
        tensors[name.replace("mlp.up_proj", "input_layernorm")] = tensors.pop(name)


ADAPTERS = {
    "a norm": (of_a_norm, {}),
    "half of a LoRA": (halved, {}),
    "another layer": (of_layer_9, {}),
    "another width": (wider, {}),
    "another width of a whole parameter": (full, {"fine_tune_type": "full"}),
    "LoRA said to be whole": (dict, {"fine_tune_type": "full"}),
    "another rank": (dict, {"lora_parameters": {"rank": 3, "scale": 1.0, "dropout": 0.0}}),
    "a tensor of DoRA": (lambda tensors: tensors.update({LAST.replace("weight", "m"): np.ones(112, np.float32)}), {}),
    "parameters that are none": (dict, {"lora_parameters": "all"}),
    "no scale": (dict, {"lora_parameters": {"rank": 2}}),
    "no parameters": (dict, {"lora_parameters": None}),
    "no depth": (dict, {"num_layers": None}),
}


@pytest.mark.parametrize(("change", "config"), ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_that_does_not_fit_is_refused_in_the_same_words(change, config, said, tmp_path):
    options = ("--adapter", adapter(tmp_path, change, **config), "--precision", "fp32")
    assert "adapter" in said("generate", "--prompt", "x", "--max-tokens", 1, *options)


@pytest.mark.slow
def test_an_adapter_that_fits_is_taken(mlxtune, tmp_path):
    options = ("--adapter", adapter(tmp_path, dict), "--precision", "fp32", "--json")
    losses = [json.loads(mlxtune("eval", *options, "--backend", backend).stdout)["loss"] for backend in BACKENDS]
    assert losses == pytest.approx([losses[0]] * len(BACKENDS), rel=1e-5)


TRY = {
    "no such adapter": lambda _: ("--adapter", "nowhere"),
    "an adapter that is a model": lambda tmp_path: ("--adapter", model(tmp_path)),
    "quantised weights": quantised,
    "a tensor missing": TRAIN["a tensor missing"],
    "no such model folder": TRAIN["no such model folder"],
    "an unknown precision": TRAIN["an unknown precision"],
}


@pytest.mark.parametrize("verb", ["eval", "generate"])
@pytest.mark.parametrize("options", TRY.values(), ids=TRY)
@pytest.mark.few(2)
def test_trying_what_is_not_whole_is_refused_in_the_same_words(options, verb, said, tmp_path):
    said(verb, *(("--prompt", "x") if verb == "generate" else ()), *options(tmp_path))
