"""Images as transformers' own processors show them to DETR and RT-DETR (run: pytest -m parity)."""

import numpy as np
import PIL.Image
import pytest

from mapjax.config import parts
from mapjax.weights import recipes

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def photo(height, width):
    rng = np.random.default_rng(height)
    small = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def processor_of(name):
    return (transformers.DetrImageProcessor if "facebook" in name else transformers.RTDetrImageProcessor)()


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (1200, 1601), (1080, 1920), (230, 231), (97, 801)])
@pytest.mark.parametrize("name", ["facebook/detr-resnet-50", "PekingU/rtdetr_v2_r18vd"])
def test_images_are_seen_alike(name, size):
    recipe, image = recipes.find(f"hf/{name}"), photo(*size)
    transform = parts.make("data.transforms", dict(recipe.transform), size=recipe.image_size)
    record = {"id": 0, "file": "x", "image": image, "size": np.array(size, np.int32)}
    ours = transform(record, np.random.default_rng(0))["image"]
    seen = processor_of(name)(images=PIL.Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if "facebook" in name else (np.zeros(3), np.ones(3))
    levels = (seen.transpose(1, 2, 0) * std + mean) * 255
    assert ours.shape == levels.shape and np.abs(ours - levels).max() < 1.01
