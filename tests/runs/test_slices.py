"""Large images in tiles: a stub that finds white squares in its frame, on images of which the boxes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import CONFIG
from test_predict import VARIABLES, find_white

from mapjax.config import load as configs
from mapjax.config import schema
from mapjax.data.source import Records, Source
from mapjax.data.transforms import boxes as transforms
from mapjax.errors import UserError
from mapjax.metrics import precision
from mapjax.ops import images as image_ops
from mapjax.runs import evaluation, predict, slices
from mapjax.runtime import log as logs
from mapjax.sharding import mesh as shard
from mapjax.task import Task

CUT = slices.Slices((64, 96), overlap=0.25, whole=False, cut=True)
SQUARES = np.array([[10, 8, 26, 20], [70, 98, 90, 110], [200, 130, 216, 150]], np.float32)  # one lies in four tiles


def image_of(boxes, size=(160, 230)):
    image = np.full((*size, 3), 20, np.uint8)
    for left, top, right, bottom in np.asarray(boxes, int):
        image[top:bottom, left:right] = 255
    return image


def answered(files, cut=CUT, batch=4, answer=find_white):
    transform = transforms.make(size=(64, 96), max_boxes=1)
    return list(predict.predict(jax.jit(answer), VARIABLES, files, transform, batch=batch, cut=cut))


def test_tiles_cover_the_image_and_overlap():
    for size in [(160, 230), (64, 500), (65, 97), (1000, 40)]:
        corners = slices.corners_of(size, CUT)
        seen = np.zeros(size, int)
        for left, top, right, bottom in corners:
            assert (bottom - top, right - left) == (min(64, size[0]), min(96, size[1]))
            seen[top:bottom, left:right] += 1
        assert seen.min() == 1 and (seen > 1).any()
        whole = slices.corners_of(size, CUT._replace(whole=True))
        assert whole == [*corners, (0, 0, size[1], size[0])]
    for size in [(64, 96), (10, 20)]:  # it fits into a tile
        assert slices.corners_of(size, CUT._replace(whole=True)) == [(0, 0, size[1], size[0])]


def test_boxes_come_back_in_the_pixels_of_the_image():
    (found,) = answered([image_of(SQUARES)])
    best = found.result["boxes"][found.result["scores"] > 0.5]
    assert len(best) == 3 and found.image.shape == (160, 230, 3) and found.result["valid"].all()
    for square in SQUARES:
        assert np.abs(best - square).max(1).min() == 0  # tiles have the frame's size: no pixel is resampled


def test_order_is_kept_whatever_files_are_between(tmp_path):
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no image")
    files = [bad, image_of(SQUARES[:1]), bad, image_of(SQUARES[2:], (64, 96)), image_of(SQUARES[2:]), bad]
    found = answered(files, CUT._replace(whole=True))
    kinds = [type(one).__name__ for one in found]
    assert kinds == ["Unreadable", "Answer", "Unreadable", "Answer", "Answer", "Unreadable"]
    sizes = [one.image.shape[:2] for one in found if isinstance(one, predict.Answer)]
    assert sizes == [(160, 230), (64, 96), (160, 230)]
    assert answered([bad]) == [found[0]] and answered([]) == []


def test_tiles_of_all_images_share_one_shape():
    shapes = []

    def answer(variables, batch):
        shapes.append(batch["image"].shape)
        return find_white(variables, batch)

    answered([image_of(SQUARES), image_of(SQUARES, (300, 120)), image_of([], (30, 700))], answer=answer)
    assert shapes == [(4, 64, 96, 3)]  # traced once


def result(boxes, scores, classes=None):
    count = len(boxes)
    found = {"boxes": np.float32(boxes).reshape(-1, 4), "scores": np.float32(scores)}
    found |= {"classes": np.int32([0] * count if classes is None else classes), "valid": np.ones(count, bool)}
    return {key: np.concatenate([value, np.zeros_like(value[:1])]) for key, value in found.items()}  # a padded row


def test_an_object_cut_by_a_border_is_merged_by_the_smaller_area():
    """The second tile begins at 40 and sees a third of the object."""
    found = [result([[20, 5, 50, 25]], [0.9]), result([[0, 5, 10, 25]], [0.6])]
    corners = [(0, 0, 60, 40), (40, 0, 100, 40)]
    for over, expected in (("union", [[20, 5, 50, 25], [40, 5, 50, 25]]), ("smaller", [[20, 5, 50, 25]])):
        assert slices.merged(found, corners, CUT._replace(over=over))["boxes"].tolist() == expected


def test_boxes_that_a_tile_cuts_may_be_left_out():
    """Those that end where the tile does and the image does not, within a hundredth of the tile's side."""
    found = [result([[20, 5, 59.5, 25], [0, 0, 30, 40], [20, 5, 59, 25]], [0.9, 0.8, 0.7], [0, 1, 2])]
    found += [result([[0, 5, 10, 25], [30, 5, 60, 25]], [0.6, 0.5]), result([[0, 0, 100, 40]], [0.4], [3])]
    corners = [(0, 0, 60, 40), (40, 0, 100, 40), (0, 0, 100, 40)]
    kept = slices.merged(found, corners, CUT._replace(cut=False))
    assert kept["boxes"].tolist() == [[0, 0, 30, 40], [20, 5, 59, 25], [70, 5, 100, 25], [0, 0, 100, 40]]
    assert len(slices.merged(found, corners, CUT)["boxes"]) == 6


