"""The comparison with mlx-lm's trainer compares like with like, and its arithmetic is right."""

import json
import os
import subprocess
import sys
import time
from math import prod

import numpy as np
import pytest
from typer.testing import CliRunner

from mlxtune.backends.mlx.passes.forward import Form
from mlxtune.backends.mlx.passes.self_check import SelfCheck
from mlxtune.bench import cases, compare, run, table
from mlxtune.bench.measures import COMPARED_STEPS, Spread, loss_difference, measures, ratios
from mlxtune.bench.sides import make, measure, ours, theirs
from mlxtune.bench.sides.flops import matrices, step_flops
from mlxtune.bench.sides.rows import epochs, make_rows
from mlxtune.bench.sides.spec import Case, Result, Spec
from mlxtune.cli.app import app
from mlxtune.errors import BadSetting, Missing, RunStopped
from tests.support.slow import all_but

TINY = {"vocabulary": 64, "layers": 3, "hidden": 32, "inner": 64, "heads": 4, "kv_heads": 2, "rows": 8, "epochs": 2}


def tiny(case):
    return case._replace(**TINY, last_n=3 if case.last_n == case.layers else 2)


CASES = [tiny(case) for case in cases.CASES]
VARIATIONS = {variation.words: variation for variation in cases.variations()}


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SIDE", 64)  # no loss depends on what the machine can do at best, which takes seconds

    def made(case, **changes):
        spec = Spec("ours", case, str(tmp_path / "model"))._replace(**changes)
        if not (tmp_path / "model").exists():
            make.run(spec)
        return spec

    return made


@pytest.mark.parametrize("case", all_but(["last-2-head", "lora-all"], {case.name: case for case in CASES}))
@pytest.mark.slow
def test_both_sides_have_the_same_losses_and_count_the_same_tokens(case, spec):
    one, other = ours.run(spec(case)), theirs.run(spec(case))
    assert len(one.losses) == len(other.losses) == 4
    assert loss_difference([one], [other]) <= 1e-5
    assert (one.real_tokens, one.supervised_tokens) == (other.real_tokens, other.supervised_tokens)
    assert len(one.epoch_seconds) == len(other.epoch_seconds) == 2
    assert one.losses[0] != one.losses[2]
    assert 0 < one.imported_bytes <= one.resident_bytes


@pytest.mark.slow
def test_work_that_is_not_equal_is_seen_in_the_losses(spec):
    case = CASES[0]
    assert case.as_it_is
    one, other = ours.run(spec(case)), theirs.run(spec(case, equal_work=False))
    assert loss_difference([one], [other]) > 1e-4
    assert other.step_flops < theirs.run(spec(case)).step_flops


