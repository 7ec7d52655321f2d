"""A model whose weights exceed what the process may have, but whose last layers fit, trains."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys
from pathlib import Path
from mlxtune.backends import blas
blas.load_openblas()
import mlx.core as mx
import numpy as np
from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Passes
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.data.batches import collate
from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.last_n import LastN

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(0)
rows = [TokenRow(random.integers(0, 4000, n).astype(np.int32), np.arange(n) > n // 2, "") for n in (40, 31, 25, 38)]
blueprint = MlxBlueprint(Job(folder, "fp32", LastN(last_n=1, head=False), AdamW(), None, 0, sys.argv[3]))
work = Work(listed(rows), collate(rows, (0, 3)), None, 78, Passes(40, len(rows)), "random")
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + limit, held + limit))  # more than this is refused by the system
with blueprint.limited(limit // 2, 64 << 20):  # as a run holds it
    learner = blueprint.learner(work)
    losses = [learner.step([collate(rows, (0, 3))], 1e-3).loss.loss_sum for _ in range(4)]
print(json.dumps({"peak": mx.get_peak_memory(), "losses": losses, "kept": learner.network.prefix.file is not None}))
"""
SHARE = 0.6  # of the weights' bytes that the process may take: the system counts what libraries hold besides MLX, too
CONFIG = {
    "model_type": "llama",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 4000,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 million random weights in float32."""
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    llama = pytest.importorskip("mlx_lm.models.llama")
    from mlx.utils import tree_flatten

    place = tmp_path_factory.mktemp("large")
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    mx.save_safetensors(str(place / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (place / "config.json").write_text(json.dumps(CONFIG))
    return place


def train(folder, limit, keep):
    return subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(limit), keep], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to such a limit")
def test_three_hundred_million_weights_train_within_a_third_of_their_bytes(folder):
    n_bytes = (folder / "model.safetensors").stat().st_size
    assert n_bytes > 4 * 290e6
    found = train(folder, int(SHARE * n_bytes), "auto")
    assert found.returncode == 0, found.stderr[-2000:]
    run = json.loads(found.stdout.splitlines()[-1])
    assert run["kept"]
    assert run["peak"] < n_bytes / 3
    assert run["losses"][-1] < run["losses"][0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to such a limit")
def test_the_limit_is_one_that_the_whole_model_would_not_keep(folder):
    n_bytes = (folder / "model.safetensors").stat().st_size
    assert train(folder, int(SHARE * n_bytes), "off").returncode != 0
