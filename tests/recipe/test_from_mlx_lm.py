import inspect
from typing import Any

import pytest

from mlxtune.errors import BadSetting, Faults
from mlxtune.recipe.from_mlx_lm import translate
from mlxtune.recipe.from_mlx_lm.keys import ALWAYS, DEFAULTS, REFUSED, SAME
from mlxtune.recipe.from_mlx_lm.optimizer import ARGUMENTS
from mlxtune.recipe.recipe import build


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises((BadSetting, Faults)) as caught:
        translate(config)
    return str(caught.value)


def said(config: dict[str, Any]) -> str:
    return "\n".join(translate(config)[1])


def test_every_key_of_the_installed_mlx_lm_is_known_with_its_default():
    lora = pytest.importorskip("mlx_lm.lora")
    assert {key: DEFAULTS.get(key, "unknown") for key in lora.CONFIG_DEFAULTS} == lora.CONFIG_DEFAULTS


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_key_changes_the_recipe_or_a_note_or_is_refused(key):
    """A key that did nothing of the three would be dropped in silence."""
    change = {
        "train": False,
        "fine_tune_type": "full",
        "optimizer": "adamw",
        "optimizer_config": {"adam": {"eps": 1e-5}},
        "data": "elsewhere",
        "num_layers": 3,
        "val_batches": -1,
        "lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 1000]},
        "lora_parameters": {"rank": 4, "dropout": 0.1, "scale": 2.0},
    }
    default = DEFAULTS[key]
    value = change.get(key, {bool: not default, int: 7, float: 0.5}.get(type(default), "something"))
    if key in (*REFUSED, "train"):
        with pytest.raises(BadSetting, match=rf"^{key}: expected"):
            translate({key: value})
    else:
        assert translate({key: value}) != translate({})


