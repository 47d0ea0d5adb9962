"""Mosaic, MixUp, copy-paste and large-scale jitter: pixels, boxes, masks and keypoints move together."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
import scipy.ndimage
from box_grids import in_frame

from mapjax import stages
from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.data import geometry, pipeline
from mapjax.data.source import Records, Source
from mapjax.data.transforms import augment, boxes, copy_paste, mosaic
from mapjax.errors import UserError

FRAME = (64, 80)
TONES = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20], [250, 20, 250], [20, 250, 250]])


def scene(index, masks=True, size=(60, 70)):
    """Two rectangles of a colour that says the image and the object, on black; each fourth image has none.

    A keypoint is in the middle of each.
    """
    image = np.zeros((*size, 3), np.uint8)
    rng = np.random.default_rng(index)
    found = {"boxes": [], "masks": np.zeros((2, *size), bool), "keypoints": np.zeros((2, 1, 3), np.float32)}
    for row in range(2):
        x, y = rng.integers(2, 14, 2) + np.array([0, 30 * row])
        across, down = rng.integers(10, 15, 2)
        image[y : y + down, x : x + across] = TONES[(2 * index + row) % 6]
        found["masks"][row, y : y + down, x : x + across] = True
        found["boxes"].append([x, y, x + across, y + down])
        found["keypoints"][row, 0] = x + across / 2, y + down / 2, 2
    record = {
        "id": index, "file": f"{index}.png", "image": image, "size": np.array(size, np.int32),
        "boxes": np.array(found["boxes"], np.float32), "classes": (np.arange(2, dtype=np.int32) + 2 * index) % 6,
        "crowd": np.zeros(2, bool), "areas": np.full(2, 100, np.float32), "keypoints": found["keypoints"],
        "mirrored": np.zeros(1, np.int32),
    }  # fmt: skip
    record |= {"masks": list(found["masks"])} if masks else {}
    if index % 4 == 3:
        record |= {key: record[key][:0] for key in ("boxes", "classes", "crowd", "areas", "keypoints")} | {"masks": []}
        image[:] = 0
    return record


def apply(transform, seed, **options):
    companions = [scene(k, **options) for k in range(1, 1 + transform.companions)]
    return transform(scene(0, **options), np.random.default_rng(seed), companions)


def near(image, tone):
    return (np.abs(image.astype(int) - tone) < 115).all(axis=-1)


MOVED = {"flip_horizontal": 0.5, "scale": (0.8, 1.2), "translate": 0.1, "min_visible": 0.4}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("motion", [{}, MOVED, {**MOVED, "rotate": 20.0}, {"jitter": (0.4, 1.6)}])
def test_boxes_masks_and_keypoints_lie_where_the_colours_are(motion, seed):
    transform = mosaic.make(size=FRAME, max_boxes=8, augment=motion, mask_size=40)
    example = apply(transform, seed)
    stages.check("example", {**example, "index": np.int32(0)})
    assert example["valid"].any()
    masks = in_frame(example["box_masks"], example["boxes"], FRAME)
    for row in np.flatnonzero(example["valid"]):
        seen, box = near(example["image"], TONES[example["classes"][row]]), example["boxes"][row]
        outline = geometry.mask_bounds(seen)
        assert np.abs(outline - box).max() <= 1.5
        assert (seen ^ masks[row]).sum() <= (box[2:] - box[:2]).sum() + 2  # half a pixel at the border
        x, y, visible = example["keypoints"][row, 0]
        if visible:
            assert box[0] - 1 <= x <= box[2] + 1 and box[1] - 1 <= y <= box[3] + 1
    assert example["matrix"].tolist() == np.eye(3).tolist() and example["size"].tolist() == list(FRAME)


@pytest.mark.parametrize("number", range(4))
def test_a_quarter_is_the_image_by_its_matrix(number, monkeypatch):
    """Sampled by SciPy from the original, point by point; beside the image there is the fill."""
    monkeypatch.setattr(mosaic, "CENTRE", (0.5, 0.5))
    rng = np.random.default_rng(number)
    smooth = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (60, 70, 3)), (4, 4, 0))
    image = np.rint(smooth).astype(np.uint8)
    records = [scene(k) for k in range(4)]
    records[number]["image"] = image
    transform = mosaic.make(size=FRAME, max_boxes=8, augment={}, mosaic_scale=(0.75, 0.75), fill=(1, 2, 3))
    example = transform(records[0], rng, [records[3], records[2], records[1]])
    scale = 0.75 * FRAME[0] / 60  # height is what limits the letterbox
    x0, y0 = 40 * (number % 2), 32 * (number // 2)
    corner_x, corner_y = (40 - 70 * scale if x0 == 0 else 40), (32 - 60 * scale if y0 == 0 else 32)
    y, x = np.mgrid[y0 : y0 + 32, x0 : x0 + 40] + 0.5
    back_y, back_x = (y - corner_y) / scale, (x - corner_x) / scale
    inside = (back_x >= 0) & (back_x < 70) & (back_y >= 0) & (back_y < 60)
    expected = np.stack(
        [scipy.ndimage.map_coordinates(image[..., c] * 1.0, [back_y - 0.5, back_x - 0.5], order=1, mode="nearest")
         for c in range(3)], -1)  # fmt: skip
    found = example["image"][y0 : y0 + 32, x0 : x0 + 40]
    assert np.abs(found[inside] - expected[inside]).max() <= 3
    assert (found[~inside] == (1, 2, 3)).all()


def test_objects_cut_off_by_their_quarter_are_dropped_by_what_is_left(monkeypatch):
    monkeypatch.setattr(mosaic, "CENTRE", (0.5, 0.5))
    record = scene(0)
    record["masks"] = [np.zeros((60, 70), bool)] * 2
    record["boxes"][:] = [[15, 40, 55, 60], [0, 0, 5, 5]]
    # Magnified by 1 the lower right quarter of the image shows, from (35, 30) on: half of the box is left.
    for least, kept in ((0.4, True), (0.6, False)):
        transform = mosaic.make(size=(60, 70), max_boxes=8, augment={"min_visible": least}, mosaic_scale=(1.0, 1.0))
        example = transform(record, np.random.default_rng(0), [scene(k) for k in (1, 2, 3)])
        assert ([0, 10, 20, 30] in example["boxes"].tolist()) == kept


@pytest.mark.parametrize("seed", range(8))
def test_pasted_objects_cover_what_is_behind_them(seed):
    """Against loops over pixels."""
    rng = np.random.default_rng(seed)

    def view(count, tone):
        masks = rng.random((count, 9, 11)) < 0.4
        bounds = np.array([geometry.mask_bounds(mask) for mask in masks], np.float32).reshape(-1, 4)
        return {
            "image": np.full((9, 11, 3), tone, np.uint8), "boxes": bounds, "classes": np.arange(count, dtype=np.int32),
            "crowd": np.zeros(count, bool), "valid": np.ones(count, bool), "masks": masks,
            "keypoints": np.tile(np.array([5.5, 4.5, 2], np.float32), (count, 1, 1)),
        }  # fmt: skip

    onto, source = view(4, 10), view(3, 200)
    onto["masks"][0, 4:, :] = False
    chosen = np.array([True, False, True])
    found = copy_paste.paste(onto, source, chosen, 0.6)
    covered = np.zeros((9, 11), bool)
    for y, x in itertools.product(range(9), range(11)):
        covered[y, x] = source["masks"][0, y, x] or source["masks"][2, y, x]
        assert (found["image"][y, x] == (200 if covered[y, x] else 10)).all()
    kept = []
    for row in range(4):
        left = [
            (x, y) for y, x in itertools.product(range(9), range(11)) if onto["masks"][row, y, x] and not covered[y, x]
        ]
        if left and len(left) >= 0.6 * onto["masks"][row].sum():
            xs, ys = zip(*left)
            kept.append((row, [min(xs), min(ys), max(xs) + 1, max(ys) + 1], len(left)))
    assert found["classes"].tolist() == [row for row, _, _ in kept] + [0, 2]
    assert found["masks"].sum((1, 2)).tolist()[: len(kept)] == [count for _, _, count in kept]
    np.testing.assert_array_equal(found["boxes"][: len(kept)], np.array([box for _, box, _ in kept]).reshape(-1, 4))
    assert (found["keypoints"][: len(kept), 0, 2] == (1 if covered[4, 5] else 2)).all()
    assert (found["keypoints"][len(kept) :, 0, 2] == 2).all()


def test_the_transform_pastes_and_mixes():
    pasting = mosaic.make(size=FRAME, max_boxes=16, augment={}, mosaic=0.0, copy_paste=1.0)
    assert pasting.companions == 1
    counts = {int(apply(pasting, seed)["valid"].sum()) for seed in range(12)}
    assert {2, 3} <= counts and "box_masks" not in apply(pasting, 0)
    mixing = mosaic.make(size=FRAME, max_boxes=16, augment={}, mosaic=1.0, copy_paste=0.5, mixup=1.0, mask_size=20)
    assert mixing.companions == 5
    mixed = apply(mixing, 1)
    assert (
        mixed["box_masks"].shape == (16, 20, 20)
        and mixed["box_masks"][mixed["valid"]].any((1, 2)).all()
        and mixed["valid"].sum() >= 3
    )
    with pytest.raises(UserError, match=r"0.png has no masks.*set data.masks=True"):
        apply(pasting, 0, masks=False)


def test_small_masks_lack_what_a_pasted_object_covers():
    """The transform as a recipe has it, against the squares that were drawn."""
    recipe: Any = configs.load("instance:nuclei_copy_paste")
    options = recipe.transform.to_dict() | {"augment": {}, "copy_paste": 1.0}
    transform = parts.make("data.transforms", options | {"mask_size": 40}, size=(60, 70))
    assert transform.companions == 1
    records = [scene(0), scene(1)]
    for record, squares in zip(records, ([(5, 5, 45, 45), (50, 5, 60, 15)], [(25, 25, 55, 55), (50, 5, 66, 21)])):
        record["boxes"], record["masks"] = np.array(squares, np.float32), np.zeros((2, 60, 70), bool)
        for mask, (x1, y1, x2, y2) in zip(record["masks"], squares):
            mask[y1:y2, x1:x2] = True
    seen = {}
    for seed in range(12):
        example = transform(records[0], np.random.default_rng(seed), records[1:])
        lists = {key: example[key][example["valid"]] for key in ("boxes", "box_masks", "classes")}
        seen[tuple(lists["classes"].tolist())] = lists
    assert set(seen) == {(0, 1), (0, 1, 2), (0, 3), (0, 2, 3)}  # the smaller square is covered whole by one of them
    lists = seen[0, 1, 2]
    assert lists["boxes"].tolist() == [[5, 5, 45, 45], [50, 5, 60, 15], [25, 25, 55, 55]]
    expected = np.ones((40, 40), bool)
    expected[20:, 20:] = False
    np.testing.assert_array_equal(lists["box_masks"][0] > 127, expected)
    assert (lists["box_masks"][1:] > 127).mean() > 0.99  # only at corners a cell is less than half full


def test_large_scale_jitter_puts_the_image_anywhere():
    for zoom, seed in itertools.product((0.5, 1.7), range(6)):
        config = augment.complete({"jitter": (zoom, zoom)})
        matrix = augment.draw_matrix(config, np.random.default_rng(seed), (32, 40), (64, 80))
        (left, top), (right, bottom) = geometry.map_points(matrix, np.array([[0.0, 0], [40, 32]]))
        assert right - left == pytest.approx(80 * zoom) and bottom - top == pytest.approx(64 * zoom)
        assert (left >= 0 and right <= 80 and top >= 0) if zoom < 1 else (left <= 0 and right >= 80 and bottom >= 64)


def test_what_is_off_draws_nothing():
    """So that trainings without these augmentations stay what they were."""
    config = augment.complete({"rotate": 5.0})
    old = {key: value for key, value in config.items() if key not in ("jitter", "iou_crop")}
    matrices = [
        augment.draw_matrix(one, np.random.default_rng(3), (9, 9), (9, 9), np.zeros((0, 4))) for one in (config, old)
    ]
    np.testing.assert_array_equal(matrices[0], matrices[1])


def training(transforms, start=0, **options):
    source = Source("scenes", "train", tuple("abcdef"), (1, 2, 3, 4, 5, 6), Records(7, scene), {}, "0")
    return pipeline.train_batches(source, transforms, batch=2, seed=3, start=start, **options)


def test_resume_is_exact_also_where_transforms_take_turns():
    wild = mosaic.make(size=FRAME, max_boxes=8, augment=MOVED, mixup=0.5, copy_paste=0.5)
    small = mosaic.make(size=(32, 40), max_boxes=8, augment=MOVED, mixup=0.5)
    calm = boxes.make(size=FRAME, max_boxes=8, augment={})
    turns = [(0, wild), (2, small), (3, wild), (5, calm)]

    def taken(start, count, **options):
        with training(turns, start, **options) as batches:
            return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, count)]

    whole = taken(0, 7)
    assert [one["image"].shape[1] for one in whole] == [64, 64, 32, 64, 64, 64, 64]
    for start in (1, 4):
        jax.tree.map(np.testing.assert_array_equal, taken(start, 7 - start, threads=1), whole[start:])
    assert (whole[5]["matrix"] != np.eye(3)).any() and (whole[4]["index"] < 7).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mosaic": 1.5}, "mosaic=1.5 must be a probability"),
        ({"copy_paste": -0.1}, "copy_paste=-0.1 must be a probability"),
        ({"mosaic_scale": (0.0, 1.0)}, "must be a pair"),
        ({"size": (2, 2)}, "4 pixels or more"),
        ({"augment": {"jitter": (2.0, 1.0)}}, "jitter=.* must be a pair"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        mosaic.make(**{"size": FRAME, "max_boxes": 4, "augment": {}, **options})


def test_without_augmentation_and_switched_off_it_is_the_plain_transform():
    for options in ({"augment": None}, {"augment": {}, "mosaic": 0.0}):
        transform = mosaic.make(**{"size": FRAME, "max_boxes": 4, **options})
        assert not hasattr(transform, "companions")
        assert transform(scene(0), np.random.default_rng(0))["valid"].tolist() == [True, True, False, False]
