"""`mlxtune doctor`: what the machine says is read rightly, what is wrong is told, and what is secret is not."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from mlxtune.backends import choose
from mlxtune.checks import Check
from mlxtune.doctor import backends, examine, machine, network
from mlxtune.report.doctor import show
from tests.support.checkout import ROOT
from tests.support.doctor import GOOD
from tests.support.hub import Hub, serve
from tests.support.stream import Stream

TOKEN = "hf_QwErTyUiOpAsDfGhJkLzXcVbNm"
HIDE_MLX = """
import importlib.metadata as metadata
from importlib.machinery import PathFinder

find, of_name = PathFinder.find_spec, metadata.Distribution.from_name
HIDDEN = ("mlx", "mlx_lm", "mlx-lm")


def not_mlx(name, *rest):
    return None if name.split(".")[0] in HIDDEN else find(name, *rest)


def not_of_mlx(name):
    if name in HIDDEN:
        raise metadata.PackageNotFoundError(name)
    return of_name(name)


PathFinder.find_spec = not_mlx
metadata.Distribution.from_name = not_of_mlx
"""


def closed_port():
    """A port of this machine that nothing listens to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def in_a_process(folder, *arguments, **environment):
    """The verb as a user runs it, with a token in the environment and in a file, and a hub that is out of reach."""
    (folder / "token").write_text(TOKEN[::-1])
    mine = {"HF_TOKEN": TOKEN, "HF_HOME": str(folder), "HF_ENDPOINT": f"http://user:{TOKEN}@127.0.0.1:{closed_port()}"}
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "mlxtune", "doctor", *arguments],
        cwd=folder,
        env={**os.environ, "FORCE_COLOR": "1", **mine, **environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return in_a_process(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return in_a_process(tmp_path_factory.mktemp("json"), "--json")


@pytest.fixture
def quick(monkeypatch):
    """No backend computes."""
    monkeypatch.setattr(backends, "probe", lambda _: GOOD)


@pytest.mark.slow
def test_it_ends_with_0_and_says_nothing_on_standard_error(plain, document):
    for found in (plain, document):
        assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.slow
def test_json_is_one_document(document):
    told = json.loads(document.stdout)
    assert set(told) == {"checks", "ok"}
    assert all(set(check) == {"name", "state", "found", "meaning", "remedy"} for check in told["checks"])
    assert {check["state"] for check in told["checks"]} <= {"ok", "warn", "bad"}
    assert told["ok"] == all(check["state"] != "bad" for check in told["checks"])


@pytest.mark.slow
def test_every_check_is_a_line_in_a_pipe_and_none_has_a_colour_code(plain, document):
    names = [check["name"] for check in json.loads(document.stdout)["checks"]]
    assert "\x1b" not in plain.stdout
    lines = plain.stdout.splitlines()
    assert [line[6:28].strip() for line in lines[:-1]] == names
    assert " ok" in lines[-1]


@pytest.mark.slow
def test_no_piece_of_a_token_is_shown(plain, document):
    pieces = {word[at : at + 5] for word in (TOKEN, TOKEN[::-1]) for at in range(len(word) - 4)}
    for found in (plain, document):
        assert "present, in the environment (HF_TOKEN)" in found.stdout
        assert not [piece for piece in pieces if piece in found.stdout + found.stderr]


def test_a_token_in_the_file_is_seen_without_being_read(monkeypatch, tmp_path):
    for name in network.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "token"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
    assert network.token().found == "none"
    file.touch()
    assert network.token().found == "none"
    file.write_text(TOKEN)
    for way in ("open", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, way, None)
    assert network.token().found == "present, in huggingface_hub's file"


def test_a_hub_that_is_out_of_reach_is_told_within_its_timeout(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    start = time.monotonic()
    found = network.hub()
    assert time.monotonic() - start < network.SECONDS + 1
    assert found.state == "warn"
    assert "does not answer" in found.found
    assert found.remedy


def test_a_hub_that_says_nothing_is_told_within_its_timeout(monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer" in network.hub().found


def test_work_without_a_timeout_of_its_own_is_left_alone_after_the_time():
    start = time.monotonic()
    assert isinstance(network.within(0.1, lambda: time.sleep(5) or 200), TimeoutError)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("refuses", "state"), [(None, "ok"), (404, "ok"), (503, "warn")])
def test_a_hub_that_answers_is_reachable_unless_it_is_broken(monkeypatch, tmp_path, refuses, state):
    with serve(Hub("org/model", tmp_path)) as hub:
        hub.refuses = refuses
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert network.hub().state == state


def test_offline_by_setting_touches_no_network(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(network, "get_session", None)
    assert "HF_HUB_OFFLINE" in network.hub().found


@pytest.mark.slow
def test_absent_mlx_is_told_and_numpy_is_taken(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE_MLX)
    ended = in_a_process(tmp_path, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    told = json.loads(ended.stdout)
    found = {check["name"]: check for check in told["checks"]}
    assert {found[name]["found"] for name in ("mlx", "mlx-lm")} == {"absent"}
    assert found["mlx backend"]["state"] == "warn"
    assert found["mlx backend"]["remedy"] == backends.install_mlx()
    assert (found["--backend auto"]["found"], found["--backend auto"]["meaning"]) == ("numpy", choose.NO_MLX)
    assert told["ok"]


@pytest.mark.usefixtures("quick")
def test_a_section_that_fails_is_a_line_and_silences_no_other(monkeypatch, mlxtune):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(machine, "checks", lambda: 1 / 0)
    found = mlxtune("doctor")
    assert (found.returncode, found.stderr) == (0, "")
    assert "bad   machine               could not be examined: ZeroDivisionError: division by zero" in found.stdout
    assert "numpy backend" in found.stdout


def test_bad_usage_ends_with_2(mlxtune):
    assert mlxtune("doctor", "--no-such-flag").returncode == 2


def test_a_terminal_has_colours():
    stream = Stream(is_terminal=True)
    show([Check("swap", "warn", "9 GB in use", "Paged.", "Close something.")], stream)
    assert "\x1b[33mwarn" in stream.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_name_that_the_stream_cannot_write_is_escaped(is_terminal):
    stream = Stream(is_terminal, encoding="ascii")
    show([Check("disk", "ok", "free in /Модели")], stream)
    assert stream.getvalue().isascii()


def test_a_damaged_numpy_is_told_and_the_machine_too(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('incompatible architecture')")
    ended = in_a_process(tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "incompatible architecture" in ended.stdout
    assert "ok    chip " in ended.stdout
    assert "hub token" in ended.stdout


@pytest.mark.usefixtures("quick")
def test_all_of_it_is_examined(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    names = {check.name for check in examine.examine()}
    assert names >= {"chip", "memory", "python", "numpy", "numpy backend", "--backend auto", "disk for runs", "hub"}
