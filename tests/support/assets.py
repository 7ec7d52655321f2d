"""Where the real models, tokenizers and data for tests lie, on the machines that have them."""

import os
from pathlib import Path

import pytest

from tests.support.checkout import ROOT


def assets_folder() -> Path:
    """MLXTUNE_ASSETS, or ../shared/assets beside the checkout. The test that asks is skipped where neither is there."""
    beside = ROOT.parent / "shared" / "assets"
    folder = Path(os.environ.get("MLXTUNE_ASSETS", beside))
    if not folder.is_dir():
        pytest.skip(f"no test assets in {folder}; MLXTUNE_ASSETS names their folder")
    return folder
