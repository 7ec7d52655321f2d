"""Which backend computes, and why; which BLAS is under it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxtune.backends import blas, choose
from mlxtune.backends.base import BackendSettings
from tests.support.model import CONFIG, write_json, write_model

AUTO = BackendSettings()


@pytest.fixture
def mlx_on(monkeypatch):
    """A machine with MLX, on a processor or with a GPU."""

    def pretend(*, processor):
        monkeypatch.setattr(choose, "has_mlx", lambda: True)
        monkeypatch.setattr(choose, "_mlx_has_only_the_processor", lambda _: processor)

    return pretend


def test_auto_is_mlx_where_it_has_a_gpu(mlx_on, tmp_path):
    mlx_on(processor=False)
    assert choose.choose(AUTO, tmp_path) == choose.Choice("mlx", ())


def test_auto_is_numpy_where_mlx_has_only_the_processor_and_the_panel_says_why(mlx_on, tmp_path):
    mlx_on(processor=True)
    write_model(tmp_path)
    assert choose.choose(AUTO, tmp_path) == choose.Choice("numpy", (choose.NUMPY_IS_FASTER,))


def test_auto_is_mlx_on_a_processor_for_an_architecture_that_numpy_does_not_have(mlx_on, tmp_path):
    mlx_on(processor=True)
    write_model(tmp_path)
    write_json(tmp_path / "config.json", {**CONFIG, "model_type": "gemma2"})
    name, notes = choose.choose(AUTO, tmp_path)
    assert (name, notes[0]) == ("mlx", choose.ONLY_MLX_CAN)


def test_auto_is_mlx_on_a_processor_for_weights_that_do_not_fit_in_float32(mlx_on, monkeypatch, tmp_path):
    mlx_on(processor=True)
    write_model(tmp_path)
    monkeypatch.setattr(choose, "memory_bytes", lambda: 1000)
    name, notes = choose.choose(AUTO, tmp_path)
    assert (name, notes[0]) == ("mlx", choose.ONLY_MLX_FITS)


@pytest.mark.parametrize("name", ["mlx", "numpy"])
def test_the_backend_that_is_asked_for_is_taken(mlx_on, name, tmp_path):
    mlx_on(processor=True)
    assert choose.choose(BackendSettings(name=name), tmp_path).name == name


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")
def test_the_panel_says_which_blas_mlx_computes_with(mlx_on, monkeypatch, tmp_path):
    mlx_on(processor=True)
    for found, note in ((True, blas.USED), (False, blas.MISSING)):
        monkeypatch.setattr(blas, "load_openblas", lambda found=found: found)
        assert choose.choose(BackendSettings(name="mlx"), tmp_path).notes == (note,)
    assert choose.choose(BackendSettings(name="mlx", system_blas=False), tmp_path).notes == (blas.NOT_USED,)


def test_kernels_that_the_user_chose_stay(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    blas.configure()
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says which libraries are loaded")
def test_a_system_openblas_is_in_the_process_before_mlx_is_asked_to_compute():
    code = (
        "from mlxtune.backends import blas\n"
        "loaded = blas.load_openblas()\n"
        "there = '/libopenblas' in open('/proc/self/maps').read()\n"
        "assert loaded == there, (loaded, there)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
