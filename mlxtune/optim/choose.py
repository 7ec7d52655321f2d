"""The table of optimizers: one settings class each, which is the optimizer. Its `name` chooses in a recipe."""

from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.sgd import Sgd

AnyOptimizer = AdamW | Adam | Sgd
