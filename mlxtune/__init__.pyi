from mlxtune.front import evaluate as evaluate
from mlxtune.front import generate as generate
from mlxtune.front import load_run as load_run
from mlxtune.front import train as train
from mlxtune.recipe.recipe import Recipe as Recipe

__version__: str
