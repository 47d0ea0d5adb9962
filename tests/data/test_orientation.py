"""Labels and pixels agree, whatever EXIF says of how an image is held, or it is told that they do not."""

import io
import json

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import rich.console

from mapjax.data import images
from mapjax.data.checks import quality
from mapjax.data.formats import coco, masks, voc
from mapjax.data.prepared import encoding
from mapjax.data.transforms import boxes, pixelwise
from mapjax.errors import UserError

BACK = {3: 3, 6: 8, 8: 6, 5: 5, 2: 2}  # the orientation that undoes another
RED = (255, 0, 0)


def photo(path, turned, size=(40, 60), box=(4, 6, 24, 16)):
    """Save a black image of height, width that is red in a box; what is stored is turned so that EXIF undoes it."""
    upright = PIL.Image.new("RGB", size[::-1])
    upright.paste(RED, box)
    tag = PIL.Image.Exif()
    tag[0x0112] = BACK[turned]
    stored = io.BytesIO()
    upright.save(stored, "PNG", exif=tag)
    lying = PIL.ImageOps.exif_transpose(PIL.Image.open(stored))
    tag[0x0112] = turned
    path.parent.mkdir(parents=True, exist_ok=True)
    lying.save(path, exif=tag)
    return upright, lying.copy()


def box_of(image):
    """The box around what is red."""
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 128)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def as_voc(tmp_path, box, size=None):
    tag = f"<size><height>{size[0]}</height><width>{size[1]}</width></size>" if size else ""
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    text = f"<annotation>{tag}<object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(text)
    return lambda **options: voc.make(split="train", path=str(tmp_path), hold_out=0, **options)


def as_coco(tmp_path, box, size=None):
    sides = dict(zip(("height", "width"), size)) if size else {}
    x1, y1, x2, y2 = box
    said = {
        "images": [{"id": 1, "file_name": "JPEGImages/a.png", **sides}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
    }
    (tmp_path / "train.json").write_text(json.dumps(said))
    return lambda **options: coco.make(split="train", path=str(tmp_path), hold_out=0, **options)


def shown_and_labelled(source):
    """Where the image that a network sees is red, and its box, in the same frame."""
    record = source.records[0]
    side = int(max(record["size"]))
    example = boxes.make(size=(side, side), max_boxes=1)(record, np.random.default_rng(0))
    return box_of(example["image"] * (example["image"][..., 1:2] < 90)), example["boxes"][0].tolist()


def said_of(source):
    stream = io.StringIO()
    rich.console.Console(file=stream, width=1000).print(quality.table(quality.inspect(source, 10)))
    return stream.getvalue()


@pytest.mark.parametrize("write", [as_voc, as_coco])
@pytest.mark.parametrize(
    ("turned", "size"), [(3, (40, 60)), (6, (40, 40)), (8, (40, 60)), (5, (40, 60)), (2, (40, 60))]
)
@pytest.mark.parametrize("declared", [True, False])
def test_boxes_of_the_upright_image_and_its_pixels_agree(tmp_path, write, turned, size, declared):
    upright, _ = photo(tmp_path / "JPEGImages/a.png", turned, size)
    source = write(tmp_path, box_of(upright), size if declared else None)()
    seen, labelled = shown_and_labelled(source)
    assert seen == labelled == box_of(upright)
    assert "data.orientation" not in said_of(source) and not source.dropped


@pytest.mark.parametrize("write", [as_voc, as_coco])
@pytest.mark.parametrize(("turned", "size"), [(3, (40, 60)), (6, (40, 40)), (8, (40, 60))])
def test_boxes_of_the_stored_image_are_asked_for(tmp_path, write, turned, size):
    _, stored = photo(tmp_path / "JPEGImages/a.png", turned, size)
    make = write(tmp_path, box_of(stored), stored.size[::-1])
    source = make(orientation="stored")
    seen, labelled = shown_and_labelled(source)
    assert seen == labelled == box_of(stored)
    assert "data.orientation" not in said_of(source)
    assert source.fingerprint != make().fingerprint
    with pytest.raises(UserError, match=r"orientation='lying' is not known\. Known: stored, upright"):
        make(orientation="lying")


@pytest.mark.parametrize("write", [as_voc, as_coco])
def test_sizes_that_contradict_are_believed_and_told(tmp_path, write):
    _, stored = photo(tmp_path / "JPEGImages/a.png", 6)
    source = write(tmp_path, box_of(stored), stored.size[::-1])()
    seen, labelled = shown_and_labelled(source)
    assert seen == labelled == box_of(stored)
    said = said_of(source)
    assert "1 images looked at 1 are turned by EXIF" in said and "set data.orientation=stored" in said


@pytest.mark.parametrize("write", [as_voc, as_coco])
def test_boxes_that_fit_only_the_other_way_are_told(tmp_path, write):
    photo(tmp_path / "JPEGImages/a.png", 6)
    source = write(tmp_path, (2, 44, 12, 58))()  # 60 high and 40 wide, as it is stored
    assert [len(where) for reason, where in source.noted.items() if "data.orientation" in reason] == [1]
    assert "data.orientation" in said_of(source)


def test_masks_go_with_the_upright_image(tmp_path):
    upright, _ = photo(tmp_path / "images/a.png", 3)
    (tmp_path / "masks").mkdir()
    drawn = (np.asarray(upright)[..., 0] > 128).astype(np.uint8)
    PIL.Image.fromarray(drawn).save(tmp_path / "masks/a.png")
    source = masks.make(split="train", path=str(tmp_path), classes=("sky", "cat"), hold_out=0)
    example = pixelwise.make(size=(40, 60))(source.records[0], np.random.default_rng(0))
    np.testing.assert_array_equal(example["image"][..., 0] > 128, example["label_map"] == 1)


def test_shards_keep_how_labels_were_drawn(tmp_path):
    upright, stored = photo(tmp_path / "JPEGImages/a.png", 3)
    make = as_voc(tmp_path, box_of(stored))
    for orientation, expected in (("upright", upright), ("stored", stored)):
        record = make(orientation=orientation).records[0]
        kept = encoding.decode(encoding.encode(record | {"image": encoding.encoded(record["image"])}))
        image = images.read_as_labelled(kept["image"], (40, 60), stored=bool(kept.get("stored")))
        np.testing.assert_array_equal(image, expected)
