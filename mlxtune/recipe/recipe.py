"""The Recipe: every setting of a run, composed of the sections that their owners define; strict, frozen, in YAML.

Precedence: command line, then --set, then the recipe file, then the defaults. A key that nothing reads is an error that
names the nearest key; where many things are wrong, all are told at once.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from pydantic import Field, ValidationError

from mlxtune.backends.base import BackendSettings
from mlxtune.data import urls
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadSetting, MlxtuneError, raise_all
from mlxtune.format import shown
from mlxtune.models.settings import ModelSettings
from mlxtune.objectives.choose import Objective
from mlxtune.objectives.sft import Sft
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.choose import AnyOptimizer
from mlxtune.optim.schedule import Constant, Schedule, check_length
from mlxtune.pace import TrainSettings
from mlxtune.recipe.faults import as_ours, at
from mlxtune.samples import SampleSettings
from mlxtune.settings import section
from mlxtune.storage.checkpoint import CheckpointSettings
from mlxtune.storage.strict_yaml import load_yaml, scalar
from mlxtune.strategies.choose import Strategy
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora

Tree = Mapping[str, Any]


@section
class RunSettings:
    """out: the run folder; None makes a new one under runs/."""

    out: str | None = None


@section
class Recipe:
    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    objective: Objective = Field(default_factory=Sft)
    strategy: Strategy = Field(default_factory=LastN)
    optimizer: AnyOptimizer = Field(default_factory=AdamW)
    schedule: Schedule = Field(default_factory=Constant)
    train: TrainSettings = Field(default_factory=TrainSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    sample: SampleSettings = Field(default_factory=SampleSettings)
    backend: BackendSettings = Field(default_factory=BackendSettings)
    run: RunSettings = Field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if self.train.max_steps is not None:
            check_length(self.schedule, self.train.max_steps)
        self._refuse_what_would_do_nothing()

    def _refuse_what_would_do_nothing(self) -> None:
        optimizer, backend, lora = self.optimizer, self.backend, isinstance(self.strategy, Lora)
        adapted = f"with strategy {self.strategy.name}"
        if optimizer.low_precision is not None and lora:
            _idle("optimizer.low_precision", optimizer.low_precision, f"{adapted}: adapters are float32")
        if optimizer.decay_norms_and_biases and (lora or not optimizer.weight_decay):
            why = f"{adapted}, which trains neither" if lora else "with a weight decay of 0"
            _idle("optimizer.decay_norms_and_biases", "true", why)
        if backend.name == "numpy" and not backend.system_blas:
            _idle("backend.system_blas", "false", "with backend numpy, which has the BLAS that NumPy was built with")
        if self.objective.rows_per_example > 1 and self.data.loss_on != "auto":
            _idle("data.loss_on", self.data.loss_on, "with pairs of answers: what is before the answers cancels out")
        if optimizer.low_precision is not None and backend.precision == "fp32":
            _idle("optimizer.low_precision", optimizer.low_precision, "with precision fp32, which rounds nothing")
        if optimizer.moments != "fp32" and not optimizer.slots:
            _idle("optimizer.moments", optimizer.moments, f"with {optimizer.name} as it is set, which has no state")


def _idle(key: str, value: str, why: str) -> NoReturn:
    raise BadSetting(key, expected="a setting that does something", found=f"{value} {why}", remedy="Leave it out.")


# The kinds of each section; where there are several, the section's `name` chooses and the first is the default.
SECTIONS: dict[str, tuple[type, ...]] = {
    "model": (ModelSettings,),
    "data": (DataSettings,),
    "objective": get_args(Objective),
    "strategy": get_args(Strategy),
    "optimizer": get_args(AnyOptimizer),
    "schedule": get_args(Schedule),
    "train": (TrainSettings,),
    "checkpoint": (CheckpointSettings,),
    "sample": (SampleSettings,),
    "backend": (BackendSettings,),
    "run": (RunSettings,),
}
NAMED = {name for name, kinds in SECTIONS.items() if len(kinds) > 1}


def read(path: Path) -> dict[str, Any]:
    """A recipe file as sections of keys, unchecked but for its form."""
    tree = load_yaml(path)
    wrong = [name for name, keys in tree.items() if not isinstance(keys, dict | None)]
    if wrong:
        raise BadSetting(f"{path}: {wrong[0]}", expected="a section of keys", found=shown(tree[wrong[0]]))
    return {name: keys or {} for name, keys in tree.items()}


def build(tree: Tree, overrides: Tree, where: str = "") -> Recipe:
    """The Recipe of a file's sections with `section.key` overrides on top. Raises BadSetting or Faults.

    >>> build({"strategy": {"last_n": 2}}, {"train.seed": 7}).strategy.last_n
    2
    """
    merged = {name: dict(keys) for name, keys in tree.items()}
    for key, value in overrides.items():
        name, _, inner = key.partition(".")
        merged.setdefault(name, {})[inner] = value
    for name in NAMED:
        merged.setdefault(name, {}).setdefault("name", _names(SECTIONS[name][0])[0])
    known = _known(merged)
    raise_all([_unknown(name, key, merged, where) for name, key in _keys(merged) if f"{name}.{key}" not in known])
    kinds = {name: _kind(name, merged, where) for name in SECTIONS}
    made, faults = {}, []
    for name, kind in kinds.items():
        try:
            made[name] = kind(**merged.get(name, {}))
        except ValidationError as error:
            faults += as_ours(error, name, where)
    raise_all(faults)
    try:
        return Recipe(**made)
    except ValidationError as error:
        raise_all(as_ours(error, "", where))
        raise


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """What --set gives: `section.key=value`, the value as YAML reads it.

    >>> parse_changes(["train.max_steps=10"])
    {'train.max_steps': 10}
    """
    parsed: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or "." not in key:
            raise BadSetting("--set", expected="section.key=value", found=change, remedy="Like train.max_steps=10.")
        parsed[key.strip()] = scalar(value)
    return parsed


def as_tree(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every setting with its value, as YAML and JSON can hold it."""
    tree = asdict(recipe)
    return {
        name: {key: list(v) if isinstance(v, tuple) else v for key, v in keys.items()} for name, keys in tree.items()
    }


