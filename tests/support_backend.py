"""The backend that whole runs are tested on: MLX where it is installed. `auto` would take NumPy on a processor."""

from mlxtune.backends.choose import has_mlx

BACKEND = "mlx" if has_mlx() else "numpy"
