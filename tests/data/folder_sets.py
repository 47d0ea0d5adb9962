"""Folders and archives of small images, written for tests."""

import io
import tarfile
import zipfile

import PIL.Image

from mapjax.data import images


def png(value):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (5, 4), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def content(names):
    """Name → the bytes of an image of its own; of nothing for a folder or another file."""
    return {name: png(i) if name.lower().endswith(images.EXTENSIONS) else b"" for i, name in enumerate(names)}


def write_folder(root, files):
    for name, data in files.items():
        place = root / name
        (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            place.write_bytes(data)
    return str(root)


def write_zip(root, files, packing=zipfile.ZIP_STORED):
    path = root / f"images-{packing}.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def write_tar(root, files):
    path = root / "images.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size, info.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_deflated(root, files):
    return write_zip(root, files, zipfile.ZIP_DEFLATED)


WRITERS = [write_folder, write_zip, write_deflated, write_tar]


SPLIT = [
    "train/cat/a.png",
    "train/cat/b.png",
    "train/dog/old/c.PNG",
    "train/dog/d.jpg",
    "valid/dog/e.png",
    "test/cat/f.png",
]
