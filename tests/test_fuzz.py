"""Broken input of every kind is answered by one message; and the fuzzer that says so finds what is planted."""

import json
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT
from tests.support.slow import all_but

SCRIPTS = ROOT / "scripts"

PLANTED = """
import os, signal, sys, time
sys.path.insert(0, {scripts!r})
import fuzz
from fuzzing.kinds import Kind
from mlxtune.errors import BadData

def hang(_):
    while True:
        pass

def stuck(_):
    time.sleep(60)

def flood(_):
    error = BadData("a", expected="b", found="c")
    type(error).__str__ = lambda self: "x" * 5000
    raise error

def raw(_):
    class Raw(BadData):
        def __str__(self):
            return "\\x1b[2J"
    raise Raw("a", expected="b", found="c")

READ = {{
    "right": lambda _: None,
    "refused": lambda _: (_ for _ in ()).throw(BadData("a", expected="b", found="c")),
    "escape": lambda _: {{}}["a"],
    "hang": hang,
    "stuck": stuck,
    "large": lambda _: bytearray(1_500_000_000),
    "dead": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "noise": lambda _: os.write(1, b"hello"),
    "raw": raw,
    "flood": flood,
}}
fuzz.SLOW_SECONDS, fuzz.STUCK_SECONDS, fuzz.warm = 0.2, 20.0, lambda _: None
name = sys.argv[1]
sys.argv[1:] = ["--inputs", "1", "--workers", "1", "--seed", "5"]
fuzz.KINDS = {{name: Kind(lambda _, folder: None, READ[name], 1)}}
sys.exit(fuzz.main())
"""

FINDS = {
    "right": None,
    "refused": None,
    "escape": "KeyError at",
    "hang": "more than 0 s at",
    "stuck": "no answer in 20 s",
    "large": "MemoryError at",
    "dead": "the process died with -11",
    "noise": "raw output: 'hello'",
    "raw": "a raw message",
    "flood": "a message of more than 4,000 characters",
}


def run(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited by Linux")
@pytest.mark.parametrize("planted", all_but(["right", "refused", "escape", "raw"], FINDS.keys()))
@pytest.mark.few(1)
def test_the_fuzzer_finds_a_planted_fault_and_says_how_to_see_it_again(planted):
    words = FINDS[planted]
    found = run("-c", PLANTED.format(scripts=str(SCRIPTS)), planted)
    assert found.returncode == int(words is not None), found.stdout + found.stderr
    assert f"{planted:<12}{1:>10}" in found.stdout
    if words:
        assert f"{planted}: {words}" in found.stdout
        assert "scripts/fuzz --seed 5 --only 0" in found.stdout


@pytest.mark.slow
def test_an_input_is_a_function_of_the_seed_and_its_number(tmp_path):
    for name in ("a", "b"):
        run(SCRIPTS / "fuzz.py", "--seed", 7, "--only", 11, "--keep", tmp_path / name)
    kept = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).rglob("*")) for name in ("a", "b")]
    assert kept[0] == kept[1] != []


@pytest.mark.slow
def test_a_minute_of_broken_input_of_every_kind_finds_nothing(tmp_path):
    """The inputs are the same each time; the docs say how many more of them were tried."""
    found = run(SCRIPTS / "fuzz.py", "--seconds", 60, "--seed", 1, "--json", tmp_path / "counts")
    assert found.returncode == 0, found.stdout + found.stderr
    counts = json.loads((tmp_path / "counts").read_text())
    assert all(each["taken"] + each["refused"] > 0 for each in counts.values())
