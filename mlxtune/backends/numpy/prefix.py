"""The output of the frozen layers before the first that trains, computed once for each row and kept over the epochs.

It cannot change while those layers are frozen, and it depends on the row's tokens alone: so it is kept by them, and
training and validation rows are never mixed up. It is computed row by row, not batch by batch: a row is then the same
to the last bit whatever batch it comes in, and a resumed run finds the numbers of the run it resumes.

B rows, T tokens, D hidden size
"""

from mlxtune.backends.numpy.arrays import Array
from mlxtune.backends.numpy.model import Model, Tokens
from mlxtune.data.types import Batch


class Prefix:
    """Hidden states before layer `first`. limit_bytes: beyond it, a row's are computed each time."""

    def __init__(self, model: Model, first: int, limit_bytes: int) -> None:
        self.model, self.first, self.limit_bytes = model, first, limit_bytes
        self.kept: dict[bytes, Array] = {}
        self.bytes = 0

    def hidden(self, batch: Batch) -> Array:
        """Of all tokens of a batch but each row's last, (B * (T - 1), D); zero on padding."""
        if self.first == 0:
            return self.model.embed(batch.tokens_BT[:, :-1])
        n_rows, n_tokens = batch.tokens_BT.shape
        out_BTD = self.model.ws("prefix", n_rows, n_tokens - 1, self.model.decoder.hidden_size)
        for row, length in enumerate(batch.lengths_B.tolist()):
            out_BTD[row, : length - 1] = self._of_row(batch.tokens_BT[row : row + 1, :length])
            out_BTD[row, length - 1 :] = 0.0
        return out_BTD.reshape(-1, out_BTD.shape[-1])

    def _of_row(self, tokens_1T: Tokens) -> Array:
        key = tokens_1T.tobytes()
        found = self.kept.get(key)
        if found is not None:
            return found
        p = self.model.passing(tokens_1T.shape, 0, None)
        hidden = self.model.run(self.model.embed(tokens_1T[:, :-1]), p, 0, self.first)
        if self.bytes + hidden.nbytes <= self.limit_bytes:
            self.kept[key] = hidden.copy()
            self.bytes += hidden.nbytes
        return hidden
