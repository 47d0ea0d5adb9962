"""Suppression within classes and across them against torchvision's, on random boxes."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from mapjax.tasks.detection import suppression  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("agnostic", [False, True])
def test_equals_torchvision(agnostic):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 60, (400, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 30, (400, 2))], -1).astype(np.float32)
    scores, classes = rng.random(400).astype(np.float32), rng.integers(0, 3, 400).astype(np.int32)
    given = torch.from_numpy(boxes), torch.from_numpy(scores)
    theirs = (
        torchvision.ops.nms(*given, 0.4)
        if agnostic
        else torchvision.ops.batched_nms(*given, torch.from_numpy(classes), 0.4)
    )
    suppress = suppression.chosen(0.4, agnostic=agnostic, score_threshold=0.0)
    index, left, real = suppress(*map(jnp.asarray, (boxes, scores, classes, np.ones(400, bool))), 400)
    assert index[real].tolist() == theirs.tolist()
    np.testing.assert_array_equal(left[real], scores[theirs])
