"""The program as a fixture."""

import sys

import pytest

from mlxtune.cli.app import run_here
from tests.support.cli import Found


@pytest.fixture
def mlxtune(tmp_path, monkeypatch, capfd):
    """The program in this process, for speed: a function from its arguments to what it said and how it ended."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mlxtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_here()
        return Found(int(ended.value.code or 0), *capfd.readouterr())

    return call
