"""A model of two layers, as small as an Anatomy can be, for the examples in this package's docstrings."""

from mlxtune.strategies.selection import Anatomy, Parameter

TWO_LAYERS = Anatomy(
    parameters={
        "embedding.weight": Parameter((32, 4), 512),
        "layers.0.q.weight": Parameter((4, 4), 64),
        "layers.1.q.weight": Parameter((4, 4), 64),
        "norm.weight": Parameter((4,), 16),
        "head.weight": Parameter((32, 4), 512),
    },
    linears={"layers.0.q": (4, 4), "layers.1.q": (4, 4), "head": (4, 32)},
    layers=("layers.0.", "layers.1."),
    head="head.weight",
    embedding="embedding.weight",
    final_norm=("norm.weight",),
)
