"""The table of strategies: one settings class and one `select` each."""

from mlxtune.strategies import full, last_n, lora
from mlxtune.strategies.depth import check_depth
from mlxtune.strategies.selection import Anatomy, Selection

Strategy = last_n.LastN | lora.Lora | full.Full


def select(settings: Strategy, anatomy: Anatomy) -> Selection:
    """What trains. Raises BadSetting where the settings ask for something that the model does not have."""
    match settings:
        case last_n.LastN():
            return last_n.select(settings, anatomy)
        case lora.Lora():
            return lora.select(settings, anatomy)
        case full.Full():
            return full.select(settings, anatomy)


def check_layers(settings: Strategy, n_layers: int) -> None:
    """Refuse more layers than the model's config has, before anything is loaded."""
    if not isinstance(settings, full.Full):
        check_depth(settings.last_n, n_layers)
