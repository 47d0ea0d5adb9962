"""Against counted pixels, plain loops and inverses."""

import jax.numpy as jnp
import numpy as np

from mapjax.ops import boxes as box_ops


def whole_boxes(rng, n, extent=12):
    low = rng.integers(0, extent, (n, 2))
    return np.concatenate([low, low + rng.integers(0, 6, (n, 2))], -1)


def float_boxes(rng, n, extent=100.0):
    low = rng.uniform(0, extent, (n, 2))
    return np.concatenate([low, low + rng.uniform(1, 40, (n, 2))], -1).astype(np.float32)


def array(values):
    return jnp.asarray(values, jnp.float32)


def pixels(box, extent=20):
    """The box as a mask: pixel (y, x) is the square from its index to the next."""
    mask = np.zeros((extent, extent), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def test_areas_and_overlaps_are_counts_of_pixels():
    rng = np.random.default_rng(0)
    a, b = whole_boxes(rng, 9), whole_boxes(rng, 14)
    a[0], b[0], b[1] = [3, 3, 3, 8], [3, 3, 3, 8], a[2]  # both empty; equal
    ours, theirs = np.stack([pixels(box) for box in a])[:, None], np.stack([pixels(box) for box in b])[None]
    shared, union, size = (ours & theirs).sum((2, 3)), (ours | theirs).sum((2, 3)), ours.sum((2, 3))
    np.testing.assert_array_equal(box_ops.area(array(a)), size[:, 0])
    np.testing.assert_array_equal(box_ops.pairwise_intersection(array(a), array(b)), shared)
    np.testing.assert_allclose(box_ops.pairwise_iou(array(a), array(b)), shared / np.maximum(union, 1), rtol=1e-6)
    np.testing.assert_allclose(box_ops.pairwise_coverage(array(a), array(b)), shared / np.maximum(size, 1), rtol=1e-6)
    assert box_ops.pairwise_iou(array(a), array(b))[2, 1] == (1 if size[2, 0] else 0)


def test_crossed_corners_share_nothing():
    crossed, both = array([[5, 1, 2, 4]]), array([[5, 4, 2, 1]])
    whole = array([[0, 0, 10, 10]])
    assert box_ops.area(crossed).tolist() == [-9] and box_ops.area(both).tolist() == [9]
    for box in (crossed, both):
        assert box_ops.pairwise_iou(box, whole).tolist() == [[0]] == box_ops.pairwise_coverage(box, whole).tolist()


def test_leading_axes():
    rng = np.random.default_rng(1)
    boxes = array(float_boxes(rng, 6))
    np.testing.assert_array_equal(box_ops.area(boxes.reshape(2, 3, 4)), box_ops.area(boxes).reshape(2, 3))
    assert box_ops.pairwise_iou(jnp.zeros((0, 4)), boxes).shape == (0, 6)


def test_clip():
    boxes = array([[[-5, 3, 50, 8], [1, -9, 4, 99], [2, 3, 4, 5]], [[-5, 3, 50, 8], [30, 30, 40, 40], [2, 3, 4, 5]]])
    extent = array([[0, 0, 20, 10], [3, 4, 25, 35]])
    expected = [[[0, 3, 20, 8], [1, 0, 4, 10], [2, 3, 4, 5]], [[3, 4, 25, 8], [25, 30, 25, 35], [3, 4, 4, 5]]]
    assert box_ops.clip(boxes, extent).tolist() == expected
    assert box_ops.clip(boxes[0], jnp.array([0, 0, 20, 10])).tolist() == expected[0]  # whole numbers do too


def test_centres_and_corners():
    corners, centres = array([[10, 20, 40, 100]]), array([[25, 60, 30, 80]])
    assert box_ops.xyxy_to_cxcywh(corners).tolist() == centres.tolist()
    assert box_ops.cxcywh_to_xyxy(centres).tolist() == corners.tolist()
    boxes = float_boxes(np.random.default_rng(2), 20)
    there_and_back = box_ops.cxcywh_to_xyxy(box_ops.xyxy_to_cxcywh(array(boxes)))
    np.testing.assert_allclose(there_and_back, boxes, rtol=1e-5)


def test_offsets_by_hand():
    anchor, box = array([0, 0, 10, 20]), array([5, 10, 25, 30])  # centres (5, 10) and (15, 20)
    expected = [1, 0.5, np.log(2), 0]
    np.testing.assert_allclose(box_ops.encode(box, anchor), expected, rtol=1e-6, atol=1e-7)
    weighted = box_ops.encode(box, anchor, (10, 10, 5, 5))
    np.testing.assert_allclose(weighted, np.multiply(expected, [10, 10, 5, 5]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(box_ops.decode(array([1, 0.5, np.log(2), 0]), anchor), box, rtol=1e-6)
    assert box_ops.decode(jnp.zeros(4), anchor).tolist() == anchor.tolist()


def test_decode_inverts_encode():
    rng = np.random.default_rng(3)
    boxes, anchors = float_boxes(rng, 30).reshape(5, 6, 4), float_boxes(rng, 30).reshape(5, 6, 4)
    for weights in [(1, 1, 1, 1), (10, 10, 5, 5), (2.0, 3.0, 0.5, 1.5)]:
        offsets = box_ops.encode(array(boxes), array(anchors), weights)
        np.testing.assert_allclose(box_ops.decode(offsets, array(anchors), weights), boxes, atol=2e-3)


def test_a_decoded_size_has_a_limit():
    anchor = array([10, 10, 20, 14])
    x1, y1, x2, y2 = box_ops.decode(array([0, 0, 50, 1e9]), anchor).tolist()
    np.testing.assert_allclose([x2 - x1, y2 - y1], [62.5 * 10, 62.5 * 4], rtol=1e-5)
    np.testing.assert_allclose([x1 + x2, y1 + y2], [30, 24], atol=1e-3)
    box = box_ops.decode(array([0, 0, 50, 1e9]), anchor, (1, 1, 100, 1e9))  # the limit follows the weights
    np.testing.assert_allclose(
        box, [15 - 5 * np.exp(0.5), 12 - 2 * np.e, 15 + 5 * np.exp(0.5), 12 + 2 * np.e], rtol=1e-5
    )


def test_padded_rows_encode_to_finite_offsets():
    rows = array([[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 2, 2], [0, 0, 10, 10]])
    for anchors in (rows, rows[::-1]):
        assert np.all(np.isfinite(box_ops.encode(rows, anchors)))


def random_matrices(rng, n):
    """Affine: turned, scaled by 1 to 3, sheared a little, moved."""
    matrix = np.tile(np.eye(3), (n, 1, 1))
    angle = rng.uniform(0, 2 * np.pi, n)
    turn = np.moveaxis(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0)
    matrix[:, :2, :2] = turn * rng.uniform(1, 3, (n, 1, 1)) + rng.uniform(-0.1, 0.1, (n, 2, 2))
    matrix[:, :2, 2] = rng.uniform(-50, 50, (n, 2))
    return matrix.astype(np.float32)


def test_transform_encloses_the_mapped_corners():
    rng = np.random.default_rng(4)
    boxes, matrices = float_boxes(rng, 12).reshape(3, 4, 4), random_matrices(rng, 3)
    found = np.asarray(box_ops.transform(array(boxes), array(matrices)))
    for i in range(3):
        for j, (x1, y1, x2, y2) in enumerate(boxes[i].astype(float)):
            corners = np.array([[x1, y1, 1], [x1, y2, 1], [x2, y1, 1], [x2, y2, 1]]) @ matrices[i].astype(float).T
            low, high = corners.min(0)[:2], corners.max(0)[:2]
            np.testing.assert_allclose(found[i, j], [*low, *high], atol=1e-3)


def test_transform_of_scale_and_shift():
    matrix = array([[2, 0, 5], [0, 0.5, -3], [0, 0, 1]])
    assert box_ops.transform(array([[1, 4, 3, 8]]), matrix).tolist() == [[7, -1, 11, 1]]
    flip = array([[-1, 0, 100], [0, 1, 0], [0, 0, 1]])
    assert box_ops.transform(array([[10, 20, 30, 40]]), flip).tolist() == [[70, 20, 90, 40]]


def test_invert_affine():
    matrices = random_matrices(np.random.default_rng(5), 8).reshape(2, 4, 3, 3)
    found = np.asarray(box_ops.invert_affine(array(matrices)))
    np.testing.assert_allclose(found, np.linalg.inv(matrices.astype(float)), atol=1e-3)
    np.testing.assert_array_equal(found[..., 2, :], np.broadcast_to([0, 0, 1], (2, 4, 3)))
