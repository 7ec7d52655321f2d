"""Runs the sides of a comparison in turn, each training in a process of its own with an empty cache."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mlxtune.bench.cases import AS_IT_IS, EQUAL, MLXTUNE, Variation, variations
from mlxtune.bench.sides.spec import Case, Result, Spec, spec_to_json
from mlxtune.errors import RunStopped

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
LAST_WORDS = 20  # lines of a worker that failed
Tell = Callable[[str], None]


class Settings(NamedTuple):
    repeats: int = 3
    threads: int = 1
    precision: str = "fp32"


class Comparison(NamedTuple):
    """The results of each side, in the order of the repeats: results that have one place ran after each other."""

    case: Case
    results: Mapping[str, list[Result]]


def compare(case: Case, settings: Settings, tell: Tell) -> Comparison:
    """mlxtune and mlx-lm on one case."""

    def sides(folder: Path) -> dict[str, Spec]:
        ours = Spec("ours", case, str(folder), settings.precision)
        theirs = ours._replace(work="theirs")
        found = {MLXTUNE: ours, EQUAL: theirs}
        return found | ({AS_IT_IS: theirs._replace(equal_work=False)} if case.as_it_is else {})

    return _in_turn(case, settings, sides, tell)


def compare_techniques(case: Case, settings: Settings, tell: Tell) -> Comparison:
    """mlxtune with some of its techniques on one case."""

    def spec(variation: Variation, folder: Path) -> Spec:
        return Spec("ours", case, str(folder), settings.precision, techniques=variation.techniques)

    return _in_turn(case, settings, lambda folder: {v.words: spec(v, folder) for v in variations()}, tell)


def _in_turn(case: Case, settings: Settings, sides: Callable[[Path], dict[str, Spec]], tell: Tell) -> Comparison:
    """Every side once in each repeat, and in the other direction in every second one: a drift meets all alike.

    A few steps of each come first, uncounted: on a processor `mx.compile` calls a C++ compiler, once for a machine.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        specs = sides(folder)
        _work(Spec("make", case, str(folder), settings.precision), settings)
        tell(f"{case.name}: a few steps of each, uncounted")
        for spec in specs.values():
            _result(spec._replace(case=case._replace(rows=case.batch_size, epochs=2)), settings)
        results: dict[str, list[Result]] = {name: [] for name in specs}
        for repeat in range(settings.repeats):
            for name in list(specs)[:: -1 if repeat % 2 else 1]:
                result = _result(specs[name], settings)
                results[name].append(result)
                tell(f"{case.name}, {repeat + 1} of {settings.repeats}: {name}, {result.whole_seconds:.1f} s")
    return Comparison(case, results)


def _result(spec: Spec, settings: Settings) -> Result:
    return Result(**json.loads(_work(spec, settings)))


def _work(spec: Spec, settings: Settings) -> str:
    """The last line that a worker prints. Raises RunStopped, with its last words, where it fails."""
    command = [sys.executable, "-m", "mlxtune.bench.sides"]
    threads = dict.fromkeys(THREADS, str(settings.threads))
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, **threads, "MLXTUNE_CACHE": cache}
        asked = spec_to_json(spec)
        ended = subprocess.run(command, input=asked, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RunStopped(
            f"{spec.case.name}, {spec.work}",
            expected="a process that ends well",
            found=f"exit code {ended.returncode}",
            remedy="\n".join(ended.stderr.splitlines()[-LAST_WORDS:]),
        )
    return ended.stdout.splitlines()[-1]
