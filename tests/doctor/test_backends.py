"""Backends that compute rightly, wrongly and not at all, and what `mlxtune doctor` says of each."""

import os
import sys

import numpy as np
import pytest

from mlxtune.backends import choose, probe
from mlxtune.backends.numpy import probe as numpy_probe
from mlxtune.backends.probe import Probe
from mlxtune.doctor import backends, probing
from tests.support.cli import BACKENDS
from tests.support.doctor import GOOD, named


def test_the_known_gradient_is_that_of_the_loss():
    def loss(head_VD):
        return numpy_loss(probe.HIDDEN_ND, head_VD, probe.TARGETS_N)

    head_VD, step = np.array(probe.HEAD_VD), 1e-5
    for v, d in ((0, 0), (5, 3), (23, 15), (10, 7)):
        change = np.zeros_like(head_VD)
        change[v, d] = step
        slope = (loss(head_VD + change) - loss(head_VD - change)) / (2 * step)
        assert probe.true_gradient()[v][d] == pytest.approx(slope, abs=1e-6)


def numpy_loss(hidden_ND, head_VD, targets_N):
    logits_NV = np.array(hidden_ND) @ head_VD.T
    return (np.log(np.exp(logits_NV).sum(-1)) - logits_NV[np.arange(len(targets_N)), targets_N]).sum()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.slow
def test_a_backend_that_works_computes_and_has_the_right_gradient(name):
    showed = probing.probe(name)
    assert isinstance(showed, Probe), showed
    assert showed.gradient_error < 1e-5 or not showed.on_processor
    assert showed.gflops > 0
    assert backends.computes(name, showed).state == "ok"


def test_a_wrong_gradient_is_reported(monkeypatch):
    right = numpy_probe.log_probabilities_and_gradients

    def wrong(hidden, head, targets, worth, gradient, ws):
        found = right(hidden, head, targets, worth, gradient, ws)
        gradient[3, 2] += 0.02 * abs(gradient).max()
        return found

    monkeypatch.setattr(numpy_probe.probe, "gflops", lambda _: 1.0)
    assert backends.computes("numpy", numpy_probe.measure()).state == "ok"
    monkeypatch.setattr(numpy_probe, "log_probabilities_and_gradients", wrong)
    found = backends.computes("numpy", numpy_probe.measure())
    assert found.state == "bad"
    assert "wrong gradient" in found.found


def test_a_gradient_that_is_no_number_is_wrong():
    assert backends.computes("mlx", GOOD._replace(gradient_error=float("nan"))).state == "bad"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise ImportError('libmlx.so: cannot open shared object file')", "ImportError: libmlx.so: cannot open"),
        ("import os; os.abort()", "SIGABRT" if os.name == "posix" else "exit code"),
    ],
)
@pytest.mark.slow
def test_an_mlx_that_cannot_be_imported_is_a_line(monkeypatch, tmp_path, fault, words):
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").touch()
    (tmp_path / "mlx" / "core.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(choose, "has_mlx", lambda: True)
    found = named(backends.checks())
    assert found["mlx backend"].state == found["--backend auto"].state == "bad"
    assert words in found["mlx backend"].found
    assert found["numpy backend"].state == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")
def test_the_slow_blas_of_mlx_is_warned_of_with_its_remedy(monkeypatch):
    monkeypatch.setattr(backends.blas, "load_openblas", lambda: False)
    (found,) = backends.products(GOOD)
    assert (found.state, found.remedy) == ("warn", backends.blas.INSTALL)
    assert backends.products(GOOD._replace(on_processor=False)) == []


def test_a_gpu_has_a_working_set_and_auto_takes_it(monkeypatch):
    gpu = GOOD._replace(on_processor=False)
    monkeypatch.setattr(choose, "choose", lambda *_: choose.Choice("mlx", ()))
    assert backends.auto(gpu).meaning == backends.MLX_HAS_A_GPU
    assert backends.working_set(gpu)[0].found == "10.0 GB"
    assert backends.working_set(GOOD) == []