def as_yaml(recipe: Recipe) -> str:
    """The resolved recipe file."""
    return yaml.safe_dump(shown_tree(recipe), sort_keys=False)


def shown_tree(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """As `as_tree` has it, for others to read: a URL is in it without the signature that it may carry."""
    return as_tree(replace(recipe, data=recipe.data.elsewhere(urls.shown)))


def flat(recipe: Recipe) -> dict[str, Any]:
    """`section.key` to value, for showing and for comparing."""
    return {f"{name}.{key}": value for name, keys in as_tree(recipe).items() for key, value in keys.items()}


def every_key() -> dict[str, set[str]]:
    """`section.key` to the names of the section's kinds that have it ("" where there is one kind).

    >>> sorted(every_key()["schedule.min_learning_rate"])
    ['cosine', 'linear']
    """
    table: dict[str, set[str]] = {}
    for name, kinds in SECTIONS.items():
        for kind in kinds:
            owners = _names(kind) if name in NAMED else ("",)
            for field in fields(kind):
                table.setdefault(f"{name}.{field.name}", set()).update(owners)
    return table


def _keys(tree: Tree) -> list[tuple[str, str]]:
    """Sections and their keys; apart, as a name in a file may have a point."""
    return [(name, key) for name, keys in tree.items() for key in keys]


def _names(kind: type) -> tuple[str, ...]:
    """What a section's `name` may be for this kind of it. Only asked of NAMED ones, whose name is a Literal."""
    return get_args(get_type_hints(kind)["name"])


def _kind(name: str, tree: Tree, where: str) -> type:
    """The class of a section, by its `name` where there are several."""
    if name not in NAMED:
        return SECTIONS[name][0]
    by_name = _by_name(name)
    chosen = _chosen(name, tree)
    if chosen not in by_name:
        raise BadSetting(at(where, f"{name}.name"), expected=" or ".join(by_name), found=repr(tree[name]["name"]))
    return by_name[chosen]


def _by_name(name: str) -> dict[str, type]:
    """The kinds of a NAMED section by the names that choose them."""
    return {each: kind for kind in SECTIONS[name] for each in _names(kind)}


def _chosen(name: str, tree: Tree) -> str:
    """The name that a section gives for its kind; a value of another type is no name."""
    chosen = tree[name]["name"]
    return chosen if isinstance(chosen, str) else ""


def _known(tree: Tree) -> set[str]:
    """The keys that this tree's choices of kinds have; all of a section where its choice is wrong."""
    known = set()
    for key, owners in every_key().items():
        name = key.partition(".")[0]
        chosen = _chosen(name, tree) if name in NAMED else ""
        if chosen in owners or chosen not in _by_name(name):
            known.add(key)
    return known


def _unknown(name: str, inner: str, tree: Tree, where: str) -> MlxtuneError:
    key = f"{name}.{inner}"
    owners = every_key().get(key)
    if not owners:
        return BadSetting(
            where, expected="a known setting", found=f"{key} = {tree[name][inner]!r}", remedy=_nearest(key)
        )
    return BadSetting(
        at(where, key),
        expected=f"no such setting with {name} {tree[name]['name']}",
        found=repr(tree[name][inner]),
        remedy=f"{key} is a setting of {' and '.join(sorted(owners))}.",
    )


def _nearest(key: str) -> str:
    known = list(every_key())
    same_name = [other for other in known if other.partition(".")[2] == key.rpartition(".")[2]]
    near = same_name or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"The nearest is {near[0]}."
