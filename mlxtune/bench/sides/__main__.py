"""`python -m mlxtune.bench.sides`, a Spec on standard input: does its work and prints the Result."""

import json
import sys
import time
from importlib import import_module

from mlxtune.backends import blas
from mlxtune.bench.sides.spec import spec_from_json


def main() -> None:
    """The BLAS is chosen before anything imports MLX or NumPy, for both sides alike."""
    blas.configure()
    blas.load_openblas()
    spec = spec_from_json(sys.stdin.read())
    began = time.perf_counter()
    work = import_module(f"mlxtune.bench.sides.{spec.work}")
    imported = time.perf_counter() - began
    result = work.run(spec)
    print(json.dumps(result and result._replace(import_seconds=imported)._asdict()))


if __name__ == "__main__":
    main()
