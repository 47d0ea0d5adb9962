"""Links in folders and archives of images by class."""

import io
import os
import tarfile

import pytest
from folder_sets import SPLIT, content, png, write_folder

from mapjax.data.checks import quality
from mapjax.data.formats import folder
from mapjax.errors import UserError


@pytest.mark.parametrize("first", ["train", "val"])
def test_a_split_that_is_a_link_to_another_is_whole_and_told(tmp_path, first):
    real, link = ("train", "val") if first == "train" else ("val", "train")
    write_folder(tmp_path, content([f"{real}/cat/a.png", f"{real}/dog/b.png"]))
    os.symlink(real, tmp_path / link)
    sources = [folder.make(split=split, path=str(tmp_path)) for split in ("train", "val")]
    assert [[r["file"] for r in one.records] for one in sources] == [
        [f"{split}/cat/a.png", f"{split}/dog/b.png"] for split in ("train", "val")
    ]
    said = quality.overlap(*(quality.inspect(source, 0) for source in sources))
    assert said.startswith("2 of the 2 images of 'val' are in 'train' too")


def test_links_to_files_are_followed_for_the_overlap(tmp_path):
    write_folder(tmp_path / "data", content(SPLIT[:4]))
    os.makedirs(tmp_path / "data" / "val" / "cat")
    os.symlink("../../train/cat/a.png", tmp_path / "data" / "val" / "cat" / "z.png")
    os.symlink("nowhere", tmp_path / "data" / "val" / "nowhere")
    os.symlink("self", tmp_path / "data" / "val" / "self")
    os.symlink("data", tmp_path / "other")
    one, two = (quality.inspect(folder.make(split=s, path=str(tmp_path / "other")), 0) for s in ("train", "val"))
    assert quality.overlap(one, two).startswith("1 of the 1 images of 'val' are in 'train' too")


def test_links_in_an_archive_are_told_too(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for number, name in enumerate(SPLIT[:4]):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            packed.addfile(info, io.BytesIO(png(number)))
        info = tarfile.TarInfo("val")
        info.type, info.linkname = tarfile.SYMTYPE, "train"
        packed.addfile(info)
    one, two = (
        quality.inspect(folder.make(split=split, path=str(tmp_path / "x.tar")), 0) for split in ("train", "val")
    )
    assert quality.overlap(one, two).startswith("4 of the 4 images of 'val' are in 'train' too")


def test_links_that_multiply_are_refused(tmp_path):
    for one in range(8):
        (tmp_path / str(one)).mkdir()
        for other in range(8):
            os.symlink(f"../{other}", tmp_path / str(one) / f"to{other}")
    with pytest.raises(UserError, match="links lead to this folder more than 100 times"):
        folder.make(split="train", path=str(tmp_path))


def test_a_link_to_a_folder_is_followed_and_a_ring_ends(tmp_path):
    write_folder(tmp_path / "elsewhere", content(["a.png", "b.png"]))
    write_folder(tmp_path / "data", content(["cat/c.png"]))
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "dog")
    os.symlink(tmp_path / "data", tmp_path / "data" / "cat" / "ring")
    source = folder.make(split="train", path=str(tmp_path / "data"), hold_out=0)
    assert [record["file"] for record in source.records] == ["cat/c.png", "dog/a.png", "dog/b.png"]
