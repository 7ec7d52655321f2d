"""No option without effect: each option of each verb, given alone, changes what is said or left, or is refused."""

import json

import pytest
from typer.main import get_command

from mlxtune.cli.app import app
from mlxtune.cli.flags import FLAGS
from tests.support.backend import BACKEND
from tests.support.cli import TEXT_ROWS, write
from tests.support.hub import use_cache
from tests.support.slow import all_but

COMMANDS = get_command(app).commands
# tests/run/test_settings_have_effect.py tries these on runs.
FLAG_NAMES = {flag.flag.partition("/")[0] for flag in FLAGS}
BAD = {"text": 5}
GENERATE = ("--prompt", "Once upon a time", "--max-tokens", 8, "--precision", "fp32")
WARM = ("--temperature", 1, "--seed", 1)

# Verb and option: the value to give, and what is given with it both times. A value is made by a function of the folder.
EFFECTS = {
    ("data", "--model"): (lambda _: "no-such-model", ()),
    ("data", "--revision"): (lambda _: "main", ()),  # refused, as the built-in model has none
    ("data", "--data"): (lambda tmp: write(tmp / "rows.jsonl", TEXT_ROWS), ()),
    ("data", "--columns"): (lambda _: "system==Speak as a cat.", ()),
    ("data", "--system"): (lambda _: "Speak as a cat.", ()),
    ("data", "--max-seq-length"): (lambda _: 40, ()),
    ("data", "--loss-on"): (lambda _: "all", ()),
    ("data", "--end-of-turn"): (lambda _: "##", ()),
    ("data", "--skip-bad-rows"): (None, ("--data", lambda tmp: write(tmp / "rows.jsonl", [*TEXT_ROWS, BAD]))),
    ("data", "--max-rows"): (lambda _: 5, ()),
    ("data", "--min-tokens"): (lambda _: 70, ()),
    ("data", "--valid"): (lambda tmp: write(tmp / "valid.jsonl", TEXT_ROWS), ()),
    ("data", "--overlong"): (lambda _: "truncate", ("--max-seq-length", "20")),
    ("data", "--dedup"): (lambda _: "exact", ("--data", lambda tmp: write(tmp / "rows.jsonl", TEXT_ROWS * 2))),
    ("data", "--batch-size"): (lambda _: 9, ()),
    ("data", "--seed"): (lambda _: 5, ("--data", lambda tmp: write(tmp / "rows.jsonl", TEXT_ROWS * 4))),
    ("data", "--stats"): (None, ()),
    ("data", "--rows"): (lambda _: 1, ()),
    ("data", "--json"): (None, ()),
    ("eval", "--model"): (lambda _: "no-such-model", ()),
    ("eval", "--adapter"): (lambda tmp: adapter(tmp), ()),
    ("eval", "--data"): (lambda tmp: write(tmp / "rows.jsonl", TEXT_ROWS), ()),
    ("eval", "--columns"): (lambda _: "system==Speak as a cat.", ()),
    ("eval", "--system"): (lambda _: "Speak as a cat.", ()),
    ("eval", "--max-seq-length"): (lambda _: 40, ()),
    ("eval", "--loss-on"): (lambda _: "all", ()),
    ("eval", "--skip-bad-rows"): (None, ("--data", lambda tmp: write(tmp / "rows.jsonl", [*TEXT_ROWS, BAD]))),
    ("eval", "--max-rows"): (lambda _: 5, ()),
    ("eval", "--min-tokens"): (lambda _: 70, ()),
    ("eval", "--overlong"): (lambda _: "truncate", ("--max-seq-length", "20")),
    ("eval", "--dedup"): (lambda _: "exact", ("--data", lambda tmp: write(tmp / "rows.jsonl", TEXT_ROWS * 2))),
    ("eval", "--precision"): (lambda _: "fp32" if BACKEND == "mlx" else "int8", ("--backend", BACKEND)),
    ("eval", "--backend"): (lambda _: "other", ()),
    ("eval", "--json"): (None, ()),
    ("generate", "--prompt"): (lambda _: "The cat", GENERATE),
    ("generate", "--model"): (lambda _: "no-such-model", GENERATE),
    ("generate", "--adapter"): (lambda tmp: adapter(tmp), GENERATE),
    ("generate", "--max-tokens"): (lambda _: 3, GENERATE),
    ("generate", "--temperature"): (lambda _: 5, (*GENERATE, *WARM)),
    ("generate", "--top-p"): (lambda _: 0.01, (*GENERATE, "--temperature", 5)),
    ("generate", "--seed"): (lambda _: 2, (*GENERATE, *WARM)),
    ("generate", "--precision"): (lambda _: "int8", GENERATE),
    ("generate", "--backend"): (lambda _: "other", GENERATE),
    ("memory", "--recipe"): (lambda tmp: recipe(tmp, "train: {batch_size: 2}"), ()),
    ("memory", "--fit"): (lambda _: "20MB", ()),
    ("memory", "--for"): (lambda _: "mac", ()),
    ("memory", "--measure"): (None, ("--max-steps", 2)),
    ("memory", "--json"): (None, ()),
    ("train", "--recipe"): (lambda tmp: recipe(tmp, "train: {batch_size: 2}"), ("--dry-run",)),
    ("train", "--fit"): (lambda _: "20MB", ("--dry-run",)),
    ("train", "--resume"): (lambda _: "nowhere", ("--dry-run",)),
    ("train", "--dry-run"): (None, ("--max-steps", 1, "--batch-size", 1, "--last-n", 1)),
    ("train", "--json"): (None, ("--dry-run",)),
    ("run", "--set"): (lambda _: "train.seed=9", ("--dry-run", lambda tmp: recipe(tmp, "train: {max_steps: 2}"))),
    ("run", "--data"): (
        lambda tmp: write(tmp / "rows.jsonl", TEXT_ROWS),
        ("--dry-run", lambda tmp: recipe(tmp, "train: {max_steps: 2}")),
    ),
    ("run", "--from-mlx-lm"): (lambda tmp: recipe(tmp, "iters: 3\ndata: nowhere"), ("--dry-run",)),
    ("run", "--dry-run"): (None, (lambda tmp: recipe(tmp, "train: {max_steps: 1}\nstrategy: {last_n: 1}"),)),
    ("run", "--json"): (None, ("--dry-run", lambda tmp: recipe(tmp, "train: {max_steps: 2}"))),
    ("models", "--json"): (None, ()),
    ("cache", "--json"): (None, ()),
    ("cache", "--older"): (lambda _: "a while", ()),
}
# Shown elsewhere: tests of `bench`, of `doctor`, and of `chat`, which has the options of `generate`.
ELSEWHERE = {"bench", "doctor", "chat"}


