"""Evaluation's crop and the policies' operations are torchvision's (run: pytest -m parity)."""

import io

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2 import functional  # noqa: E402

from mapjax.data import geometry  # noqa: E402
from mapjax.data.transforms import crops, policies  # noqa: E402

pytestmark = pytest.mark.parity

SIZES = [(375, 500), (500, 333), (256, 256), (60, 90), (231, 230), (1200, 1601)]


def photo(height, width):
    """Smooth shapes and noise, so that both the filter and the place show."""
    rng = np.random.default_rng(height)
    small = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def evaluated(image, size, share):
    record = {"id": 0, "file": "photo", "image": image, "label": np.int32(0)}
    return crops.make(size=(size, size), crop_share=share)(record, np.random.default_rng(0))["image"].astype(int)


@pytest.mark.parametrize("whole", SIZES)
@pytest.mark.parametrize(("size", "share", "resized"), [(224, 0.875, 256), (224, 1.0, 224), (288, 0.96, 300)])
def test_evaluation_shows_torchvisions_pixels(whole, size, share, resized):
    image = photo(*whole)
    theirs = v2.Compose([v2.Resize(resized), v2.CenterCrop(size)])(PIL.Image.fromarray(image))
    difference = np.abs(evaluated(image, size, share) - np.asarray(theirs))
    assert difference.max() <= 2 and difference.mean() < 0.05
    as_tensor = v2.Compose([v2.Resize(resized), v2.CenterCrop(size)])(torch.from_numpy(image.copy()).permute(2, 0, 1))
    assert np.abs(evaluated(image, size, share) - as_tensor.permute(1, 2, 0).numpy()).max() <= 2


@pytest.mark.parametrize("whole", [(375, 500), (1200, 1601)])
def test_evaluation_of_a_jpeg_is_torchvisions_too(whole):
    """However large: a photo of less than four times the frame is decoded whole, a larger one almost so."""
    file = io.BytesIO()
    PIL.Image.fromarray(photo(*whole)).save(file, "JPEG", quality=92)
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(PIL.Image.open(file).convert("RGB"))
    difference = np.abs(evaluated(file.getvalue(), 224, 0.875) - np.asarray(theirs))
    assert difference.max() <= (1 if max(whole) < 1000 else 12) and difference.mean() < 1


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
@pytest.mark.parametrize("share", [-1.0, 0.4])
def test_moves_are_torchvisions(name, share):
    image = np.asarray(PIL.Image.fromarray(photo(6, 8)).resize((80, 60), PIL.Image.Resampling.BICUBIC))
    value = policies.OPERATIONS[name].trivial * share
    given = torch.from_numpy(image.copy()).permute(2, 0, 1)
    bilinear = v2.InterpolationMode.BILINEAR
    policy = v2.TrivialAugmentWide(interpolation=bilinear, fill=0)
    kind = {"shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY"}
    theirs = policy._apply_image_or_video_transform(given, kind.get(name, "Rotate"), value, bilinear, {})
    theirs = theirs.permute(1, 2, 0).numpy().astype(int)
    ours = geometry.map_image(policies.matrix([policies.Step(name, value)], (60, 80)), image, (60, 80))
    inside = geometry.map_image(policies.matrix([policies.Step(name, value)], (60, 80)), image * 0 + 255, (60, 80))
    kernel = np.ones((5, 5))
    interior = np.lib.stride_tricks.sliding_window_view(inside[..., 0] == 255, kernel.shape).all(axis=(2, 3))
    assert interior.sum() > 400
    assert np.abs(ours.astype(int) - theirs)[2:-2, 2:-2][interior].max() <= 8  # OpenCV samples at 1/32 of a pixel


@pytest.mark.parametrize("value", [-0.9, -0.3, 0.6, 0.99])
def test_changes_are_torchvisions(value):
    image = photo(33, 47)
    given = torch.from_numpy(image.copy()).permute(2, 0, 1)
    pairs = {
        "brightness": functional.adjust_brightness(given, 1 + value),
        "contrast": functional.adjust_contrast(given, 1 + value),
        "color": functional.adjust_saturation(given, 1 + value),
        "sharpness": functional.adjust_sharpness(given, 1 + value),
        "autocontrast": functional.autocontrast(given),
        "equalize": functional.equalize(given),
        "invert": functional.invert(given),
    }
    for name, theirs in pairs.items():
        ours = policies.change([policies.Step(name, value)], image).astype(int)
        assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).max() <= 1, name
    for magnitude in (0, 10, 20, 30):
        ours = policies.change([policies.Step("posterize", 6 * magnitude / 30)], image)
        bits = int((8 - (torch.arange(31) / (30 / 6))).round().int()[magnitude])
        np.testing.assert_array_equal(ours, functional.posterize(given, bits).permute(1, 2, 0).numpy())
        ours = policies.change([policies.Step("solarize", 255 * magnitude / 30)], image)
        threshold = 255 * float(torch.linspace(1, 0, 31)[magnitude])
        theirs = functional.solarize(given, threshold).permute(1, 2, 0).numpy()
        assert (ours != theirs).mean() < 0.01  # a value on the threshold may go either way in float32


@pytest.mark.parametrize(("ours", "theirs"), [("rand", v2.RandAugment), ("trivial", v2.TrivialAugmentWide)])
def test_the_ranges_are_torchvisions(ours, theirs):
    space = theirs._AUGMENTATION_SPACE
    names = {name.replace("_", "").lower(): name for name in policies.STANDARD}
    assert {name.lower() for name in space} == set(names)
    sides = {"translate_x": 60, "translate_y": 40} if ours == "rand" else {}
    for their_name, (magnitudes, signed) in space.items():
        name = names[their_name.lower()]
        strongest = getattr(policies.OPERATIONS[name], ours) * sides.get(name, 1)
        assert policies.OPERATIONS[name].signed == signed
        found = magnitudes(31, 40, 60)
        if found is None:
            assert strongest == 0
        elif name in ("posterize", "solarize"):
            start = 8 if name == "posterize" else 1
            assert start - float(found[-1]) == pytest.approx(strongest if name == "posterize" else strongest / 255)
        else:
            assert float(found[-1]) == pytest.approx(strongest, rel=1e-6)
