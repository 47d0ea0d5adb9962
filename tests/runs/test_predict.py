"""mapjax.runs.predict with a fake task that finds white rectangles: any image, in its own pixels."""

import functools
import json
import os
import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from mapjax.data import images
from mapjax.data.transforms import boxes as transforms
from mapjax.errors import UserError
from mapjax.report import detections
from mapjax.runs import predict

IDS = np.zeros((2, 3), np.uint8)
CLASSES = ("white", "none")
FRAME = (64, 96)
VARIABLES = {"params": 1.0, "stats": {}}


def find_white(variables, batch):
    """One detection an image: the bounding box of what is white, in original pixels; a second row of low score."""
    white = (batch["image"] > 200).all(-1)
    across, down = white.any(1), white.any(2)
    left, top = across.argmax(1), down.argmax(1)
    right, bottom = FRAME[1] - across[:, ::-1].argmax(1), FRAME[0] - down[:, ::-1].argmax(1)
    corners = jnp.stack([left, top, right, bottom], 1).astype(jnp.float32)
    scale, shift = batch["matrix"][:, [0, 1], [0, 1]], batch["matrix"][:, :2, 2]
    box = (corners - jnp.tile(shift, 2)) / jnp.tile(scale, 2)
    size = batch["image"].shape[0]
    return {
        "boxes": jnp.stack([box, box], 1),
        "scores": jnp.tile(jnp.array([[0.3, 0.9]]), (size, 1)) * variables["params"],
        "classes": jnp.zeros((size, 2), jnp.int32),
        "valid": jnp.stack([white.any((1, 2)), white.any((1, 2))], 1),
    }


def detect(files, batch=3):
    transform = transforms.make(size=FRAME, max_boxes=1)
    return list(predict.predict(jax.jit(find_white), VARIABLES, files, transform, batch=batch))


def result(*boxes):
    """A row of a Result: these boxes, and a padding row."""
    rows = np.array([*boxes, (0, 0, 0, 0)], np.float32)
    real = np.arange(len(rows)) < len(boxes)
    return {"boxes": rows, "scores": 0.9 * real, "classes": np.zeros(len(rows), np.int32), "valid": real}


def show(score=0.5, enlarge=False):
    return functools.partial(detections.show, classes=CLASSES, score=score, enlarge=enlarge)


def white_rectangle(height=120, width=180, box=(40, 30, 100, 90)):
    image = np.full((height, width, 3), 20, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def save(path, image, **options):
    PIL.Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize("kind", ["jpg", "gray", "cmyk", "alpha", "deep", "palette", "rotated", "large"])
def test_boxes_are_in_the_pixels_of_the_upright_image(tmp_path, kind):
    box, image = (40, 30, 100, 90), white_rectangle()
    if kind == "jpg":
        file = save(tmp_path / "a.jpg", image, quality=95)
    elif kind == "gray":
        file = save(tmp_path / "a.png", image[..., 0])
    elif kind == "cmyk":
        file = tmp_path / "a.jpg"
        PIL.Image.fromarray(image).convert("CMYK").save(file, quality=95)
    elif kind == "alpha":
        file = save(tmp_path / "a.png", np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]))
    elif kind == "deep":
        file = tmp_path / "a.png"
        cv2.imwrite(str(file), image.astype(np.uint16) * 257)
    elif kind == "palette":
        file = tmp_path / "a.png"
        PIL.Image.fromarray(image).convert("P").save(file)
    elif kind == "rotated":  # stored on its side; a person sees `image`
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        file = save(tmp_path / "a.jpg", np.rot90(image).copy(), quality=95, exif=exif)
    else:
        box, image = (400, 300, 1000, 900), white_rectangle(1200, 1800, (400, 300, 1000, 900))
        file = save(tmp_path / "a.jpg", image)
    (found,) = detect([file])
    assert isinstance(found, predict.Answer)
    assert found.image.shape == image.shape
    shown = show()(found.result, found.image)
    np.testing.assert_allclose(shown.values["boxes"], [box], atol=0.015 * max(image.shape) + 1)
    assert shown.values["scores"] == pytest.approx([0.9])


@pytest.mark.parametrize("shape", [(1, 1), (20, 10_000), (10_000, 20), (1, 300)])
def test_extreme_shapes(tmp_path, shape):
    (found,) = detect([save(tmp_path / "a.png", np.zeros(shape, np.uint8))])
    assert isinstance(found, predict.Answer) and found.image.shape == (*shape, 3)


