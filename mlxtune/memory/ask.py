"""What another program says. A program that is not there, fails or hangs says nothing."""

import os
import subprocess

SECONDS = 2.0


def ask(*command: str) -> str:
    """Its standard output, without the white space around it; empty where there is none."""
    plain = {**os.environ, "LC_ALL": "C"}  # numbers with a point
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=plain, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def sysctl(name: str) -> str:
    """A value of macOS's kernel."""
    return ask("sysctl", "-n", name)
