"""`mlxtune memory`: what it answers from a config alone, how fast, and whether what it says of savings is so."""

import builtins
import inspect
import json
import shlex
import subprocess
import sys

import pytest

from mlxtune.backends import choose
from mlxtune.backends.base import Job
from mlxtune.cli.memory import memory
from mlxtune.cli.train import train
from mlxtune.errors import BadModel
from mlxtune.planning.predict import Planner
from mlxtune.recipe.recipe import build
from mlxtune.run.prepare import prepare
from tests.support.cli import BACKENDS
from tests.support.hub import use_cache
from tests.support.memory import config_folder, outline_folder, text_of, whole_folder

LLAMA, MISTRAL, QWEN = "Meta-Llama-3-8B", "Mistral-7B-v0.1", "Qwen2.5-7B-Instruct"
PARAMETERS = {LLAMA: 8_030_261_248, MISTRAL: 7_241_732_096, QWEN: 7_615_616_512}
CONTRACT = {"predicted_peak_bytes", "parts", "limit_bytes", "fits", "measured_peak_bytes"}  # the design's section 2
PARTS = {"frozen_weights", "trainable_weights", "gradients", "optimizer", "activations", "head_loss", "data"}
IN_A_PROCESS = """
import json, sys, time
began = time.process_time()
hidden = sys.argv[1] == "without mlx"
if hidden:
    import importlib.util
    sys.modules.update(dict.fromkeys(("mlx", "mlx.core", "mlx_lm")))  # an import of them fails
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *more: None if name in ("mlx", "mlx_lm") else find(name, *more)
sys.argv = ["mlxtune", "memory", "--model", sys.argv[2], "--json"]
from mlxtune.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
heavy = [name for name in ("mlx_lm", "torch", "transformers", "tokenizers") if sys.modules.get(name)]
print(json.dumps({"seconds": time.process_time() - began, "heavy": heavy}))
"""


@pytest.fixture
def plan(mlxtune):
    """A function from options to the document of `memory --json`."""

    def call(*options):
        found = mlxtune("memory", *options, "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return call


@pytest.mark.parametrize("with_mlx", ["with mlx", "without mlx"])
@pytest.mark.slow
def test_it_answers_within_two_seconds_and_loads_no_model_library(tmp_path, with_mlx):
    folder = config_folder(tmp_path / "model", LLAMA)
    found = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, with_mlx, str(folder)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    document, process = map(json.loads, found.stdout.splitlines())
    assert document["predicted_peak_bytes"] > 16e9
    assert process["seconds"] < 2
    assert process["heavy"] == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_are_counted_exactly(tmp_path, plan, name):
    document = plan("--model", config_folder(tmp_path / "model", name))
    assert document["parameters"] == PARAMETERS[name]
    assert document["shapes_from"] == "config.json"


def test_the_document_has_the_keys_of_the_contract(tmp_path, plan):
    document = plan("--model", outline_folder(tmp_path / "model"))
    assert document.keys() >= CONTRACT
    assert document["parts"].keys() == PARTS
    assert document["measured_peak_bytes"] is None


@pytest.mark.parametrize("place", [("--for", "mac"), ("--backend", "numpy")], ids=str)
@pytest.mark.parametrize("options", [(), ("--strategy", "lora"), ("--strategy", "full", "--grad-accum", "2")])
def test_the_peak_is_the_sum_of_its_parts(tmp_path, plan, place, options):
    document = plan("--model", outline_folder(tmp_path / "model"), *place, *options)
    assert sum(document["parts"].values()) == document["predicted_peak_bytes"]
    assert min(document["parts"].values()) >= 0


def of_llama(n_layers: int) -> int:
    """Elements of the last layers, the final norm and the head of Llama 3 8B, by its paper's table of sizes."""
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    layer = attention + 3 * 4096 * 14336 + 2 * 4096
    return n_layers * layer + 4096 + 128256 * 4096


def test_the_weights_and_the_optimizer_of_llama_3_8b_are_what_they_are_by_hand(tmp_path, plan):
    options = ("--last-n", 4, "--precision", "bf16", "--batch-size", 1, "--max-seq-length", 2048, "--for", "mac")
    parts = plan("--model", config_folder(tmp_path / "model", LLAMA), *options)["parts"]
    assert parts["trainable_weights"] == 2 * of_llama(4)
    assert parts["frozen_weights"] + parts["trainable_weights"] == 2 * PARAMETERS[LLAMA]  # 16.06 GB
    assert parts["optimizer"] == 2 * 4 * of_llama(4)  # m and v in float32


def test_numpy_holds_weights_in_float32(tmp_path, plan):
    parts = plan("--model", config_folder(tmp_path / "model", LLAMA), "--backend", "numpy", "--last-n", 4)["parts"]
    assert parts["trainable_weights"] == 4 * of_llama(4)
    assert parts["frozen_weights"] + parts["trainable_weights"] == 4 * PARAMETERS[LLAMA]
    assert parts["gradients"] == 4 * of_llama(4)


def test_a_plan_for_a_mac_is_made_where_mlx_is_not_installed(tmp_path, plan, mlxtune, monkeypatch):
    options = ("--model", outline_folder(tmp_path / "model"), "--for", "mac")
    with_mlx = plan(*options)
    importing = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] in ("mlx", "mlx_lm") or name.startswith("mlxtune.backends.mlx"):
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(choose, "has_mlx", lambda: False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert plan(*options) == with_mlx
    assert (with_mlx["backend"], with_mlx["for"], with_mlx["limit_bytes"]) == ("mlx", "mac", None)
    assert with_mlx["smallest_mac_gib"] == 8
    assert plan("--model", tmp_path / "model")["backend"] == "numpy"  # which is what would train here
    refused = mlxtune("memory", "--model", tmp_path / "model", "--backend", "mlx")
    assert refused.returncode == 2
    assert "MLX and mlx-lm installed" in refused.stderr
    assert "`mlxtune memory --for mac` plans" in refused.stderr


def test_every_option_of_train_that_describes_a_run_is_taken():
    of_train, of_memory = (set(inspect.signature(verb).parameters) for verb in (train, memory))
    assert of_train - of_memory == {"resume", "dry_run"}  # there is no run to go on with, and none is ever made
    assert {"fit", "measure", "json"} <= of_memory


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [(), ("--strategy", "lora"), ("--no-head", "--grad-accum", 2)])
@pytest.mark.few(2)
def test_what_the_shapes_alone_say_is_what_a_run_says_before_it_begins(plan, mlxtune, backend, options):
    given = ("--backend", backend, "--max-steps", 12, *options)
    dry = mlxtune("train", *given, "--dry-run", "--json")
    assert plan(*given)["predicted_peak_bytes"] == json.loads(dry.stdout)["plan"]["predicted_peak_bytes"]


