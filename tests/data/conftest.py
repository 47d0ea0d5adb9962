"""Small data sets, to prepare."""

import json

import numpy as np
import PIL.Image
import pytest
from prepared_sets import IMAGES


@pytest.fixture
def photos(tmp_path):
    """A folder of seven images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        file = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(file)
    return tmp_path / "data"


@pytest.fixture
def coco(tmp_path):
    """Two images with boxes, ids of their own, a crowd and masks."""
    (tmp_path / "coco" / "images").mkdir(parents=True)
    for name in ("x.png", "y.png", "z.png"):
        PIL.Image.new("RGB", (20, 16), (9, 90, 200)).save(tmp_path / "coco" / "images" / name)
    objects = [
        {
            "id": 1,
            "image_id": 40,
            "category_id": 9,
            "bbox": [1, 2, 5, 6],
            "area": 20,
            "segmentation": [[1, 2, 6, 2, 6, 8]],
        },
        {"id": 2, "image_id": 41, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": None},
        {"id": 3, "image_id": 41, "category_id": 9, "bbox": [3, 3, 0, 2]},
    ]
    entries = [
        {"id": 40 + n, "file_name": name, "height": 16, "width": 20} for n, name in enumerate(("x.png", "y.png"))
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    file = tmp_path / "coco" / "train.json"
    file.write_text(json.dumps({"images": entries, "annotations": objects, "categories": categories}))
    return {"name": "coco", "path": str(tmp_path / "coco"), "hold_out": 0, "masks": True}
