"""The names that mlx.core and numpy share, so that one function serves both backends.

Only functions that both have, with equal meaning, are used in this package: zeros, sqrt, sum, floor, abs, where,
minimum, isfinite, array and the `view` and `astype` methods.
"""

from typing import Any, TypeAlias

Array: TypeAlias = Any  # mlx.core.array or numpy.ndarray
Namespace: TypeAlias = Any  # the module mlx.core or numpy
