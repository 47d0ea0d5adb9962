"""The table of kinds of labels: each row against brute force, and nobody asks for kinds but by the table."""

import pathlib
import re

import numpy as np
import pytest
from box_grids import in_frame
from hypothesis import given, settings
from hypothesis import strategies as st

import mapjax
from mapjax.data import geometry, labels, objects, run_lengths
from mapjax.data.labels import Motion
from mapjax.data.transforms import boxes, corruptions
from mapjax.errors import UserError
from mapjax.stages import VOID

SIZE = (24, 30)
HOLDERS = r"\b(record|example|batch|values|arrays|truth|answer)s?"  # of labels; formats may ask their own files
MIRRORED = np.array([0, 2, 1], np.int32)  # a nose, a left paw, a right paw
WORDS = "boxes|classes|crowd|areas|label|labels|label_map|masks|keypoints|mirrored"


def record(seed=0, count=3, runs=False):
    """Objects with everything that objects can have: masks are discs about the first keypoint."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(6, 18, (count, 3, 2)), np.full((count, 3, 1), 2)], -1).astype(np.float32)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    masks = np.hypot(rows - points[:, :1, 1, None], columns - points[:, :1, 0, None]) < 5
    bounds = np.array([geometry.mask_bounds(mask) for mask in masks], np.float32).reshape(-1, 4)
    return {
        "id": seed,
        "file": "a.png",
        "image": np.zeros((*SIZE, 3), np.uint8),
        "size": np.array(SIZE, np.int32),
        "boxes": bounds,
        "classes": np.arange(count, dtype=np.int32),
        "crowd": np.zeros(count, bool),
        "areas": masks.sum((1, 2)).astype(np.float32),
        "masks": [run_lengths.encode(mask) for mask in masks] if runs else masks,
        "keypoints": points,
        "mirrored": MIRRORED,
    }


def drawn_matrix(seed):
    """A random turn, tilt, zoom and shift, mirrored or not, about the middle of the image."""
    rng = np.random.default_rng(seed)
    flips = geometry.scale(*rng.choice([-1.0, 1.0], 2).tolist())
    turned = geometry.compose(flips, geometry.rotate(rng.uniform(-180, 180)), geometry.shear(rng.uniform(-10, 10)))
    zoomed = geometry.compose(turned, geometry.scale(rng.uniform(1, 2)))
    return geometry.compose(geometry.translate(-15, -12), zoomed, geometry.translate(30, 30))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_keypoints_stay_on_what_they_mark(seed):
    """Each is painted in a colour of its own; a paw that is left in the image is right in its mirror."""
    given, matrix, frame = record(seed, 1), drawn_matrix(seed), (60, 60)
    found = labels.move(given, Motion(matrix, frame, np.array([0]), given["boxes"]), ["keypoints"])["keypoints"][0]
    expected = [0, 2, 1] if np.linalg.det(matrix[:2, :2]) < 0 else [0, 1, 2]
    for number, place in enumerate(expected):
        image = np.zeros((*SIZE, 3), np.uint8)
        column, row = given["keypoints"][0, number, :2].astype(int)
        image[row - 1 : row + 2, column - 1 : column + 2] = 255
        rows, columns = np.nonzero(geometry.map_image(matrix, image, frame)[..., 0] > 100)
        x, y, visible = found[place]
        if visible:
            assert np.hypot(columns.mean() + 0.5 - x, rows.mean() + 0.5 - y) < 2.5
        elif len(rows):  # it has left the frame, and at most the border of its spot has not
            assert min(rows.min(), columns.min(), 59 - rows.max(), 59 - columns.max()) < 4
        assert visible or not found[place].any()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_masks_have_the_pixels_whose_centres_they_cover(seed, runs):
    given, matrix = record(seed, 2, runs), drawn_matrix(seed)
    rows, columns = np.mgrid[:60, :60] + 0.5
    back = geometry.map_points(geometry.invert(matrix), np.stack([columns, rows], -1))
    inside = ((back > 0) & (back < (SIZE[1], SIZE[0]))).all(-1)
    x, y = np.clip(np.floor(back).astype(int), 0, [SIZE[1] - 1, SIZE[0] - 1]).transpose(2, 0, 1)
    motion = Motion(matrix, (60, 60), np.array([1]), given["boxes"])
    found = labels.move(given, motion, ["masks"])["masks"]
    expected = run_lengths.stacked(given["masks"], SIZE)[1][y, x] & inside
    doubtful = (np.abs(back - np.round(back)) < 0.05).any(-1)  # OpenCV rounds places to 1/32 of a pixel
    np.testing.assert_array_equal(found[0][~doubtful], expected[~doubtful])


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_transform_moves_all_labels_of_an_object_together(seed, runs):
    augment = {"flip_horizontal": 0.5, "rotate": 30.0, "crop": 0.5, "translate": 0.4}
    transform = boxes.make(size=(48, 60), max_boxes=4, augment=augment, mask_size=24)
    example = transform(record(seed, 3, runs), np.random.default_rng(seed))
    other = transform(record(seed, 3, not runs), np.random.default_rng(seed))
    assert example.keys() == other.keys() and all(np.array_equal(example[key], other[key]) for key in example)
    assert example["keypoints"].shape == (4, 3, 3) and not example["keypoints"][~example["valid"]].any()
    masks = in_frame(example["box_masks"], example["boxes"], (48, 60))
    for mask, points in zip(masks[example["valid"]], example["keypoints"][example["valid"]]):
        x, y, visible = points[0]  # the nose is in the middle of the disc
        if visible and mask.any() and min(x, y, 60 - x, 48 - y) > 1:
            assert mask[int(y), int(x)]


def test_a_mirror_of_a_mirror_is_the_record():
    given = record()
    once = geometry.flip_horizontal(SIZE[1])
    motion = Motion(once, SIZE, np.arange(3), geometry.map_boxes(once, given["boxes"]))
    moved = labels.move(given, motion)
    assert not np.array_equal(moved["keypoints"], given["keypoints"])
    twice = labels.move({**given, **moved}, motion._replace(boxes=given["boxes"]))
    for key, value in twice.items():
        np.testing.assert_allclose(value, given[key], atol=1e-4)


def test_what_is_hidden_moves_and_what_is_not_labelled_does_not():
    points = np.array([[[5, 5, 1], [0, 0, 0], [40, 5, 2]]], np.float32)
    moved = objects.map_keypoints(geometry.translate(3, 0), points, MIRRORED, SIZE)
    np.testing.assert_array_equal(moved, [[[8, 5, 1], [0, 0, 0], [0, 0, 0]]])


def test_pairs_are_those_given_or_those_that_their_names_say():
    names = ("nose", "left_eye", "right_eye", "Right hand", "Left hand", "leftmost")
    np.testing.assert_array_equal(objects.mirrored(names), [0, 2, 1, 4, 3, 5])
    np.testing.assert_array_equal(objects.mirrored(("a", "b", "c"), [("a", "c")]), [2, 1, 0])
    with pytest.raises(KeyError, match="d"):
        objects.mirrored(("a", "b"), [("a", "d")])


def test_classes_are_renumbered_wherever_they_are():
    places = np.array([2, 0], np.int32)
    label_map = np.array([[0, 1, VOID]], np.uint8)
    given = {"classes": np.array([0, 1, 1], np.int32), "boxes": 0, "label": np.int32(1), "label_map": label_map}
    found = labels.renumber(given | {"labels": np.array([True, False])}, places, 4)
    np.testing.assert_array_equal(found["classes"], [2, 0, 0])
    np.testing.assert_array_equal(found["labels"], [False, False, True, False])
    np.testing.assert_array_equal(found["label_map"], [[2, 0, VOID]])
    assert found["label"] == 0 and found["boxes"] == 0


def test_images_without_labels_have_blank_ones():
    found = labels.blank((2, 3), *labels.KINDS)
    assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 2, 3) and (found["label_map"] == VOID).all()
    assert labels.leading(found) == "boxes" and labels.of_image(found) == "labels" and labels.leading({}) is None
    assert set(labels.present(found)) == set(labels.KINDS)
    labels.require({"file": "a", "size": (2, 3), **found})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": np.zeros(2, np.int32)}, r"a\.png has 3 boxes and 2 classes"),
        ({"masks": np.zeros((3, 5, 5), bool)}, r"24×30 pixels \(height × width\) and a mask of 5×5"),
        ({"masks": [run_lengths.encode(np.zeros((5, 5), bool))] * 3}, "add up to 25 pixels, not to 24×30; draw it"),
        ({"masks": []}, "3 boxes and 0 masks"),
        ({"boxes": None}, "has masks or keypoints and no boxes; give each object its box"),
        ({"keypoints": np.zeros((3, 4, 3), np.float32)}, r"keypoints of the shape \(3, 4, 3\), and \(3, 3, 3\)"),
        ({"label_map": np.zeros((4, 4), np.uint8)}, r"24×30 pixels \(height × width\) and its mask 4×4"),
    ],
)
def test_labels_that_do_not_fit_are_told(change, words):
    labels.require(record())
    with pytest.raises(UserError, match=words):
        labels.require({key: value for key, value in (record() | change).items() if value is not None})


def test_a_shifted_split_moves_everything():
    source = corruptions.Source("mine", "val", ("a", "b", "c"), (0, 1, 2), [record(1)], {}, "")
    found = corruptions.shift(source, {"flip_horizontal": 1.0}).records[0]
    np.testing.assert_array_equal(found["masks"], record(1)["masks"][:, :, ::-1])
    np.testing.assert_allclose(found["keypoints"][:, 1, 0], SIZE[1] - record(1)["keypoints"][:, 2, 0])
    np.testing.assert_array_equal(found["areas"], record(1)["areas"])


def test_nobody_else_asks_which_kinds_there_are():
    asks = re.compile(rf"""["']({WORDS})["']\s+(not\s+)?in\s|{HOLDERS}\.get\(\s*["']({WORDS})["']""")
    nodes = {"crf_rnn.py", "faster_rcnn.py", "compose.py"}  # of a config: how many classes a part is made for
    root = pathlib.Path(mapjax.__file__).parent
    found = [
        f"{file.relative_to(root)}: {match.group()}"
        for file in sorted(root.rglob("*.py"))
        for match in asks.finditer(file.read_text("utf-8"))
        if file.name not in ("labels.py", "object_labels.py") and not (file.name in nodes and "models" in file.parts)
    ]
    assert found == []
