"""Equal to the plain loop of the paper (Solovyev et al. 2021), in doubles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_nms import iou_of

from mapjax.ops import box_fusion


def plain(boxes, scores, classes, valid, answers, threshold):
    """(score, class, box) of each cluster, best first."""
    clusters = []  # of each its rows
    for row in sorted((i for i in range(len(boxes)) if valid[i]), key=lambda i: -scores[i]):
        fused = [np.average(boxes[rows], axis=0, weights=scores[rows]) for rows in clusters]
        overlaps = [
            iou_of(boxes[row], box) if classes[rows[0]] == classes[row] else -1 for rows, box in zip(clusters, fused)
        ]
        if overlaps and max(overlaps) > threshold:
            clusters[int(np.argmax(overlaps))].append(row)
        else:
            clusters.append([row])
    found = [
        (
            scores[rows].mean() * min(len(rows), answers) / answers,
            classes[rows[0]],
            np.average(boxes[rows], axis=0, weights=scores[rows]),
        )
        for rows in clusters
    ]
    return sorted(found, key=lambda one: -one[0])


def drawn(seed, objects=8, answers=3, rows=16):
    """Lists of several answers that see the same objects a little differently, miss some, and see others twice."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50, (objects, 2))
    truth = np.concatenate([low, low + rng.uniform(8, 25, (objects, 2))], -1)
    who = rng.integers(0, objects, (answers, rows))
    boxes = (truth[who] + rng.normal(0, 1.5, (answers, rows, 4))).reshape(-1, 4).astype(np.float32)
    scores = rng.uniform(0.05, 1, answers * rows).astype(np.float32)
    return boxes, scores, (who.reshape(-1) % 2).astype(np.int32), rng.random(answers * rows) < 0.7


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_plain_loop(seed):
    boxes, scores, classes, valid = drawn(seed)
    fuse = jax.jit(lambda b, s, c, v: box_fusion.fuse(b, s, c, valid=v, answers=3, threshold=0.5, count=48))
    found = jax.tree.map(np.asarray, fuse(boxes, scores, classes, valid))
    expected = plain(boxes.astype(float), scores.astype(float), classes, valid, 3, 0.5)
    assert 5 < len(expected) < valid.sum()  # some are alone, some are joined
    assert found[3].tolist() == [True] * len(expected) + [False] * (48 - len(expected))
    for row, (score, label, box) in enumerate(expected):
        np.testing.assert_allclose(found[1][row], score, rtol=1e-5)
        np.testing.assert_allclose(found[0][row], box, rtol=1e-5)
        assert found[2][row] == label
    assert not found[0][len(expected) :].any() and not found[1][len(expected) :].any()


def test_a_box_that_few_answers_have_counts_less_and_more_boxes_than_answers_no_more():
    boxes, label = jnp.tile(jnp.array([[2.0, 2, 8, 8]]), (4, 1)), jnp.zeros(4, jnp.int32)
    for rows, share in ((1, 1 / 2), (2, 1), (4, 1)):
        found = box_fusion.fuse(boxes, jnp.full(4, 0.5), label, valid=jnp.arange(4) < rows, answers=2, count=2)
        np.testing.assert_allclose(found[1], [0.5 * share, 0], rtol=1e-6)
        np.testing.assert_allclose(found[0][0], boxes[0], rtol=1e-6)


def test_the_best_so_many_of_each_image_of_a_batch():
    both = [drawn(seed) for seed in (2, 3)]

    def one(boxes, scores, classes, valid):
        return box_fusion.fuse(boxes, scores, classes, valid=valid, answers=3, count=5)

    found = jax.vmap(one)(*map(np.stack, zip(*both)))
    for row, (boxes, scores, classes, valid) in enumerate(both):
        expected = plain(boxes.astype(float), scores.astype(float), classes, valid, 3, 0.55)[:5]
        np.testing.assert_allclose(found[1][row], [score for score, _, _ in expected], rtol=1e-5)


def test_nothing_there():
    found = box_fusion.fuse(
        jnp.ones((3, 4)), jnp.ones(3), jnp.ones(3, jnp.int32), valid=jnp.zeros(3, bool), answers=1, count=2
    )
    assert not any(np.asarray(one).any() for one in found)
