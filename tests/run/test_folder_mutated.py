"""A run folder with anything changed in it: it is read as it was written, or refused in one message."""

import json
import random
import shutil
from pathlib import Path

import pytest

from mlxtune.adapters import folder as adapter
from mlxtune.errors import LONGEST, MlxtuneError
from mlxtune.events import Step
from mlxtune.progress import Progress
from mlxtune.recipe.recipe import build, flat
from mlxtune.report.log import replay, rewind
from mlxtune.run import folder as run_folder
from mlxtune.run import identity as run_identity
from mlxtune.run import session as run
from mlxtune.storage import checkpoint
from mlxtune.storage.documents import check
from tests.support.run import Ask, lora_recipes, write_rows
from tests.support.slow import all_but

MUTATIONS = 2000
ODD = (None, True, -1, 0, 1e400, 10**30, "", "\ud83d", "x" * 5000, [], {}, [[]], {"step": []})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def recipe(tmp_path):
    return lora_recipes(write_rows(tmp_path))


@pytest.fixture
def begun(recipe, out):
    """A run with two checkpoints and an adapter that was stopped."""
    run.start(recipe(train__eval_every=1), [Ask(4)])
    return out


def flipped(content, chance):
    place = chance.randrange(len(content) * 8)
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def without(content, chance):
    begin = chance.randrange(len(content))
    return content[:begin] + content[begin + chance.randint(1, 40) :]


def doubled(content, chance):
    begin = chance.randrange(len(content))
    return content[:begin] + content[begin : begin + chance.randint(1, 40)] + content[begin:]


def zeroed(content, chance):
    begin = chance.randrange(len(content))
    n_bytes = min(chance.randint(1, 600), len(content) - begin)
    return content[:begin] + bytes(n_bytes) + content[begin + n_bytes :]


def of_another_type(content, chance):
    """One value of a JSON document, wherever it is, taken out or replaced by something odd."""
    try:
        document = json.loads(content)
    except ValueError:
        return flipped(content, chance)
    place = document
    while True:
        key = chance.choice([*(place if isinstance(place, dict) else range(len(place)))])
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.7:
            place = place[key]
            continue
        if chance.random() < 0.3:
            del place[key]
        else:
            place[key] = chance.choice(ODD)
        return json.dumps(document).encode()


def read_back(folder):
    """All that is ever read of a run folder, as values that can be compared."""
    run_folder.check(folder, new=False)
    tree = run_identity.saved_recipe(folder)
    found = checkpoint.newest(folder)
    assert found is not None
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        checkpoint.read_header(found.path / name)
    progress = check(found.state["progress"], Progress, "state.json", MlxtuneError)
    events = list(replay(folder / "metrics.jsonl"))
    rewind(folder / "metrics.jsonl", 2)
    return {
        "recipe": flat(build(tree, {})),
        "fingerprints": run_identity.differences(build(tree, {}), {}, folder),
        "state": (found.path.name, found.state, progress),
        "tensors": [(found.path / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)],
        "adapter": (adapter.find(folder / "adapter").untied_head, (folder / "adapter" / adapter.WEIGHTS).read_bytes()),
        "losses": [(event.step, event.loss, event.tokens) for event in events if isinstance(event, Step)],
    }


@pytest.mark.slow
def test_nothing_that_was_changed_is_taken_for_what_was_written(begun, tmp_path):
    """Bits, cuts, holes, doubled parts, zeros, other types: the values that were written, an older checkpoint, or one
    message. Never other values, never another exception."""
    chance, copy = random.Random(7), tmp_path / "copy"
    shutil.copytree(begun, copy)
    truth = read_back(copy)
    shutil.rmtree(copy)
    shutil.copytree(begun, copy)
    older = {**truth, "state": state_of(begun, tmp_path), "tensors": tensors_of(begun / "checkpoints" / "000002")}
    files = sorted(path.relative_to(begun) for path in begun.rglob("*") if path.is_file() and path.name != ".lock")
    ways, refused = (flipped, cut, without, doubled, zeroed, of_another_type), 0
    longest = 0
    for number in range(MUTATIONS):
        name, way = files[number % len(files)], chance.choice(ways)
        (copy / name).write_bytes(way((begun / name).read_bytes(), chance))
        try:
            found = read_back(copy)
            if found["losses"] != truth["losses"]:  # cut off at the end of a line, as a kill leaves it
                assert found["losses"] == truth["losses"][: len(found["losses"])], (number, name, way)
            assert {**found, "losses": []} in ({**truth, "losses": []}, {**older, "losses": []}), (number, name, way)
        except MlxtuneError as fault:
            refused, longest = refused + 1, max(longest, len(str(fault)))
        restore(begun, copy, name)
    assert longest <= LONGEST
    assert refused > MUTATIONS / 4  # most of the others fell back to the checkpoint before


def state_of(begun, tmp_path):
    """Of the older checkpoint."""
    alone = tmp_path / "alone"
    shutil.copytree(begun, alone)
    shutil.rmtree(alone / "checkpoints" / "000004")
    return read_back(alone)["state"]


def tensors_of(folder):
    return [(folder / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)]


def restore(begun, copy, name):
    """The copy as it was: what was changed, what was set aside, what was rewound."""
    aside = copy / "checkpoints" / "000004-damaged"
    if aside.exists():
        aside.rename(copy / "checkpoints" / "000004")
    for each in (name, Path("metrics.jsonl")):
        shutil.copyfile(begun / each, copy / each)


GONE = ("recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "adapter", ".lock")


@pytest.mark.parametrize("name", all_but(["recipe.yaml", "checkpoints"], GONE))
@pytest.mark.parametrize("way", ["removed", "emptied", "a folder", "a link to itself"])
@pytest.mark.few(2)
def test_a_run_with_a_part_missing_or_of_another_kind_goes_on_or_is_refused_in_one_message(begun, recipe, name, way):
    path = begun / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if way == "emptied":
        path.write_bytes(b"")
    elif way == "a folder":
        path.mkdir()
    elif way == "a link to itself":
        path.symlink_to(path)
    try:
        said = f"{begun} {run.start(recipe(train__eval_every=1)).exit_code}"
    except MlxtuneError as fault:
        said = str(fault)
    assert str(begun) in said
    assert said.endswith(" 0") or said.startswith(str(begun))
