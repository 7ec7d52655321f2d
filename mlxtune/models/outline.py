"""Every parameter of a model, name and shape, without its weights: from headers, or from config.json alone.

Of a model on the hub that is not in the cache, only config and tokenizer are fetched, and, for a family whose shapes do
not follow from config.json, the headers of its weight files by range requests.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models import hub, published, weights
from mlxtune.models.config import ModelConfig
from mlxtune.models.dimensions import FAMILIES, Dimensions
from mlxtune.models.shapes import Shape, as_loaded, shapes

FROM_CONFIG, FROM_HEADERS, FROM_HUB = "config.json", "safetensors headers", "safetensors headers on the hub"
FROM_PACKAGE = "known to mlxtune"
NUMBERED = re.compile(r"(.*?)\b(\d+)\.")  # "model.layers." and 12 of "model.layers.12.mlp.experts.3.w1.weight"


class Outline(NamedTuple):
    """A model without its weights."""

    config: ModelConfig
    dimensions: Dimensions | None  # None for a family whose shapes do not follow from config.json
    shapes: Mapping[str, Shape]  # every parameter by its name in a file, layers in order of their numbers
    source: str  # of the shapes, in words
    place: str = ""  # its folder or repository


def outline(name: str | None, revision: str | None = None) -> Outline:
    """The outline of a model; names are those of `hub.resolve`. BadModel says why there is none."""
    place = hub.locate(name, revision)
    folder = place if isinstance(place, Path) else hub.in_cache(place, revision)
    if folder is not None:
        return _of_folder(folder)._replace(place=str(folder))
    known = published.config(str(place)) if revision is None else None
    found = _of_repository(str(place), revision) if known is None else _of_known(known)
    return found._replace(place=str(place))


def _of_known(config: ModelConfig) -> Outline:
    dimensions = Dimensions.of(config)
    assert dimensions is not None, "published models are of known families"
    return Outline(config, dimensions, shapes(dimensions), FROM_PACKAGE)


def _of_folder(folder: Path) -> Outline:
    """Headers win over config.json: they are what will be loaded."""
    config = model_config.read(folder)
    dimensions = Dimensions.of(config)
    if any(folder.glob(weights.PATTERN)):
        stored = {name: info.shape for name, info in weights.headers(folder).items()}
        return _of_headers(config, dimensions, stored, FROM_HEADERS)
    if dimensions is None:
        raise _neither(folder, config)
    return Outline(config, dimensions, shapes(dimensions), FROM_CONFIG)


def _of_repository(repo: str, revision: str | None) -> Outline:
    folder = hub.fetch_small(repo, revision)
    config = model_config.read(folder)
    dimensions = Dimensions.of(config)
    if dimensions is not None:
        return Outline(config, dimensions, shapes(dimensions), FROM_CONFIG)
    commit = folder.name  # as the cache is laid out; a branch may have moved since
    return _of_headers(config, None, hub.stored_shapes(repo, commit), FROM_HUB)


def _of_headers(
    config: ModelConfig, dimensions: Dimensions | None, stored: Mapping[str, Shape], source: str
) -> Outline:
    return Outline(config, dimensions, _in_order(as_loaded(stored, config.tied)), source)


def _in_order(stored: Mapping[str, Shape]) -> dict[str, Shape]:
    """As stored, but layer 2 before layer 10, and a stack of layers in one piece.

    >>> [*_in_order({"h.10.w": (1,), "norm": (1,), "h.2.w": (1,)})]
    ['h.2.w', 'h.10.w', 'norm']
    """
    keys = {name: _stem_and_number(name) for name in stored}
    places = {stem: place for place, stem in enumerate(dict.fromkeys(stem for stem, _ in keys.values()))}
    ordered = sorted(stored, key=lambda name: (places[keys[name][0]], keys[name][1]))
    return {name: stored[name] for name in ordered}


def _stem_and_number(name: str) -> tuple[str, int]:
    numbered = NUMBERED.match(name)
    return (numbered[1], int(numbered[2])) if numbered else (name, 0)


def _neither(folder: Path, config: ModelConfig) -> BadModel:
    """No weight file, and a family whose shapes do not follow from config.json."""
    fault = weights.no_weights(folder)
    return BadModel(
        str(folder),
        expected=f"{fault.expected}, or a config.json of the families {', '.join(FAMILIES)}",
        found=f"model_type {config.model_type} in {fault.found}",
        remedy=fault.remedy,
    )
