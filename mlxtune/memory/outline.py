"""The Anatomy of a model that is known by its shapes alone: no array library, no weights."""

import re
from collections.abc import Mapping
from math import prod

from mlxtune.errors import BadModel
from mlxtune.models.config import ModelConfig
from mlxtune.models.dimensions import Dimensions
from mlxtune.models.outline import Outline
from mlxtune.models.shapes import Shape
from mlxtune.strategies.selection import Anatomy, Parameter

LAYER = re.compile(r"^(?:.*\.)?(?:layers|h|blocks|layer)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|tok_embeddings|embeddings?|word_embeddings)\.weight$")
HEAD = re.compile(r"(?:^|\.)(?:lm_head|output|embed_out)\.weight$")


def anatomy(outline: Outline, element_bytes: int) -> Anatomy:
    """Names and shapes as the trainer will have them. Raises BadModel where no layers or embedding are found."""
    shapes = outline.shapes
    layers = _layers(shapes)
    outside = [name for name in shapes if not name.startswith(layers)]
    embedding = next((name for name in outside if EMBEDDING.search(name)), None)
    if not layers or embedding is None:
        raise BadModel(
            outline.source,
            expected="names of layers and of a token embedding",
            found=", ".join([*shapes][:3]),
            remedy="This architecture cannot be planned from names alone: `mlxtune train --dry-run` plans it with MLX.",
        )
    head = next((name for name in outside if HEAD.search(name)), None)
    return Anatomy(
        parameters={name: Parameter(shape, element_bytes * prod(shape)) for name, shape in shapes.items()},
        linears=_linears(shapes, layers),
        layers=layers,
        head=head,
        embedding=embedding,
        final_norm=tuple(name for name in outside if len(shapes[name]) == 1),
    )


def dimensions(config: ModelConfig) -> Dimensions:
    """Those of the family, or the nearest that the config's sizes say."""
    return Dimensions.of(config) or Dimensions(
        n_layers=config.n_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or 4 * config.hidden_size,
        vocab_size=config.vocab_size,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        tied=config.tied,
        qkv_bias=False,
        output_bias=False,
        qk_norm=False,
        sandwich_norms=False,
    )


def _layers(shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """The prefixes of the layers, in order of their numbers."""
    found = {match.group(0): int(match.group(1)) for name in shapes if (match := LAYER.match(name))}
    return tuple(sorted(found, key=lambda prefix: found[prefix]))


def _linears(shapes: Mapping[str, Shape], layers: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    return {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and (name.startswith(layers) or HEAD.search(name))
    }