def test_a_pipe_gets_plain_lines(tmp_path, mlxtune):
    found = mlxtune("memory", "--model", outline_folder(tmp_path / "model"))
    assert found.returncode == 0, found.stderr
    assert "\x1b" not in found.stdout
    lines = found.stdout.splitlines()
    for part in PARTS:
        [line] = [line for line in lines if line.startswith(part.replace("_", " ") + " ")]
        assert line.rstrip().endswith(("%", " 0 B"))
    assert any(line.startswith("Fits: ") for line in lines)


def test_a_terminal_gets_colour(tmp_path, mlxtune, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    found = mlxtune("memory", "--model", outline_folder(tmp_path / "model"))
    assert "\x1b[" in found.stdout
    assert "█" in found.stdout


def test_a_run_that_does_not_fit_is_said_not_to(tmp_path, mlxtune, plan):
    options = ("--model", outline_folder(tmp_path / "model"), "--memory-limit", "1MB")
    assert not plan(*options)["fits"]
    assert plan(*options)["limit_bytes"] == 10**6
    assert "Does not fit: " in mlxtune("memory", *options).stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--batch-size", 5),
        ("--batch-size", 3, "--grad-accum", 2, "--strategy", "lora"),
        ("--strategy", "full", "--precision", "fp32"),
        ("--backend", "numpy", "--batch-size", 6),
        ("--no-head", "--moments", "bf16"),
    ],
    ids=lambda options: " ".join(map(str, options)),
)
@pytest.mark.few(2)
def test_each_change_that_is_named_saves_what_is_said(tmp_path, plan, mlxtune, options):
    options = ("--model", outline_folder(tmp_path / "model"), "--max-seq-length", 512, *options)
    said = [line.split("  saves ") for line in mlxtune("memory", *options).stdout.splitlines() if "  saves " in line]
    assert said
    before = plan(*options)["predicted_peak_bytes"]
    for flags, saved in said:
        after = plan(*options, *shlex.split(flags))["predicted_peak_bytes"]
        number, unit = saved.split()
        assert (before - after) / {"B": 1, "kB": 1e3, "MB": 1e6}[unit] == pytest.approx(float(number), abs=0.051)


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(5, 1), (3, 2), (4, 3), (9, 1)])
def test_a_smaller_batch_is_named_with_so_many_more_that_a_step_sees_the_same_rows(
    tmp_path, mlxtune, batch_size, grad_accum
):
    options = ("--batch-size", batch_size, "--grad-accum", grad_accum, "--max-seq-length", 1024, "--no-head")
    found = mlxtune("memory", "--model", outline_folder(tmp_path / "model", intermediate_size=2048), *options)
    [line] = [line.split() for line in found.stdout.splitlines() if line.startswith("  --batch-size ")]
    assert int(line[1]) * int(line[3]) == batch_size * grad_accum


def test_without_options_it_plans_the_built_in_run(plan):
    document = plan()
    assert document["parameters"] == 481_824
    assert document["shapes_from"] == "safetensors headers"
    assert document["fits"]


