"""The table of objectives: one settings class each, which knows its formula."""

from mlxtune.objectives.dpo import Dpo
from mlxtune.objectives.sft import Sft

Objective = Sft | Dpo
SFT = Sft()
