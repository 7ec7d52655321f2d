"""LoRA and its kin: adapters beside frozen linear modules. What each kind adds is in `mlxtune.adapters`.

scale is what other tools write as alpha / rank; either may be given.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from mlxtune.adapters.adapter import KINDS, Name, make
from mlxtune.adapters.kind import Settings
from mlxtune.errors import BadSetting
from mlxtune.format import counted
from mlxtune.settings import section
from mlxtune.strategies.depth import Depth, last_layers, layers_in_words
from mlxtune.strategies.selection import Anatomy, Selection

DEFAULT_SCALE = 20.0


@section
class Lora:
    """name: the kind of adapter. target: module names ("q_proj", "self_attn.q_proj") or patterns ("mlp.*"); None is
    every linear module."""

    name: Name = "lora"
    rank: Annotated[int, Field(ge=1)] = 8
    scale: Annotated[float, Field(gt=1e-30, le=1e30)] | None = None
    alpha: Annotated[float, Field(gt=1e-30, le=1e30)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    last_n: Depth = "all"

    def __post_init__(self) -> None:
        if self.scale is not None and self.alpha is not None:
            raise BadSetting(
                "strategy.scale",
                expected="scale or alpha",
                found=f"scale {self.scale} and alpha {self.alpha}",
                remedy="scale is alpha / rank: give one of them.",
            )

    @property
    def effective_scale(self) -> float:
        """The factor of the addition."""
        if self.alpha is not None:
            return self.alpha / self.rank
        return DEFAULT_SCALE if self.scale is None else self.scale


def select(settings: Lora, anatomy: Anatomy) -> Selection:
    """An adapter on each targeted linear module of the last N layers.

    >>> from mlxtune.strategies.example import TWO_LAYERS
    >>> [adapter.module for adapter in select(Lora(rank=2, target=("q",)), TWO_LAYERS).adapters]
    ['layers.0.q', 'layers.1.q']
    """
    layers = last_layers(anatomy, settings.last_n)
    local = {name: _within(name, layers) for name in anatomy.linears}
    candidates = {name: inner for name, inner in local.items() if inner}
    chosen = [name for name, inner in candidates.items() if settings.target is None or _hit(settings.target, inner)]
    _refuse_idle_targets(settings.target, candidates.values())
    _refuse_wide(settings.rank, {name: anatomy.linears[name] for name in chosen})
    given = Settings(settings.rank, settings.effective_scale, settings.dropout)
    adapters = tuple(make(settings.name, name, anatomy.linears[name], given) for name in chosen)
    modules = ", ".join(sorted({candidates[name].rpartition(".")[2] for name in chosen}))
    where = f"on {layers_in_words(anatomy, len(layers))}: {modules}"
    words = f"{KINDS[settings.name].TITLE} rank {given.rank}, scale {given.scale:g}, {where}"
    return Selection(words, (), adapters, _first(anatomy, chosen), False, ())


def _refuse_wide(rank: int, shapes: Mapping[str, tuple[int, int]]) -> None:
    """A product of two matrices has no more rank than its smaller side: beyond that, parameters add nothing."""
    narrow = sorted((min(shape), name) for name, shape in shapes.items() if min(shape) < rank)
    if narrow:
        side, name = narrow[0]
        wide = len(narrow) < len(shapes)
        others = f", or leave {counted(len(narrow), 'narrower module')} out with --target" if wide else ""
        raise BadSetting(
            "strategy.rank",
            expected=f"at most {side:,}, the smaller side of {name} ({shapes[name][0]:,} to {shapes[name][1]:,})",
            found=f"{rank:,}",
            remedy=f"Give --rank {side} or less{others}.",
        )


def _within(name: str, layers: tuple[str, ...]) -> str:
    """The module's name inside its layer; empty where it is in none of them."""
    return next((name.removeprefix(layer) for layer in layers if name.startswith(layer)), "")


def _hit(targets: tuple[str, ...], inner: str) -> bool:
    return any(fnmatchcase(inner, target) or fnmatchcase(inner.rpartition(".")[2], target) for target in targets)


def _refuse_idle_targets(targets: tuple[str, ...] | None, inner_names: Iterable[str]) -> None:
    names = sorted(set(inner_names))
    idle = [target for target in targets or () if not any(_hit((target,), name) for name in names)]
    if idle or not names:
        raise BadSetting(
            "strategy.target",
            expected="names or patterns of linear modules in the model's layers",
            found=", ".join(idle) if idle else "no linear module in these layers",
            remedy=f"The layers have: {', '.join(names) or 'none'}.",
        )


def _first(anatomy: Anatomy, modules: list[str]) -> int:
    return min(i for i, layer in enumerate(anatomy.layers) if any(name.startswith(layer) for name in modules))
