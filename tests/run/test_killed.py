"""A run that ends at any file operation goes on to the same bytes; the script does the same at many more."""

import subprocess
import sys

import pytest

from tests.support.checkout import ROOT
from tests.support.cli import BACKENDS


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["operations", "full-disk"])
def test_ended_at_a_file_operation_a_run_goes_on_to_the_same_bytes(form, backend):
    """Killed, or on a disk without room; in the first operations, before it is a run, and later."""
    arguments = [form, "--backend", backend, "--first", "3", "--random", "2"]
    command = [sys.executable, "scripts/kill_and_resume.py", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all equal after" in ended.stdout