def test_an_empty_file_is_what_mlx_lm_does_by_default():
    recipe, _ = translate({})
    assert recipe == {
        "model": {"name": "Qwen/Qwen3-0.6b"},
        "data": {"path": "mlx-community/WikiSQL", "max_seq_length": 2048, "loss_on": "all"},
        "strategy": {"name": "lora", "last_n": 16, "rank": 8, "scale": 20.0, "dropout": 0.0},
        "optimizer": {"name": "adam", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        "schedule": {"name": "constant", "learning_rate": 1e-5},
        "train": {
            "batch_size": 4,
            "grad_accum": 1,
            "max_steps": 1000,
            "seed": 0,
            "eval_every": 200,
            "clip_norm": None,
        },
        "checkpoint": {"save_every": 100},
        "run": {"out": "adapters"},
        "backend": {"grad_checkpoint": False},
    }


def test_a_null_is_the_default_as_in_mlx_lm():
    assert translate(dict.fromkeys(DEFAULTS))[0] == translate({})[0]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_optimizers_arguments_and_defaults_are_those_of_mlx(name):
    optim = pytest.importorskip("mlx.optimizers")
    theirs = inspect.signature({"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}[name]).parameters
    assert {key: each.default for key, each in theirs.items() if key != "learning_rate"} == ARGUMENTS[name]


GIVEN = {
    "adam": {"betas": [0.8, 0.95], "eps": 1e-4, "bias_correction": True},
    "adamw": {"betas": [0.8, 0.95], "eps": 1e-4, "weight_decay": 0.2, "bias_correction": True},
    "sgd": {"weight_decay": 0.2},
    "sgd momentum": {"momentum": 0.8, "weight_decay": 0.2},
    "sgd nesterov": {"momentum": 0.8, "nesterov": True},
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_translated_optimizer_makes_the_steps_of_mlxs(case):
    mx, optim = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.optimizers")
    name = case.partition(" ")[0]
    config = {"optimizer": name, "optimizer_config": {name: GIVEN[case]}, "fine_tune_type": "full"}
    ours = build(translate(config)[0], {}).optimizer
    theirs = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}[name](learning_rate=1e-2, **GIVEN[case])
    start, gradients = mx.random.normal((5,), key=mx.random.key(0)), mx.random.normal((20, 5), key=mx.random.key(1))
    weight, slots, expected = start, ours.init(mx, (5,)), {"w": start}
    for step, gradient in enumerate(gradients, start=1):
        scalars = ours.scalars(mx, step, 1e-2)
        weight, slots = ours.update(mx, scalars, weight, gradient, slots, decays=ours.decays((5,)))
        expected = theirs.apply_gradients({"w": gradient}, expected)
    assert mx.allclose(weight, expected["w"], rtol=1e-5, atol=1e-6)
    assert not mx.allclose(weight, start, atol=1e-2)


def test_iterations_are_micro_batches_and_become_steps():
    recipe, notes = translate({"iters": 1001, "grad_accumulation_steps": 4, "steps_per_eval": 2, "save_every": 100})
    assert (recipe["train"]["max_steps"], recipe["train"]["grad_accum"], recipe["train"]["eval_every"]) == (250, 4, 1)
    assert recipe["checkpoint"]["save_every"] == 25
    assert any("1,001 iterations of one micro-batch are 250 steps of 4, rounded down" in n for n in notes)


@pytest.mark.parametrize(("num_layers", "last_n"), [(-1, "all"), (0, "all"), (8, 8)])
def test_minus_one_is_all_layers(num_layers, last_n):
    assert translate({"num_layers": num_layers})[0]["strategy"]["last_n"] == last_n


def test_full_is_the_last_layers_without_the_head():
    recipe, notes = translate({"fine_tune_type": "full", "num_layers": 8, "optimizer": "adamw"})
    assert recipe["strategy"] == {"name": "last-n", "last_n": 8, "head": False}
    assert recipe["optimizer"]["decay_norms_and_biases"] is True
    assert any("final norm trains too" in note for note in notes)


def test_lora_keys_become_targets():
    keys = ["self_attn.q_proj", "self_attn.v_proj"]
    recipe, _ = translate({"lora_parameters": {"rank": 16, "scale": 10.0, "dropout": 0.05, "keys": keys}})
    assert recipe["strategy"] == {
        "name": "lora", "last_n": 16, "rank": 16, "scale": 10.0, "dropout": 0.05, "target": keys,
    }  # fmt: skip


def test_the_prompts_mask_is_loss_on_the_last_turn():
    assert translate({"mask_prompt": True})[0]["data"]["loss_on"] == "last"
    assert "only the last turn" in said({"mask_prompt": True})


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"name": "cosine_decay", "arguments": [1e-5, 1000, 1e-7], "warmup": 100, "warmup_init": 1e-7},
         {"name": "cosine", "learning_rate": 1e-5, "warmup_steps": 100, "min_learning_rate": 1e-7}),
        ({"name": "cosine_decay", "arguments": [1e-5, 900], "warmup": 100},
         {"name": "cosine", "learning_rate": 1e-5, "warmup_steps": 100, "min_learning_rate": 0.0}),
        ({"name": "linear_schedule", "arguments": [1e-4, 0.0, 1000]},
         {"name": "linear", "learning_rate": 1e-4, "warmup_steps": 0, "min_learning_rate": 0.0}),
    ],
)  # fmt: skip
def test_schedules_are_translated(given, made):
    assert translate({"lr_schedule": given})[0]["schedule"] == made