def test_rows_that_are_shorter_than_allowed_are_planned_as_they_are(tmp_path, plan):
    folder = whole_folder(tmp_path / "model")
    data = text_of(tmp_path / "rows.txt", 2000)
    short = plan("--model", folder, "--data", data, "--max-seq-length", 64)
    assert short["largest_batch"] == {"rows": 4, "longest": 64}
    alone = plan("--model", folder, "--max-seq-length", 64)
    assert "No --data" in alone["notes"][0]
    assert plan("--model", folder, "--max-seq-length", 128)["predicted_peak_bytes"] > alone["predicted_peak_bytes"]


@pytest.mark.skipif(not choose.has_mlx(), reason="NumPy keeps it in memory")
def test_what_is_kept_on_the_disk_is_said_and_is_what_a_run_keeps(plan):
    """Of the built-in rows."""
    settings = {"train.max_steps": 400, "strategy.last_n": 2, "backend.precision": "bf16", "backend.name": "mlx"}

    planner = Planner(build({}, settings))

    def planned(**changes):
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        return planner.plan(build({}, settings | changed)).disk_bytes

    said = planned()
    assert said > 0
    assert planned(backend__prefix_cache="off") == planned(train__max_steps=1) == planned(strategy__last_n="all") == 0
    assert plan("--max-steps", 400, "--last-n", 2, "--precision", "bf16", "--backend", "mlx")["disk_bytes"] == said
    prepared = prepare(build({}, settings))
    assert prepared.blueprint._decided(prepared.work)[1].file.bytes == said


ONLY_MLX = {"model_type": "gemma", "head_dim": 32}


@pytest.mark.parametrize("changes", [{}, ONLY_MLX, {"vocab_size": 515}], ids=str)
@pytest.mark.parametrize("room", [10**12, 10**6], ids=["much memory", "little memory"])
@pytest.mark.parametrize("settings", [{}, *({"backend.name": name} for name in BACKENDS)], ids=str)
def test_what_is_planned_is_the_backend_that_would_train(tmp_path, monkeypatch, changes, settings, room):
    """Of one function each time, which is asked by what is there: a folder with weights, or a config alone."""
    folder = whole_folder(tmp_path / "model", **changes)
    monkeypatch.setattr(choose, "memory_bytes", lambda: room)
    recipe = build({}, {"model.name": str(folder), **settings})
    try:
        planned = Planner(recipe).backend
    except BadModel:
        with pytest.raises(BadModel, match="a model of the Llama family"):  # that `train` refuses too
            choose.blueprint(recipe.backend, Job(folder, "fp32", recipe.strategy, recipe.optimizer, None, 0))
        return
    assert planned == choose.choose(recipe.backend, folder).name
    (folder / "model.safetensors").unlink()
    assert Planner(recipe).backend == planned


@pytest.mark.parametrize("backend", [("--backend", name) for name in BACKENDS] + [(), ("--for", "mac")], ids=str)
def test_quantised_weights_are_refused_as_training_refuses_them(tmp_path, mlxtune, backend):
    """With and without the weights, and for a Mac too."""
    folder = whole_folder(tmp_path / "model", quantization={"bits": 4, "group_size": 32})
    for path in (folder / "model.safetensors", None):
        found = mlxtune("memory", "--model", folder, *backend)
        assert found.returncode == 2
        assert "expected weights in 16 or 32 bits, found quantised ones (4 bits, groups of 32)" in found.stderr
        assert "Name the original model" in found.stderr
        if path and "--for" not in backend:
            assert mlxtune("train", "--model", folder, *backend, "--dry-run").returncode == 2
            path.unlink()


@pytest.mark.slow
def test_a_line_says_how_to_plan_for_another_machine(mlxtune):
    said = "`mlxtune memory --for mac` plans what a Mac would run"
    assert (said in mlxtune("memory").stdout) == (not choose.is_a_mac())
    assert said not in mlxtune("memory", "--for", "mac").stdout


def test_a_mac_is_planned_to_fit_by_the_memory_that_it_has(tmp_path, plan, mlxtune):
    """macOS gives the GPU of one with 16 GB two thirds."""
    options = ("--model", config_folder(tmp_path / "model", LLAMA), "--for", "mac")
    found = plan(*options, "--fit", "32GB")
    assert found["limit_bytes"] == 32 * 2**30 * 2 // 3
    assert found["fits"]
    assert found["predicted_peak_bytes"] <= found["limit_bytes"]
    assert found["smallest_mac_gib"] <= 32
    assert mlxtune("memory", *options, "--fit").returncode == 2  # what another machine has free is not known
    assert mlxtune("memory", *options, "--measure").returncode == 2


def test_a_model_with_an_alias_is_planned_without_the_hub(plan, tmp_path, monkeypatch):
    use_cache(tmp_path / "cache", monkeypatch)
    document = plan("--model", "llama-3-8b", "--for", "mac")
    assert (document["parameters"], document["shapes_from"]) == (8_030_261_248, "known to mlxtune")
    by_config = plan("--model", config_folder(tmp_path / "model", LLAMA), "--for", "mac")
    assert document["parts"] == by_config["parts"]
