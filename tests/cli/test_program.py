"""The program as a user runs it: exit codes, streams, messages, and what stays untouched."""

import io
import json
import os
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from tests.support.checkout import ROOT
from tests.support.cli import BACKENDS, TEXT_ROWS, model, write


@pytest.fixture
def train(mlxtune):
    def call(*arguments):
        return mlxtune("train", "--precision", "fp32", "--max-steps", "2", "--out", "out", *arguments)

    return call


@pytest.fixture
def refused(train, tmp_path):
    """Run `train`, which must refuse: exit code 2, one message, no traceback, an untouched disk. Gives the message."""

    def call(*arguments):
        before = sorted(tmp_path.rglob("*"))
        found = train(*arguments)
        assert found.returncode == 2, found.stderr
        assert found.stderr.startswith("error: ")
        assert "Traceback" not in found.stderr
        assert sorted(tmp_path.rglob("*")) == before
        return found.stderr

    return call


def in_a_process(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mlxtune", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_such_data_folder(refused):
    assert "nothing of that name" in refused("--data", "nowhere")


def test_an_empty_file(tmp_path, refused):
    assert "an empty file" in refused("--data", write(tmp_path / "rows.jsonl", []))


def test_broken_json_on_line_7(tmp_path, refused):
    rows = [*TEXT_ROWS[:6], '{"text": "x",', *TEXT_ROWS[7:]]
    assert "rows.jsonl:7: expected a JSON object" in refused("--data", write(tmp_path / "rows.jsonl", rows))


def test_text_that_is_no_string(tmp_path, refused):
    path = write(tmp_path / "rows.jsonl", [*TEXT_ROWS, {"text": 5}])
    assert "rows.jsonl:13: expected text" in refused("--data", path)


def test_a_row_of_no_known_form(tmp_path, refused):
    path = write(tmp_path / "rows.jsonl", [*TEXT_ROWS, {"words": "x"}])
    assert "found the keys `words`" in refused("--data", path)


def test_only_rows_that_are_too_long(tmp_path, refused):
    path = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    assert "would admit them" in refused("--data", path, "--max-seq-length", 4)


def test_a_batch_larger_than_the_data_set(tmp_path, refused):
    path = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    assert "at most the 11 training rows" in refused("--data", path, "--batch-size", 12)


def test_more_layers_than_the_model_has(refused):
    assert "layers, found 99" in refused("--last-n", 99)


def test_an_unknown_recipe_key(tmp_path, refused):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {max_step: 3}\n")
    assert "The nearest is train.max_steps" in refused("--recipe", path)


def test_a_folder_that_is_no_model(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "expected a model folder" in refused("--model", tmp_path / "empty")


def test_truncated_safetensors(tmp_path, refused):
    weights = model(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "as the header says" in refused("--model", weights.parent)


def test_missing_tensors(tmp_path, refused):
    weights = model(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    gone = next(name for name in tensors if "layers.1" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, weights)
    assert gone in refused("--model", weights.parent)


def test_a_finished_run_that_is_started_again_is_already_done_and_left_alone(tmp_path, train, refused, mlxtune):
    path = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    first = train("--data", path, "--json")
    for again in (train("--data", path, "--json"), mlxtune("train", "--resume", "out", "--json")):
        assert again.returncode == 0
        end = json.loads(again.stdout)
        assert end["message"] == "Already done."
        assert end | {"message": ""} == json.loads(first.stdout)
    assert "new or empty folder" in refused("--data", path, "--resume", "never")


def test_a_recipe_whose_run_is_finished_is_already_done_and_the_next_has_its_turn(tmp_path, mlxtune):
    path = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    names = ("first", "second")
    for name in names:
        text = f"data: {{path: {path}}}\nrun: {{out: {name}}}\ntrain: {{max_steps: 1}}\nbackend: {{name: numpy}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    assert mlxtune("run", "first.yaml").returncode == 0
    found = mlxtune("run", *(f"{name}.yaml" for name in names), "--json")
    ends = json.loads(found.stdout)["recipes"]
    assert found.returncode == 0
    assert [end["message"] for end in ends] == ["Already done.", ends[1]["message"]] != ["Already done."] * 2
    assert [end["status"] for end in ends] == ["done", "done"]


def test_a_run_is_resumed_from_another_folder_though_its_data_and_model_were_named_from_here(
    tmp_path, mlxtune, monkeypatch
):
    write(tmp_path / "rows.jsonl", TEXT_ROWS)
    model(tmp_path)
    named = ("--data", "rows.jsonl", "--model", "./model", "--out", "out", "--backend", "numpy", "--max-steps", 1)
    assert mlxtune("train", *named).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = mlxtune("train", "--resume", tmp_path / "out", "--max-steps", 2, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["steps"] == 2
    kept = [path.read_text() for path in (tmp_path / "out" / "adapter").glob("*.json")]
    assert not [text for text in kept if str(tmp_path) in text]  # it is published


def test_a_run_on_a_pattern_of_files_may_be_resumed_from_another_folder(tmp_path, mlxtune, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "part-1.jsonl", TEXT_ROWS[:6])
    write(tmp_path / "part-2.jsonl", TEXT_ROWS[6:])
    monkeypatch.chdir(tmp_path)
    short = ("--backend", "numpy", "--max-steps")
    assert mlxtune("train", "--data", "part-*.jsonl", "--out", "out", *short, 1).returncode == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = mlxtune("train", "--resume", tmp_path / "out", "--max-steps", 2)
    assert found.returncode == 0, found.stderr


def test_options_that_a_resumed_run_would_ignore_are_refused(tmp_path, mlxtune):
    for option in (("--recipe", "r.yaml"), ("--dry-run",), ("--out", "elsewhere")):
        found = mlxtune("train", "--resume", tmp_path, *option)
        assert found.returncode == 2
        assert option[0] in found.stderr


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path, mlxtune):
    found = mlxtune("train", "--resume", tmp_path / "nowhere")
    assert found.returncode == 2
    assert "no such folder" in found.stderr


def test_blank_lines_and_mixed_forms_are_fine(tmp_path, train):
    rows = [*TEXT_ROWS, "", {"prompt": "Who sat?", "completion": "The cat."}, "   "]
    found = train("--data", write(tmp_path / "rows.jsonl", rows))
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(tmp_path):
    write(tmp_path / "rows.jsonl", TEXT_ROWS)
    found = in_a_process("train", "--max-steps", 2, "--data", "rows.jsonl", cwd=tmp_path)
    assert "step 2/2 loss" in found.stdout
    assert "\x1b" not in found.stdout + found.stderr


def test_json_is_one_document_on_standard_output_and_nothing_else(tmp_path, train):
    found = train("--data", write(tmp_path / "rows.jsonl", TEXT_ROWS), "--json")
    document = json.loads(found.stdout)
    promised = {"final_loss", "best_eval_loss", "steps", "tokens", "wall_seconds", "peak_memory_bytes", "run"}
    assert promised <= document.keys()
    assert document["event"] == "end"


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, train):
    path = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    found = train("--data", path, "--dry-run", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["recipe"]["train"]["max_steps"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(("given", "read"), [("none", "null"), ("0.5", "0.5")])
def test_clipping_can_be_turned_off_by_its_flag(mlxtune, given, read):
    found = mlxtune("train", "--clip-norm", given, "--dry-run")
    assert found.returncode == 0
    assert f"  clip_norm: {read}\n" in found.stdout


def test_a_failing_recipe_does_not_stop_the_next_and_the_exit_code_says_so(tmp_path, mlxtune):
    rows = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    (tmp_path / "bad.yaml").write_text("train: {max_step: 3}\n")
    (tmp_path / "good.yaml").write_text(f"data: {{path: {rows}}}\nrun: {{out: good}}\n")
    found = mlxtune("run", "bad.yaml", "good.yaml", "--set", "train.max_steps=1")
    assert found.returncode == 2
    assert (tmp_path / "good" / "adapter").is_dir()
    assert "failed" in found.stdout
    assert "done" in found.stdout


def test_eval_agrees_with_the_runs_own_validation_loss(tmp_path, mlxtune, train):
    write(tmp_path / "train.jsonl", TEXT_ROWS)
    valid = write(tmp_path / "valid.jsonl", TEXT_ROWS[:5])
    end = json.loads(train("--data", tmp_path, "--learning-rate", "1e-3", "--eval-every", 1, "--json").stdout)
    found = mlxtune("eval", "--data", valid, "--adapter", "out/adapter", "--precision", "fp32", "--json")
    score = json.loads(found.stdout)
    assert score["loss"] == pytest.approx(end["best_eval_loss"], rel=1e-6)
    assert score["rows"] == 5


def test_generate_writes_text_with_and_without_the_adapter(tmp_path, mlxtune, train):
    train("--data", write(tmp_path / "rows.jsonl", TEXT_ROWS))
    options = ("generate", "--prompt", "Once", "--max-tokens", "8", "--precision", "fp32")
    for adapter in ((), ("--adapter", "out/adapter")):
        found = mlxtune(*options, *adapter)
        assert found.returncode == 0, found.stderr
        assert found.stdout.strip()


def test_an_adapter_of_another_model_is_refused(tmp_path, mlxtune, train):
    train("--data", write(tmp_path / "rows.jsonl", TEXT_ROWS))
    path = tmp_path / "out" / "adapter" / "adapters.safetensors"
    save_file({"model.layers.99.x": next(iter(load_file(path).values()))}, path)
    config = path.with_name("adapter_config.json")
    theirs = {key: value for key, value in json.loads(config.read_text()).items() if key != "mlxtune"}
    config.write_text(json.dumps(theirs))  # as mlx-lm writes it, without digests
    found = mlxtune("generate", "--prompt", "x", "--adapter", "out/adapter")
    assert found.returncode == 2
    assert "model.layers.99.x" in found.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_chat_answers_each_line_of_a_pipe_and_nothing_else(backend, mlxtune, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Tell me a story.\n\nAnd another.\n/exit\nnever read\n"))
    options = ("--temperature", 0, "--max-tokens", 6, "--precision", "fp32", "--backend", backend)
    found = mlxtune("chat", *options)
    assert found.returncode == 0, found.stderr
    first, second = found.stdout.splitlines()
    assert second.strip()
    asked = mlxtune("generate", "--prompt", "Tell me a story.", *options)
    assert asked.stdout.strip() == first.strip()
