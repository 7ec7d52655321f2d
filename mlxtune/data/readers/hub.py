"""Data sets of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.data.faults import Place
from mlxtune.data.readers.raw import Raw, Rows, missing, plain
from mlxtune.errors import BadData
from mlxtune.format import shown


def splits(name: str) -> Mapping[str, Rows]:
    """Each split by the `datasets` package, which since version 4 cannot run a data set's own code."""
    try:
        import datasets
    except ImportError:
        raise missing("datasets", f"to look for {name} on the hub, as no such file or folder is here") from None
    try:
        _ask(name)
        loaded: Any = datasets.load_dataset(name)
    except Exception as error:  # the packages raise whatever their many loaders raise
        words = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        found = f"nothing of that name here, and the hub says: {shown(words, 300)[1:-1]}"
        remedy = "Without a network, HF_HUB_OFFLINE=1 takes what is in the local cache."
        raise BadData(name, expected="a file, a folder or a hub data set", found=found, remedy=remedy) from None
    return {key: _rows(f"{name}/{key}", loaded[key]) for key in loaded}


def _ask(name: str) -> None:
    """Ask once whether the data set is there: `datasets` would try for half a minute before it says so."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not HF_HUB_OFFLINE:
        HfApi().dataset_info(name, timeout=10)


def _rows(place: str, rows: Any) -> Rows:
    try:
        for number, row in enumerate(rows, start=1):
            yield Raw(Place(Path(place), number), {key: plain(value) for key, value in row.items()})
    except Exception as error:  # pictures and sound are decoded, by packages that may be absent
        found = shown(str(error).strip() or type(error).__name__, 300)
        raise BadData(place, expected="rows that can be read", found=found) from None
