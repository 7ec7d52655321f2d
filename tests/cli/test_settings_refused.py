"""A setting that cannot have its effect beside the others, the model or the rows is refused under its own name."""

import json

import pytest

from mlxtune.errors import BadSetting
from mlxtune.models import config as model_config
from mlxtune.models.context import context
from mlxtune.models.hub import BUILT_IN
from tests.support.cli import BACKENDS, TEXT_ROWS, model, write
from tests.support.memory import outline_folder

LORA = ("--strategy", "lora")
SGD = ("--optimizer", "sgd")
COSINE = ("--schedule", "cosine")
CONTEXT = context(model_config.read(BUILT_IN))
# Options that a run of 10 steps on 12 rows of text is given, and how its refusal begins.
REFUSED = {
    ("--warmup-steps", 10): "--warmup-steps: expected fewer than the run's 10 steps, found 10.",
    ("--warmup-steps", 11, *COSINE): "--warmup-steps: expected fewer than the run's 10 steps, found 11.",
    ("--warmup-steps", -1): "--warmup-steps: expected 0 or more, found -1.",
    (*COSINE, "--min-learning-rate", 1.0): "--min-learning-rate: expected at most --learning-rate, 1e-05, found 1.",
    (*COSINE, "--min-learning-rate", "nan"): "--min-learning-rate: expected",
    ("--min-learning-rate", 1e-6): "--min-learning-rate: expected no such setting with schedule constant, found 1e-06.",
    ("--max-seq-length", CONTEXT + 1): f"--max-seq-length: expected at most {CONTEXT:,} tokens, the model's context,",
    ("--max-seq-length", 1): "--max-seq-length: expected 2 or more, found 1.",
    (*LORA, "--rank", 10_000): "--rank: expected at most",
    ("--rank", 4): "--rank: expected no such setting with strategy last-n, found 4.",
    ("--dropout", 0.1): "--dropout: expected no such setting with strategy last-n, found 0.1.",
    ("--target", "q_proj"): "--target: expected no such setting with strategy last-n, found ('q_proj',).",
    ("--strategy", "full", "--last-n", 2): "--last-n: expected no such setting with strategy full, found 2.",
    (*LORA, "--no-head"): "--head: expected no such setting with strategy lora, found False.",
    (*LORA, "--target", "w_proj"): "--target: expected names or patterns of linear modules in the model's layers",
    (*LORA, "--scale", 0): "--scale: expected a number above 1e-30, found 0.0.",
    (*LORA, "--scale", -1): "--scale: expected a number above 1e-30, found -1.0.",
    (*LORA, "--scale", 2, "--alpha", 16): "--scale: expected scale or alpha",
    (*LORA, "--dropout", 1): "--dropout: expected a number below 1, found 1.0.",
    ("--learning-rate", 0): "--learning-rate: expected 1e-30 or more, found 0.0.",
    ("--learning-rate", "inf"): "--learning-rate: expected",
    ("--learning-rate", "nan"): "--learning-rate: expected",
    ("--learning-rate", "1e39"): "--learning-rate: expected 1e+38 or less, found 1e+39.",
    ("--learning-rate", "1e-50"): "--learning-rate: expected 1e-30 or more, found 1e-50.",
    ("--clip-norm", "1e-300"): "--clip-norm: expected a number above 1e-30",
    ("--weight-decay", "inf"): "--weight-decay: expected",
    ("--seed", 2**31): "--seed: expected a number below 2147483648, found 2147483648.",
    ("--seed", -1): "--seed: expected 0 or more, found -1.",
    ("--epochs", 1): "--max-steps: expected max_steps or epochs, found max_steps 10 and epochs 1.",
    ("--momentum", 0.9): "--momentum: expected no such setting with optimizer adamw, found 0.9.",
    ("--optimizer", "adam", "--nesterov"): "--nesterov: expected no such setting with optimizer adam, found True.",
    (*SGD, "--nesterov"): "--nesterov: expected a setting that does something, found true with a momentum of 0.",
    (*SGD, "--moments", "bf16"): "--moments: expected a setting that does something, found bf16 with sgd as it is set",
    (*SGD, "--momentum", 1): "--momentum: expected a number below 1, found 1.0.",
    (*SGD, "--momentum", -0.1): "--momentum: expected 0 or more, found -0.1.",
    ("--optimizer", "lion"): "--optimizer: expected adamw or adam or sgd, found 'lion'.",
    ("--memory-limit", "1kB"): "--memory-limit: expected a run that fits 1.0 kB, found one that needs",
    ("--memory-limit", 0): "--memory-limit: expected 1 or more, found 0.",
    ("--loss-on", "last"): "--loss-on: expected auto or all where rows are text, which has no turns, found last",
    ("--loss-on", "assistant"): "--loss-on: expected auto or all where rows are text",
    ("--system", "Be brief."): "--system: expected a chat template, and a conversation or a prompt without a system",
    ("--patience", 40): "--patience: expected fewer than the run's ",
    ("--batch-size", 12): "--batch-size: expected at most the 11 training rows in a step",
    ("--grad-accum", 99): "--batch-size: expected at most the 11 training rows in a step",
    ("--revision", "main"): "--revision: expected no revision, as the model is a local folder",
    (
        "--strategy",
        "full",
        "--prefix-cache",
        "on",
    ): "--prefix-cache: expected frozen layers before the first",
    ("--backend", "numpy", "--bundled-blas"): "--system-blas: expected a setting that does something, found false",
}


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: " ".join(map(str, options)))
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.few(2)
def test_what_could_have_no_effect_is_refused_under_its_flag(mlxtune, tmp_path, options, backend):
    backend = () if "--backend" in options else ("--backend", backend)
    common = ("--data", write(tmp_path / "rows.jsonl", TEXT_ROWS), "--max-steps", 10, "--batch-size", 2)
    before = sorted(tmp_path.rglob("*"))
    found = mlxtune("train", *common, *options, *backend, "--out", "run")
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {REFUSED[options]}"), found.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("options", [("--patience", 2), ("--eval-every", 5)], ids=str)
def test_validation_is_not_asked_for_where_there_are_no_rows_for_it(mlxtune, tmp_path, options):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {valid_share: 0}\n")
    data = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    found = mlxtune("train", "--recipe", recipe, "--data", data, "--max-steps", 3, *options, "--dry-run")
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {options[0]}: expected validation rows, of which there are none")


