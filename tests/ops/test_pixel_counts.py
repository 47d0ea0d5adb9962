"""Label maps on the device: sampling back, confusion and contours, against OpenCV, scikit-learn and brute force."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import confusion_matrix

from mapjax.data import geometry
from mapjax.ops import label_maps
from mapjax.report import segmentations
from mapjax.stages import VOID


def blobs(seed, size, classes, void=True):
    """A label map of large patches, with some VOID."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (-(-size[0] // 7), -(-size[1] // 6))).astype(np.uint8)
    labels = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    if void:
        labels[rng.random(size) < 0.05] = VOID
    return labels


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([(1, 5, 7), (3, 16, 9)]), st.sampled_from([2, 11]))
def test_confusion_is_scikit_learns(seed, shape, classes):
    rng = np.random.default_rng(seed)
    truth, predicted = (rng.integers(0, classes, shape).astype(np.uint8) for _ in range(2))
    truth[rng.random(shape) < 0.1] = VOID
    forms = (label_maps._pairs_by_scatter, label_maps._pairs_by_products)  # of CPUs, and of other devices
    for form in (*forms, label_maps._pairs):
        found = np.asarray(jax.jit(form, static_argnums=(2, 3))(truth, predicted, classes, classes))
        for row in range(len(truth)):
            keep = truth[row] != VOID
            wanted = confusion_matrix(truth[row][keep], predicted[row][keep], labels=np.arange(classes))
            np.testing.assert_array_equal(found[row], wanted)


def test_confusion_stays_exact_where_one_cell_passes_what_float32_counts():
    """4097 × 4096 pixels of one class: 2^24 + 4096."""
    truth = jnp.zeros((1, 4097, 4096), jnp.uint8)
    for form in (label_maps._pairs_by_scatter, label_maps._pairs_by_products):
        found = jax.jit(form, static_argnums=(2, 3))(truth, truth, 2, 2)
        assert int(found[0, 0, 0]) == 4097 * 4096


def contour(labels, known, k):
    """The pixels of class k with a neighbour of another class; the border and pixels that are not known make none."""
    edge = np.zeros(labels.shape, bool)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for j, i in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= j < height and 0 <= i < width and known[y, x] and known[j, i] and labels[j, i] != labels[y, x]:
                    edge[y, x] = True
    return edge & (labels == k)


@pytest.mark.parametrize(("classes", "radius"), [(3, 1.0), (5, 2.5), (40, 3.7)])
def test_contours_by_distance_transform(classes, radius):
    truth, predicted = blobs(1, (23, 31), classes), blobs(2, (23, 31), classes, void=False)
    truth[5:8, 5:20] = VOID
    found = np.asarray(
        jax.jit(label_maps.contours, static_argnums=(2, 3))(truth[None], predicted[None], classes, radius)
    )
    known = truth != VOID
    for k in range(classes):
        drawn, meant = contour(predicted, known, k), contour(truth, known, k)
        near = [ndimage.distance_transform_edt(~x) <= radius if x.any() else np.zeros_like(x) for x in (meant, drawn)]
        wanted = [drawn.sum(), (drawn & near[0]).sum(), meant.sum(), (meant & near[1]).sum()]
        np.testing.assert_array_equal(found[0, k], wanted)


@pytest.mark.parametrize("place", [(40, 48), (20, 24), (10, 12)])
@pytest.mark.parametrize("original", [(40, 48), (61, 70), (33, 90)])
def test_maps_go_back_to_original_pixels_as_opencv_samples_them(original, place):
    """At any stride of the network's map; a letterboxed image, and a frame to hold a larger one."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, *place, 3)).astype(np.float32)
    matrix = geometry.letterbox(original, (40, 48))
    canvas = (original[0] + 3, original[1] + 5)
    back = jax.jit(label_maps.map_back, static_argnums=(2, 3))
    found = np.asarray(back(maps, matrix.astype(np.float32)[None], (40, 48), canvas))[0, : original[0], : original[1]]
    onto = geometry.scale(place[1] / 48, place[0] / 40) @ matrix
    centred = (geometry.translate(-0.5, -0.5) @ onto @ geometry.translate(0.5, 0.5))[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    wanted = cv2.warpAffine(maps[0], centred, original[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(found, wanted, atol=0.12)  # OpenCV rounds places to 1/32 pixel
    assert np.abs(found - wanted).mean() < 0.02


@pytest.mark.parametrize("shape", [(1, 1, 5, 2), (2, 6, 7, 3)])
def test_both_forms_of_sampling_agree(shape):
    rng = np.random.default_rng(3)
    maps = jnp.asarray(rng.normal(size=shape), jnp.float32)
    rows, columns = (jnp.asarray(rng.uniform(0, n - 1, (shape[0], 9)), jnp.float32) for n in shape[1:3])
    ends = jnp.array([[0.0, n - 1.0] for n in shape[1:3]], jnp.float32)
    rows, columns = (jnp.concatenate([at, jnp.tile(end, (shape[0], 1))], 1) for at, end in zip((rows, columns), ends))
    found = label_maps._by_gather(maps, rows, columns)
    np.testing.assert_allclose(found, label_maps._by_products(maps, rows, columns), atol=1e-6)
    np.testing.assert_allclose(found[:, -1, -1], maps[:, -1, -1], atol=1e-6)


def test_prediction_of_images_samples_like_evaluation():
    rng = np.random.default_rng(0)
    maps = ndimage.zoom(rng.normal(size=(6, 7, 4)), (6, 6, 1), order=1).astype(np.float32)
    original = (50, 77)
    matrix = geometry.letterbox(original, maps.shape[:2]).astype(np.float32)
    device = label_maps.map_back(jnp.asarray(maps)[None], jnp.asarray(matrix)[None], maps.shape[:2], original)
    host = segmentations.map_back(maps, matrix, original)
    assert (np.asarray(device)[0].argmax(-1) == host).mean() > 0.99
