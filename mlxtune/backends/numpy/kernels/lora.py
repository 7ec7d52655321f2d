"""LoRA and its kin beside a linear module: what each kind computes.

    y[:, columns] += s (drop(x) a) b

N tokens, I inputs, O outputs, r rank
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np

from mlxtune.adapters.adapter import Adapter
from mlxtune.adapters.kind import Settings
from mlxtune.backends.numpy.arrays import Array, Workspace
from mlxtune.backends.numpy.dropout import Dropout
from mlxtune.backends.numpy.kernels.linear import Beside


class Seat(NamedTuple):
    """Where an adapter sits."""

    columns: slice  # of y, those of its module
    weight_OI: Array  # of its module
    number: int  # its place among the model's adapters: the stream of its dropout


class Kind(Beside, Protocol):
    """What computes a kind of adapter."""

    @classmethod
    def of(cls, seat: Seat, arrays: Sequence[Array], gradients: Sequence[Array], settings: Settings) -> Self:
        """One adapter. arrays and gradients: in the order of the kind's names."""
        ...


class LowRank(NamedTuple):
    """LoRA."""

    seat: Seat
    a_Ir: Array
    b_rO: Array
    a_gradient: Array
    b_gradient: Array
    scale: float
    dropout: float  # rate

    @classmethod
    def of(cls, seat: Seat, arrays: Sequence[Array], gradients: Sequence[Array], settings: Settings) -> Self:
        (a, b), (a_gradient, b_gradient) = arrays, gradients
        return cls(seat, a, b, a_gradient, b_gradient, settings.scale, settings.dropout)

    def output(self, x_NI: Array, out_NO: Array, dropout: Dropout | None, ws: Workspace) -> None:
        low_Nr = self._low(x_NI, dropout, ws)
        part_NO = np.matmul(low_Nr, self.b_rO, out=_ordered_as(out_NO, "low_out", self.b_rO.shape[1], ws))
        part_NO *= self.scale
        out_NO[:, self.seat.columns] += part_NO

    def input_gradient(self, gradient_NO: Array, out_NI: Array, dropout: Dropout | None, ws: Workspace) -> None:
        low_Nr = self._low_gradient(gradient_NO, ws)
        part_NI = np.matmul(low_Nr, self.a_Ir.T, out=_ordered_as(out_NI, "low_in", out_NI.shape[1], ws))
        if dropout is not None and self.dropout:
            part_NI *= self._mask(out_NI, dropout, ws)
        out_NI += part_NI

    def own_gradients(self, gradient_NO: Array, x_NI: Array, dropout: Dropout | None, ws: Workspace) -> None:
        low_Nr = self._low(x_NI, dropout, ws)
        low_Nr *= self.scale
        np.matmul(low_Nr.T, gradient_NO[:, self.seat.columns], out=self.b_gradient)
        low_gradient_Nr = self._low_gradient(gradient_NO, ws)
        np.matmul(self._dropped(x_NI, dropout, ws).T, low_gradient_Nr, out=self.a_gradient)

    def _low(self, x_NI: Array, dropout: Dropout | None, ws: Workspace) -> Array:
        x_NI = self._dropped(x_NI, dropout, ws)
        return np.matmul(x_NI, self.a_Ir, out=ws("low", len(x_NI), self.a_Ir.shape[1]))

    def _low_gradient(self, gradient_NO: Array, ws: Workspace) -> Array:
        out_Nr = ws("d_low", len(gradient_NO), len(self.b_rO))
        low_Nr = np.matmul(gradient_NO[:, self.seat.columns], self.b_rO.T, out=out_Nr)
        low_Nr *= self.scale
        return low_Nr

    def _dropped(self, x_NI: Array, dropout: Dropout | None, ws: Workspace) -> Array:
        if dropout is None or not self.dropout:
            return x_NI
        mask_NI = self._mask(x_NI, dropout, ws)
        mask_NI *= x_NI
        return mask_NI

    def _mask(self, of_NI: Array, dropout: Dropout, ws: Workspace) -> Array:
        """Drawn in the array's order: an input and its gradient have the same."""
        mask_NI = _ordered_as(of_NI, "mask", of_NI.shape[1], ws)
        dropout.mask(self.seat.number, self.dropout, mask_NI if mask_NI.flags.c_contiguous else mask_NI.T)
        return mask_NI


def _ordered_as(other_NA: Array, name: str, width: int, ws: Workspace) -> Array:
    """Memory for (N, width), tokens or features first as in the other: to add arrays of two orders takes 30 times."""
    n_tokens = len(other_NA)
    return ws(name, n_tokens, width) if other_NA.flags.c_contiguous else ws(name, width, n_tokens).T


KINDS: Mapping[str, type[Kind]] = {"lora": LowRank}


def beside(adapter: Adapter, seat: Seat, arrays: Sequence[Array], gradients: Sequence[Array]) -> Beside:
    """What an adapter computes with these arrays and writes their gradients to, in the order of the kind's."""
    return KINDS[adapter.kind].of(seat, arrays, gradients, adapter.settings)