def recipe(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def adapter(folder):
    """A folder that is none: it is refused."""
    (folder / "adapter").mkdir()
    return folder / "adapter"


def test_every_option_of_every_verb_is_tried():
    tried = {*EFFECTS} | {(verb, name) for verb in ("train", "memory") for name in FLAG_NAMES}
    every = {
        (verb, each.opts[0])
        for verb, command in COMMANDS.items()
        for each in command.params
        if verb not in ELSEWHERE and each.opts[0].startswith("--")
    }
    assert every - {(verb, "--help") for verb in COMMANDS} == tried


NAMED = {" ".join(key): key for key in EFFECTS}
LONG = {"eval --precision", "memory --fit", "memory --measure"}


@pytest.mark.parametrize(("verb", "option"), all_but(NAMED.keys() - LONG, NAMED))
@pytest.mark.few(2)
def test_given_alone_it_changes_what_is_seen(mlxtune, tmp_path, verb, option):
    value, common = EFFECTS[verb, option]
    common = [each(tmp_path) if callable(each) else each for each in common]
    without = mlxtune(verb, *common)
    given = [option] if value is None else [option, value(tmp_path)]
    assert mlxtune(verb, *common, *given) != without


def test_sampling_that_is_asked_for_and_not_done_is_refused(mlxtune):
    options = ("generate", "--prompt", "x", "--max-tokens", 1)
    for more in (("--top-p", 0.5), ("--seed", 3)):
        assert f"{more[0]}: expected a temperature above 0" in mlxtune(*options, *more).stderr
        assert mlxtune(*options, *more, "--temperature", 0.5).returncode == 0
    assert "--top-p: expected a share above 0" in mlxtune(*options, "--top-p", 0, "--temperature", 1).stderr
    assert "--temperature: expected 0, or" in mlxtune(*options, "--temperature", 1e-30).stderr
    assert "--seed: expected 2147483647 or less" in mlxtune(*options, "--temperature", 1, "--seed", 2**40).stderr


def test_eval_says_of_which_model_adapter_and_rows_its_loss_is(mlxtune, tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        write(tmp_path / "data" / f"{name}.jsonl", TEXT_ROWS[:3])
    trained = mlxtune("train", "--data", tmp_path / "data", "--max-steps", 1, "--batch-size", 1, "--out", "run")
    assert trained.returncode == 0, trained.stderr
    options = ("eval", "--data", tmp_path / "data", "--adapter", "run/adapter")
    said = mlxtune(*options).stdout.splitlines()
    assert said[:3] == ["model    tiny", "adapter  run/adapter", f"data     {tmp_path / 'data'}, its test rows"]
    document = json.loads(mlxtune(*options, "--json").stdout)
    about = {key: document[key] for key in ("model", "adapter", "data", "split")}
    assert about == {"model": "tiny", "adapter": "run/adapter", "data": str(tmp_path / "data"), "split": "test"}


def test_a_dry_run_checks_what_it_can_without_the_model(mlxtune, tmp_path, monkeypatch):
    """Settings, rows and shapes; nothing is fetched."""
    use_cache(tmp_path / "cache", monkeypatch)
    rows = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    path = recipe(tmp_path, "model: {name: dolphin-8b}\nstrategy: {last_n: 2}\ndata: {path: absent.jsonl}\n")
    found = mlxtune("run", path, "--data", rows, "--dry-run", "--json")
    assert found.returncode == 0, found.stderr
    (document,) = json.loads(found.stdout)["recipes"]
    assert document["plan"]["strategy"] == "last 2 of 32 layers, final norm, head"
    assert document["plan"]["predicted_peak_bytes"] > 16e9
    assert "nothing was fetched" in document["plan"]["note"]
    assert document["settings"]["data"]["path"] == str(rows)
    assert "absent.jsonl" in mlxtune("run", path, "--dry-run").stderr
    assert "strategy.last_n" in mlxtune("run", path, "--data", rows, "--set", "strategy.last_n=33", "--dry-run").stderr
    options = ("train", "--recipe", path, "--data", rows, "--dry-run", "--max-seq-length")
    assert mlxtune(*options, 8192).returncode == 0
    assert "the model's context" in mlxtune(*options, 8193).stderr


def test_models_says_how_large_they_are(mlxtune):
    document = json.loads(mlxtune("models", "--json").stdout)
    assert document["sizes"].keys() == document["aliases"].keys()
    assert document["sizes"]["llama-3-8b"]["parameters"] == 8_030_261_248
    assert document["sizes"]["llama-3-8b"]["context"] == 8192
    assert " 8.0B" in mlxtune("models").stdout
