"""One number for everything that the data contributes to a run."""

import hashlib

import numpy as np

from mlxtune.data.dataset import Dataset


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 in hex over what tells rows' tokens and masks, and the split, in order. Files and notes take no part."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.valid):
        digest.update(len(split).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(split.lengths_B, "<i4").data)
        digest.update(split.keys().tobytes())
    return digest.hexdigest()
