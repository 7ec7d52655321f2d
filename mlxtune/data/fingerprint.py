"""One number for everything that the data contributes to a run."""

import hashlib

import numpy as np

from mlxtune.data.types import Dataset


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 in hex over the tokens, masks and split, in order. File names and notes take no part."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.valid):
        digest.update(len(split).to_bytes(8, "little"))
        for row in split:
            digest.update(len(row.tokens).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(row.tokens, "<i4").tobytes())
            digest.update(np.packbits(row.supervised).tobytes())
    return digest.hexdigest()