def test_a_translated_schedule_has_mlxs_rates():
    """Ours has the rate of step t at t, mlx-lm's at t - 1: without warmup they are the same numbers."""
    schedulers = pytest.importorskip("mlx.optimizers.schedulers")
    schedule = pytest.importorskip("mlxtune.optim.schedule")
    cosine = schedule.Cosine(
        **translate({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-3, 1000, 1e-5]}})[0]["schedule"]
    )
    theirs = schedulers.cosine_decay(1e-3, 1000, 1e-5)
    for step in (1, 2, 500, 1000):
        assert schedule.learning_rate(cosine, step, 1000) == pytest.approx(float(theirs(step - 1)), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"learning_rat": 1}, "The nearest is learning_rate."),
        ({"lr_schedule": {"name": "cosine_decay", "argments": [1]}}, "The nearest is arguments."),
        ({"lora_parameters": {"rank": 8, "alpha": 16, "dropout": 0.0}}, "scale is alpha / rank."),
        ({"lora_parameters": {"rank": 8}}, "found no scale, no dropout"),
        ({"lora_parameters": {"rank": 8, "scale": 1.0, "dropout": 0.0, "ranks": 1}}, "The nearest is rank."),
        ({"lora_parameters": 8}, "lora_parameters: expected a section of keys, found 8"),
        ({"optimizer_config": {"adam": {"weight_decay": 0.1}}}, "adam.weight_decay: expected a key"),
        ({"optimizer_config": {"adam": {"beta": [0.9, 0.99]}}}, "The nearest is betas."),
        ({"optimizer_config": {"adam": {"betas": 0.9}}}, "expected two numbers, found 0.9"),
        ({"optimizer": "sgd", "optimizer_config": {"sgd": {"dampening": 0.1}}}, "multiply the learning rate by 1 - "),
        ({"optimizer": "sgd", "optimizer_config": {"sgd": {"betas": [0.9, 0.99]}}}, "sgd.betas: expected a key"),
        ({"optimizer": "muon"}, "expected adam, adamw or sgd, found 'muon'"),
        ({"fine_tune_type": "another"}, "lora is the nearest."),
        ({"num_layers": "all"}, "or -1 for all layers, found 'all'"),
        ({"iters": 0}, "iters: expected a whole number above 0, found 0"),
        ({"batch_size": 4, "iters": True}, "found True"),
        ({"grad_accumulation_steps": 1.5}, "found 1.5"),
        ({"val_batches": "all"}, "val_batches"),
        ({"mask_prompt": "yes"}, "expected true or false, found 'yes'"),
        ({"lr_schedule": {"name": "step_decay", "arguments": [1, 0.5, 9]}}, "cosine_decay or linear_schedule"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-5]}}, "the numbers that cosine_decay takes"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": ["1e-5", 1000]}}, "the numbers that cosine_decay takes"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-5, 5000]}}, "the run's 1,000 steps, found 5,000"),
        ({"lr_schedule": {"name": "linear_schedule", "arguments": [0.0, 1e-5, 1000]}}, "a rate that falls"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-5, 1000], "warmup": -1}}, "lr_schedule.warmup"),
        ({"trust_remote_code": True}, "never run"),
        ({"train": False, "test": True}, "mlxtune eval"),
        ({"hf_dataset": {"path": "billsum"}}, "as `data`"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(config, told):
    assert told in refusal(config)


def test_all_faults_are_told_at_once():
    config = {"optimizer": "muon", "report_to": "wandb", "iter": 5, "fine_tune_type": "another", "seeds": 1}
    found = refusal(config)
    assert all(f"{key}: expected" in found for key in config)
    assert "The nearest is iters." in found


def test_what_nothing_reads_is_said():
    notes = said({
        "optimizer": "adamw", "optimizer_config": {"sgd": {"momentum": 0.9}, "adamw": {"bias_correction": True}},
        "lr_schedule": {"name": "cosine_decay", "arguments": [1e-5, 1000]}, "learning_rate": 1e-4,
        "fine_tune_type": "full", "lora_parameters": {"rank": 8}, "steps_per_report": 1, "test_batches": 3,
    })  # fmt: skip
    for word in (
        "optimizer_config.sgd",
        "learning_rate: nothing",
        "lora_parameters",
        "steps_per_report",
        "test_batches",
    ):
        assert word in notes
    assert "bias correction" not in notes
    assert all(note in notes for note in ALWAYS)


def test_the_tables_speak_of_known_keys_only():
    assert {*SAME, *REFUSED} <= set(DEFAULTS)
    assert not set(SAME) & set(REFUSED)