def test_the_rows_are_ragged_and_mlx_lm_pads_nearly_half_of_its_batches():
    case = cases.CASES[0]
    rows = make_rows(case)
    lengths = np.array([len(row.tokens) for row in rows])
    read = [32 * -(-lengths[list(batch)].max() // 32) for batch in next(epochs(case))]
    assert 0.4 < 1 - lengths.sum() / (case.batch_size * sum(read)) < 0.5
    assert 0.35 < 1 - sum(row.offset for row in rows) / lengths.sum() < 0.45
    assert lengths.min() >= 20
    assert lengths.max() <= 300
    assert all(min(row.tokens) > 0 and max(row.tokens) < case.vocabulary for row in rows)


def test_every_technique_of_the_mlx_backend_is_in_the_table():
    assert {*cases.TECHNIQUES} == {*Form._fields, ours.KEPT}


@pytest.mark.parametrize("variation", all_but(["none of them", "+ head in shards"], VARIATIONS))
@pytest.mark.slow
def test_a_forced_technique_is_used_alone_and_changes_no_loss(variation, spec, monkeypatch):
    monkeypatch.setattr(SelfCheck, "best", SelfCheck.best)  # put back what the run replaces
    case = CASES[0]
    asked = spec(case, techniques=variation.techniques)
    found = ours.run(asked)
    assert {*found.used} == {*variation.techniques}
    assert (found.positions == found.real_tokens) == ("packed" in variation.techniques)
    assert loss_difference([found], [theirs.run(spec(case))]) <= 1e-5


def products(case, lengths, head_positions):
    """Every matrix product of a step as (rows, inner, columns), forward; and how many times each in all."""
    read, head_dim = sum(lengths), case.hidden // case.heads
    layer = [(read, *shape) for shape in matrices(case)]
    squares = [(length, head_dim, length) for length in lengths for _ in range(2 * case.heads)]
    adapters = [(read, *s) for i, o in matrices(case) for s in ((i, case.lora_rank), (case.lora_rank, o))]
    base_times = 2 if case.lora_rank else 3
    for number in range(case.layers):
        trains = number >= case.layers - case.last_n
        yield from ((shape, base_times if trains else 1) for shape in layer)
        yield from ((shape, 1.5 if trains else 0.5) for shape in squares)  # the half that a causal mask leaves
        yield from ((shape, 3) for shape in adapters if trains)
    yield (head_positions, case.hidden, case.vocabulary), 3 if case.head else 2


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_operations_are_those_of_every_matrix_product(case):
    lengths = (5, 9, 7)
    counted = sum(2 * prod(shape) * times for shape, times in products(case, lengths, 6))
    assert step_flops(case, lengths, 6, frozen_layers_run=True, head=case.head) == counted


def result(**changes):
    given = {
        "losses": [2.0, 1.0],
        "before_seconds": 1.0,
        "first_step_seconds": 0.5,
        "epoch_seconds": [3.0, 1.0],
        "real_tokens": 100,
        "supervised_tokens": 40,
        "positions": 125,
        "step_flops": 2e9,
        "peak_bytes": 10**9,
        "resident_bytes": 2 * 10**9,
        "imported_bytes": 10**8,
        "matrix_flops": 16e9,
        "device": "a device",
        "blas": "a BLAS",
        "used": [],
    }
    return Result(**{**given, **changes})


def test_the_measures_of_a_result():
    case = Case("a", "A case", 64, 1, rows=8, epochs=2)
    found = {measure.key: measure.of(result()) for measure in measures(case)}
    assert found["whole_seconds"] == 5
    assert found["real_tokens_per_second"] == 20
    assert found["supervised_tokens_per_second"] == 8
    assert (found["epoch_1_seconds"], found["epoch_2_seconds"]) == (3, 1)
    assert found["padding_waste"] == pytest.approx(0.2)
    assert found["matrix_share"] == 2e9 * 2 / 1 / 16e9  # the operations of two steps in the last epoch's second


def test_ratios_are_of_results_that_ran_after_each_other():
    peak = next(measure for measure in measures(CASES[0]) if measure.key == "peak_bytes")
    one = [result(peak_bytes=n) for n in (1, 3, 4)]
    other = [result(peak_bytes=n) for n in (2, 2, 2)]
    assert ratios(peak, one, other) == Spread(middle=1.5, least=0.5, most=2.0)


def test_losses_are_compared_over_the_first_steps_only():
    same, later, sooner = [1.0] * 90, [1.0] * 90, [1.0] * 90
    later[COMPARED_STEPS], sooner[COMPARED_STEPS - 1] = 9.0, 1.5
    assert loss_difference([result(losses=same)], [result(losses=later)]) == 0
    assert loss_difference([result(losses=same)] * 2, [result(losses=later), result(losses=sooner)]) == 0.5


def test_a_case_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(BadSetting, match=r"expected last-2-head, .*, lora-all, found last-3"):
        cases.chosen(["last-3"])


def test_without_mlx_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("mlxtune.backends.choose.has_mlx", lambda: False)
    with pytest.raises(Missing, match="MLX and mlx-lm installed"):
        next(run.lines([], compare.Settings(), print, techniques=False))


def test_a_worker_that_fails_is_told_with_its_last_words():
    with pytest.raises(RunStopped, match=r"found exit code 1.*\n(.*\n)*.*No module named .*\.nothing"):
        compare._work(Spec("nothing", CASES[0], ""), compare.Settings())


@pytest.mark.slow
def test_a_bench_that_is_told_to_end_takes_its_worker_with_it():
    command = [sys.executable, "-m", "mlxtune", "bench", "--case", "even"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as bench:
        assert "uncounted" in bench.stderr.readline()  # said when one worker has ended and the next begins
        time.sleep(1)
        bench.terminate()
        assert bench.wait(timeout=60) == 143
        with pytest.raises(ProcessLookupError):
            os.killpg(bench.pid, 0)  # no one of its group is left


@pytest.fixture(scope="module")
def compared():
    said = []
    case = CASES[0]._replace(layers=2, last_n=1, as_it_is=False)
    return compare.compare(case, compare.Settings(repeats=1), said.append), said


@pytest.mark.slow
def test_a_comparison_in_processes_of_their_own_has_equal_losses_and_all_its_measures(compared):
    comparison, said = compared
    assert [line.rpartition(",")[0] for line in said[1:]] == [
        f"last-2-head, 1 of 1: {name}" for name in (cases.MLXTUNE, cases.EQUAL)
    ]
    document = json.loads(json.dumps(table.as_json(comparison)))
    assert {*document} == {"case", "sides", "ratios", "largest_loss_difference", "compared_steps"}
    assert document["largest_loss_difference"] <= 1e-5
    assert document["compared_steps"] == 4
    keys = {measure.key for measure in measures(comparison.case)}
    assert {*document["sides"]} == {cases.MLXTUNE, cases.EQUAL}
    for side in document["sides"].values():
        assert {*side["measures"]} == keys
        assert {*side["runs"][0]} == {*Result._fields}
        assert all(spread["middle"] > 0 for key, spread in side["measures"].items() if key != "padding_waste")
    assert {*document["ratios"]} == {cases.EQUAL}
    assert {*document["ratios"][cases.EQUAL]} == keys


@pytest.mark.slow
def test_the_command_prints_a_table_or_one_document(compared, monkeypatch):
    monkeypatch.setattr(run, "compare", lambda *_: compared[0])
    shown = CliRunner().invoke(app, ["bench", "--case", "last-2-head"]).stdout
    for words in ("real tokens/s", "epoch 2, s", "whole, s", "loss differs by", "Matrix rate", "BLAS: "):
        assert words in shown
    document = json.loads(CliRunner().invoke(app, ["bench", "--case", "last-2-head", "--json"]).stdout)
    assert {*document} == {"machine", "comparisons"}
    assert {*document["machine"]} >= {"device", "blas", "matrix_gflops", "versions", "settings"}


def test_the_techniques_are_lines_of_one_table(monkeypatch):
    results = {variation.words: [result()] for variation in cases.variations()}
    monkeypatch.setattr(run, "compare_techniques", lambda case, *_: compare.Comparison(tiny(case), results))
    shown = CliRunner().invoke(app, ["bench", "--techniques"]).stdout
    for variation in cases.variations():
        assert f"| {variation.words} " in shown
    document = json.loads(CliRunner().invoke(app, ["bench", "--techniques", "--json"]).stdout)
    assert [*document["comparisons"][0]["sides"]] == [*results]