def test_merging_equals_the_plain_loop():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 40, (60, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 20, (60, 2))], -1).astype(np.float32)
    scores, classes = rng.permutation(60) / 60, rng.integers(0, 2, 60)
    for over in ("union", "smaller"):
        for groups in (classes, classes * 0):
            kept = []
            for i in np.argsort(-scores):
                others = [j for j in kept if groups[j] == groups[i]]
                if all(plain_share(boxes[i], boxes[j], over) <= 0.3 for j in others):
                    kept.append(i)
            assert slices.keep(boxes, scores, groups, CUT._replace(over=over, iou=0.3)).tolist() == kept


def plain_share(a, b, over):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)]
    below = min(areas) if over == "smaller" else sum(areas) - common
    return common / below if below > 0 else 0


def config_of(**node):
    return configs.from_dict({**CONFIG, "image_size": (64, 96), "model": {"name": "faster_rcnn"}, "slices": node})


def test_an_evaluation_by_slices_scores_small_objects_in_large_images():
    """The stub finds what is white as one box: right in tiles, and wrong in the whole, where several are white."""
    squares = [[10, 8, 26, 20], [200, 130, 216, 150]]
    record = {"id": 1, "file": "a", "image": image_of(squares), "size": np.array([160, 230], np.int32)}
    record |= {"boxes": np.float32(squares), "classes": np.zeros(2, np.int32), "crowd": np.zeros(2, bool)}
    record |= {"areas": np.float32([192, 320])}
    source = Source(
        "squares", "val", ("white", "none"), (1, 2), Records(3, lambda row: record | {"id": row}), {}, "print"
    )

    def predict_white(variables, batch, key):
        return {"map_logits": find_white(variables, batch)["boxes"][..., None]}

    def decode(prediction, batch):
        return find_white({"params": 1.0}, batch)

    task = Task("boxes", image_ops.normalize, None, None, predict_white, decode, ("precision",))
    scores = {}
    for size in ((), (64, 96)):
        config = config_of(size=size, whole=False)
        mesh = shard.make_mesh(config.mesh.to_dict())
        made = evaluation.make_evaluation(
            config, task, precision.make(source), source, mesh, logs.Log(None, quiet=True)
        )
        found = made(VARIABLES)
        scores[size] = found.metrics["AP"]
        assert found.images == 3
    assert scores[()] == 0 and scores[64, 96] > 0.99


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"size": (64,)}, r"slices\.size=\(64,\) must be height and width in pixels, as in \(640, 640\), or \(\)"),
        ({"size": (0, 64)}, r"slices\.size=\(0, 64\) must be height and width"),
        ({"overlap": 1.0}, r"slices\.overlap=1\.0 must be at least 0 and less than 1"),
        ({"overlap": -0.1}, r"slices\.overlap=-0\.1 must be at least 0 and less than 1"),
        ({"iou": 2.0}, r"slices\.iou=2\.0 must be from 0 to 1"),
        ({"over": "lesser"}, r"slices\.over='lesser' must be union or smaller"),
        ({"tile": 4}, r"there is no key 'slices\.tile'"),
    ],
)
def test_mistakes(node, said):
    with pytest.raises(UserError, match=said):
        schema.require_known({"slices": node}, "config")


def test_a_task_that_is_no_detector():
    def classify(variables, batch):
        return {"probabilities": jnp.ones((len(batch["image"]), 2)) / 2}

    with pytest.raises(UserError, match=r"slices are for detectors.*this task answers probabilities; leave"):
        answered([image_of([])], answer=classify)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = config_of(size=(64, 96))
    task = Task("boxes", image_ops.normalize, None, None, None, None, ("precision",))
    mesh = shard.make_mesh(config.mesh.to_dict())
    source = Source("squares", "val", ("white",), (1,), Records(1, lambda row: {}), {}, "print")
    with pytest.raises(UserError, match=r"slices\.size is for one process"):
        evaluation.make_evaluation(config, task, precision.make(source), source, mesh, logs.Log(None, quiet=True))


def test_a_config_says_whether_images_are_cut():
    assert slices.of(config_of()) is None
    cut = slices.of(config_of(size=(8, 9), overlap=0.5, over="smaller"))
    assert cut == slices.Slices((8, 9), 0.5, True, 0.5, "smaller", False, False)