def test_one_compilation_order_kept_and_unreadable_files_named(tmp_path):
    files = [save(tmp_path / f"{n}.png", white_rectangle(50 + n, 60, (0, 0, 10 + n, 20))) for n in range(7)]
    files[2].write_bytes(files[2].read_bytes()[:60])
    files[3] = tmp_path / "missing.png"
    traced = []
    answer = jax.jit(lambda variables, batch: (traced.append(1), find_white(variables, batch))[1])
    transform = transforms.make(size=FRAME, max_boxes=1)
    found = list(predict.predict(answer, VARIABLES, files, transform, batch=2))
    assert [item.file for item in found] == [str(file) for file in files]
    assert [isinstance(item, predict.Unreadable) for item in found] == [n in (2, 3) for n in range(7)]
    assert "missing.png" in found[3].reason
    assert len(traced) == 1
    for n in (0, 1, 4, 5, 6):
        np.testing.assert_allclose(found[n].result["boxes"][1], [0, 0, 10 + n, 20], atol=1.5)
        assert found[n].result["scores"].tolist() == pytest.approx([0.3, 0.9])


def test_score_and_no_files(tmp_path):
    file = save(tmp_path / "a.png", white_rectangle())
    (found,) = detect([file])
    assert [show(least)(found.result, found.image).findings for least in (0.2, 0.5, 0.95)] == [2, 1, 0]
    assert show(0.2)(found.result, found.image).values["scores"] == pytest.approx([0.9, 0.3])
    assert detect([]) == []


def test_find_images(tmp_path):
    for name in ("b.JPG", "sub/a.png", "sub/deep/c.tiff", "note.txt", "out/old.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = predict.find_images(tmp_path, leave_out=tmp_path / "out")
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["b.JPG", "sub/a.png", "sub/deep/c.tiff"]
    assert predict.find_images(tmp_path / "note.txt") == [tmp_path / "note.txt"]
    with pytest.raises(UserError, match="no such file or folder"):
        predict.find_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        predict.find_images(tmp_path / "sub", leave_out=tmp_path / "sub")


def test_output_names_never_collide():
    root = pathlib.Path("in")
    files = [root / name for name in ("a.jpg", "a.png", "A.bmp", "a-2.jpg", "sub/a.jpg", "b.c.png")]
    names = [name.as_posix() for name in predict.output_names(files, root)]
    assert names == ["a.jpg", "a-2.jpg", "A-3.jpg", "a-2-2.jpg", "sub/a.jpg", "b.c.jpg"]
    assert len({name.casefold() for name in names}) == len(names)
    assert predict.output_names([pathlib.Path("x/y.png")], pathlib.Path("x/y.png")) == [pathlib.Path("y.jpg")]


def test_save(tmp_path):
    image = white_rectangle()
    found = [
        predict.Answer("in/ä.png", image, result((40, 30, 100, 90.125))),
        predict.Unreadable("in/b.png", "in/b.png is empty"),
        predict.Answer("in/c.png", np.zeros((1, 70_000, 3), np.uint8), result()),
    ]
    names = [pathlib.Path("sub/ä.jpg"), pathlib.Path("b.jpg"), pathlib.Path("c.jpg")]
    saved = predict.save(found, names, tmp_path / "out", show())
    assert (saved.images, saved.findings, saved.unreadable) == (2, 1, [found[1]])
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert rows[0] == {
        "file": "in/ä.png",
        "width": 180,
        "height": 120,
        "boxes": [[40, 30, 100, 90.12]],
        "scores": [0.9],
        "classes": [0],
        "names": ["white"],
        "drawing": "sub/ä.jpg",
    }
    assert rows[1]["drawing"] == "c.png" and (tmp_path / "out" / "c.png").exists()  # too long for a JPEG
    drawn = images.read(tmp_path / "out" / "sub" / "ä.jpg")
    assert drawn.shape == image.shape and (np.abs(drawn.astype(int) - image).max(-1) > 60).sum() > 200


def test_enlarged_drawings(tmp_path):
    found = predict.Answer("a.png", white_rectangle(), result((40, 30, 100, 90)))
    predict.save([found], [pathlib.Path("a.jpg")], tmp_path, show(enlarge=True))
    assert images.read(tmp_path / "a.jpg").shape == (240, 360, 3)
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["boxes"] == [[40, 30, 100, 90]]


def test_interrupted_save_keeps_what_was_found(tmp_path):
    def interrupted():
        yield predict.Answer("a.png", white_rectangle(), result())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict.save(interrupted(), [pathlib.Path("a.jpg"), pathlib.Path("b.jpg")], tmp_path, show())
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 1


def test_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        predict.save([], [], tmp_path / "file", show())


def test_answers_of_files_whose_names_are_no_text_or_long_are_written(tmp_path):
    given = [os.fsdecode(b"\xb9\xb7\\.png"), "n" * 250 + ".png", "n" * 251 + ".jpg"]
    for name in given:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(cv2.imencode(".png", white_rectangle())[1].tobytes())
    files = predict.find_images(tmp_path / "in")
    names = predict.output_names(files, tmp_path / "in")
    with_map = functools.partial(show(), enlarge=False)
    predict.save(detect(files), names, tmp_path / "out", lambda *row: with_map(*row)._replace(label_map=IDS))
    listed = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert {row["file"] for row in listed} == {str(tmp_path / "in" / name) for name in given}
    assert all((tmp_path / "out" / row[kind]).is_file() for row in listed for kind in ("drawing", "mask"))
