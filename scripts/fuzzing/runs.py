"""Run folders: every file of one, read as a resumed run reads it."""

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

from fuzzing import mutate

from mlxtune.errors import MlxtuneError
from mlxtune.recipe.recipe import build
from mlxtune.report.log import last_end, replay, rewind
from mlxtune.run import folder as run_folder
from mlxtune.run import identity as run_identity
from mlxtune.storage import checkpoint


@cache
def _run() -> dict[str, bytes]:
    """The files of a run of a step."""
    from tempfile import TemporaryDirectory

    from mlxtune.run import session as run

    with TemporaryDirectory() as place:
        out = Path(place) / "run"
        keys = {
            "strategy.last_n": 1,
            "strategy.head": False,
            "run.out": str(out),
            "train.max_steps": 1,
            "train.batch_size": 1,
            "backend.name": "numpy",
        }
        run.start(build({}, {**keys, "data.max_seq_length": 64, "backend.prefix_cache": "off"}))
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}


def write_run(random: Random, folder: Path) -> None:
    files = _run()
    changed = random.choice([name for name in files if not name.endswith(".lock")])
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name == changed:
            with suppress(ValueError):  # YAML, or JSON lines
                text = mutate.as_json(mutate.document(random, json.loads(text))) if random.random() < 0.5 else text
            text = mutate.data(random, text)
        (folder / name).write_bytes(text)


def read_run(folder: Path) -> None:
    """What a resumed run reads, each file whether or not one before it is refused."""
    first: list[MlxtuneError] = []
    for part in (_resumed, checkpoint.newest, lambda run: last_end(run / "metrics.jsonl"), _logged):
        try:
            part(folder)
        except MlxtuneError as fault:
            first.append(fault)
    if first:
        raise first[0]


def _resumed(folder: Path) -> None:
    run_folder.check(folder, new=False)
    recipe = build(run_identity.saved_recipe(folder), {}, str(folder))
    run_identity.differences(recipe, {"model": "a" * 64, "data": "b" * 64}, folder)


def _logged(folder: Path) -> None:
    list(replay(folder / "metrics.jsonl"))
    rewind(folder / "metrics.jsonl", 1)