def test_a_warmup_is_compared_with_the_steps_of_the_epochs(mlxtune, tmp_path):
    data = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    options = ("--data", data, "--epochs", 2, "--batch-size", 2, "--dry-run")  # 11 rows: 6 steps an epoch
    assert mlxtune("train", *options, "--warmup-steps", 11).returncode == 0
    assert "fewer than the run's 12 steps" in mlxtune("train", *options, "--warmup-steps", 12).stderr


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("optimizer: {low_precision: master}\nstrategy: {name: lora}", "master with strategy lora"),
        ("optimizer: {low_precision: master}\nbackend: {precision: fp32}", "master with precision fp32"),
        ("optimizer: {decay_norms_and_biases: true, weight_decay: 0.0}", "true with a weight decay of 0"),
        ("optimizer: {decay_norms_and_biases: true}\nstrategy: {name: lora}", "true with strategy lora"),
        ("optimizer: {name: sgd, epsilon: 1.0e-6}", "expected no such setting with optimizer sgd"),
        ("optimizer: {epsilon: 1.0e-50}", "expected a number above 1e-30"),
    ],
)
def test_what_no_flag_has_is_refused_in_a_recipe_under_its_key(mlxtune, tmp_path, recipe, told):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    found = mlxtune("run", path, "--dry-run")
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {path}: optimizer.")
    assert told in found.stderr


def test_what_comes_after_the_run_is_said(mlxtune):
    found = mlxtune("train", "--max-steps", 5, "--save-every", 50, "--eval-every", 60, "--dry-run")
    assert "--save-every 50 is later" in found.stdout
    assert "--eval-every 60 is later" in found.stdout


SCALED = [
    ({}, 4096),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}}, 16384),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 2048}}, 4096),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 64}}, 4096),
]


@pytest.mark.parametrize(("scaling", "tokens"), SCALED, ids=str)
def test_the_context_is_that_of_the_scaled_positions(tmp_path, scaling, tokens):
    assert context(model_config.read(outline_folder(tmp_path / "model", **scaling))) == tokens


def short(tmp_path, tokens):
    """The built-in model with another context."""
    path = model(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": tokens}))
    return "--model", path.parent


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_rows_longer_than_the_context_are_skipped_and_it_is_said_why(mlxtune, tmp_path, backend):
    rows = write(tmp_path / "rows.jsonl", [*TEXT_ROWS, {"text": "The cat sat. " * 40}])
    options = (*short(tmp_path, 64), "--data", rows)
    for verb in (("data",), ("train", "--batch-size", 2, "--backend", backend, "--dry-run"), ("eval",)):
        said = mlxtune(*verb, *options).stdout
        assert "1 row skipped: 1 longer than 64 tokens." in said
        assert "The model's context is 64 tokens" in said
    recipe = json.loads(mlxtune("train", "--batch-size", 2, *options, "--dry-run", "--json").stdout)["recipe"]
    assert recipe["data"]["max_seq_length"] == 64


def test_no_length_beyond_the_context_is_advised(mlxtune, tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": "The cat sat. " * 40}] * 9)
    found = mlxtune("train", *short(tmp_path, 64), "--data", rows, "--dry-run")
    assert found.returncode == 2
    assert "The model's context is 64 tokens." in found.stderr
    assert "--max-seq-length" not in found.stderr


@pytest.mark.slow
def test_a_rank_is_as_large_as_the_smaller_side_of_each_module(mlxtune):
    """The built-in model's keys are 32 wide, its queries 96."""
    widths = {"q_proj": 96, "k_proj": 32}
    for module, width in widths.items():
        options = ("train", *LORA, "--target", module, "--dry-run", "--rank")
        assert mlxtune(*options, width).returncode == 0
        assert f"--rank: expected at most {width}, the smaller side of" in mlxtune(*options, width + 1).stderr


def test_a_schedule_that_ends_at_its_peak_is_none_that_rises():
    from mlxtune.recipe.recipe import build

    flat = {"schedule.name": "linear", "schedule.learning_rate": 1e-4}
    assert build({}, {**flat, "schedule.min_learning_rate": 1e-4}).schedule.min_learning_rate == 1e-4
    with pytest.raises(BadSetting, match=r"at most schedule\.learning_rate"):
        build({}, {**flat, "schedule.min_learning_rate": 2e-4})
