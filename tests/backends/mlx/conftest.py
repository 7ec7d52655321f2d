"""What the tests of the MLX backend share."""

import pytest


@pytest.fixture
def on_cpu():
    """The CPU frees an array when its last reader is done; a GPU when its queue says so."""
    import mlx.core as mx

    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)
