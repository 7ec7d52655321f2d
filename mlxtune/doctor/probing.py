"""A backend computes in a process of its own: what kills a process, as a library for another chip does, is a line here.

`python -m mlxtune.doctor.probing mlx` prints the Probe as JSON.
"""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module

from mlxtune.backends import blas
from mlxtune.backends.probe import Probe

SECONDS = 15.0  # usually one; a first import from a slow disk takes several


def probe(backend: str) -> Probe | str:
    """What a backend showed, or why it showed nothing."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", __name__, backend]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=paths, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS:.0f} s"
    except OSError as error:
        return str(error)
    if ended.returncode:
        return _last_words(ended.returncode, ended.stderr)
    return Probe(**json.loads(ended.stdout.splitlines()[-1]))


def _last_words(returncode: int, stderr: str) -> str:
    r"""A traceback's last line, or the signal.

    >>> _last_words(1, "Traceback (most recent call last):\n  ...\nImportError: libmlx.so: no such file\n")
    'ImportError: libmlx.so: no such file'
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    killed = f"ended by {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    return lines[-1] if lines and returncode > 0 else ": ".join([killed, *lines[-1:]])


def main() -> None:
    """The BLAS is chosen before anything imports MLX or NumPy, as in a run."""
    blas.configure()
    if sys.argv[1] == "mlx":
        blas.load_openblas()
    measured = import_module(f"mlxtune.backends.{sys.argv[1]}.probe").measure()
    print(json.dumps(measured._asdict()))


if __name__ == "__main__":
    main()
