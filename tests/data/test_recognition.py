"""Images are found by content where their names do not say; what no decoder reads is counted by its kind."""

import io
import tarfile
import zipfile

import numpy as np
import PIL.Image
import pytest

from mapjax.data import images, recognition
from mapjax.data.checks import quality
from mapjax.data.formats import folder, masks, voc
from mapjax.errors import UserError
from mapjax.runs import predict

PHOTO = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8))


def encode(form):
    file = io.BytesIO()
    PHOTO.save(file, form)
    return file.getvalue()


IMAGES = {
    "a.jpg": encode("JPEG"),
    "b.jfif": encode("JPEG"),
    "c.JPE": encode("JPEG"),
    "d.avif": encode("AVIF"),
    "e.jp2": encode("JPEG2000"),
    "f.pgm": encode("PPM"),
    "g": encode("PNG"),
    "h.gtiff": encode("TIFF"),
}
OTHERS = {
    "i.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIF image, which no decoder here reads"),
    "j.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), "JXL image, which no decoder here reads"),
    "k.psd": (b"8BPS\0\1" + bytes(30), "PSD image, which no decoder here reads"),
    "l.dng": (encode("TIFF"), "raw image of a camera, which no decoder here reads"),
    "m.bin": (b"BM is no image, and neither is P6", recognition.NO_IMAGE),
    "n.txt": (encode("JPEG"), recognition.NO_IMAGE),
    "o": (b"", recognition.NO_IMAGE),
}
FILES = IMAGES | {name: data for name, (data, _) in OTHERS.items()}


def in_folder(tmp_path):
    for name, data in FILES.items():
        for label in ("cat", "dog"):
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / label / name).write_bytes(data)
    return str(tmp_path)


def in_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in FILES.items():
            packed.writestr(f"cat/{name}", data)
            packed.writestr(f"dog/{name}", data)
    return str(tmp_path / "x.zip")


def in_tar(tmp_path):
    path = in_folder(tmp_path / "x") if (tmp_path / "x").mkdir() is None else ""
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        packed.add(path, "data")
    return str(tmp_path / "x.tar")


@pytest.mark.parametrize("write", [in_folder, in_zip, in_tar])
def test_class_folders(write, tmp_path):
    source = folder.make(split="train", path=write(tmp_path), hold_out=0)
    assert source.classes == ("cat", "dog")
    assert [record["file"] for record in source.records] == [
        f"{label}/{name}" for label in ("cat", "dog") for name in IMAGES
    ]
    assert all(images.read(record["image"]).shape == (6, 9, 3) for record in source.records)
    reasons = {name: reason for reason, where in source.dropped.items() for name in where}
    assert reasons == {f"{label}/{name}": reason for label in ("cat", "dog") for name, (_, reason) in OTHERS.items()}
    assert quality.inspect(source, 1).dropped["HEIF image, which no decoder here reads"] == (2, "cat/i.heic")


def test_few_files_are_opened():
    asked = []
    names = ["a.jpg", "b.png", "b.xml", "b.json", "README", "c.jfif"]
    recognition.others(names, lambda name: asked.append(name) or b"")
    assert asked == ["README", "c.jfif"]


def test_voc_and_masks(tmp_path):
    for kind in ("Annotations", "JPEGImages", "images", "masks"):
        (tmp_path / kind).mkdir()
    for name in ("d.avif", "i.heic"):
        (tmp_path / "JPEGImages" / name).write_bytes(FILES[name])
        (tmp_path / "images" / name).write_bytes(FILES[name])
        (tmp_path / "Annotations" / f"{name[0]}.xml").write_text("<annotation/>")
        PIL.Image.new("L", (9, 6)).save(tmp_path / "masks" / f"{name[0]}.png")
    source = voc.make(split="train", path=str(tmp_path), classes=("cat",), hold_out=0)
    assert [record["file"] for record in source.records] == ["JPEGImages/d.avif"]
    assert source.dropped == {"HEIF image, which no decoder here reads": ["i"]}
    source = masks.make(split="train", path=str(tmp_path), classes=("sky",), hold_out=0)
    assert [record["file"] for record in source.records] == ["images/d.avif"]
    assert source.dropped["HEIF image, which no decoder here reads"] == ["images/i.heic"]


def test_images_to_predict(tmp_path, caplog):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    assert [path.name for path in predict.find_images(tmp_path)] == list(IMAGES)
    assert "1 × HEIF image, which no decoder here reads, such as i.heic" in caplog.text
    for name in IMAGES:
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"the folder holds no image .* passed over: 1 × HEIF image"):
        predict.find_images(tmp_path)
