"""Archives are read in place: by any thread, after pickling, and not when they are broken."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mapjax.data import budgets
from mapjax.data.formats import archive
from mapjax.errors import UserError

RNG = np.random.default_rng(0)
FILES = {f"a/{i:02d}": RNG.integers(0, 4 if i % 2 else 256, 500 * i, np.uint8).tobytes() for i in range(40)}
FILES |= {"ünï/ç": b"name", "long/" + "n" * 180: b"long"}


def write_zip(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w") as packed:
        for number, (name, data) in enumerate(files.items()):
            info = zipfile.ZipInfo(name)
            info.compress_type = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            info.extra = options.get("extra", b"")
            packed.writestr(info, data)
    return str(path)


def write_tar(path, files=FILES, **options):
    with tarfile.open(path, "w", **options) as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return str(path)


WRITERS = {
    "zip": write_zip,
    "pax": lambda path: write_tar(path, format=tarfile.PAX_FORMAT),
    "gnu": lambda path: write_tar(path, format=tarfile.GNU_FORMAT),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_files_are_those_that_were_packed(tmp_path, kind):
    listing = archive.read_listing(WRITERS[kind](tmp_path / "x"))
    assert listing.files == sorted(FILES)
    assert list(listing.members) == [FILES[name] for name in listing.files]
    some = pickle.loads(pickle.dumps(listing.members.take(np.array([7, 3]))))  # noqa: S301
    assert list(some) == [FILES[listing.files[7]], FILES[listing.files[3]]]


def test_an_extra_field_longer_than_expected(tmp_path):
    listing = archive.read_listing(write_zip(tmp_path / "x.zip", extra=b"\x99\x99\xc8\x00" + bytes(200)))
    assert list(listing.members) == [FILES[name] for name in listing.files]


def test_folders_are_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("empty/", b"")
        packed.writestr("full/a", b"1")
    assert archive.read_listing(tmp_path / "x.zip").folders == ["empty"]


def test_names_that_are_no_text_keep_their_bytes(tmp_path):
    raw = ["\u732b".encode("gbk") + b"/" + bytes([0x95, 0x5C]) + b".png", "caf\u00e9/1.png".encode(), b"a\\b.png"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for number, name in enumerate(raw):
            info = zipfile.ZipInfo(name.decode("latin-1"))
            info.filename = str(number) * len(name)  # of a length to be replaced below
            packed.writestr(info, str(number).encode() * 99)
    data = (tmp_path / "x.zip").read_bytes()
    for number, name in enumerate(raw):
        data = data.replace(str(number).encode() * len(name) + str(number).encode() * 99, name + b"%d" % number * 99)
        data = data.replace(str(number).encode() * len(name) + b"PK", name + b"PK")
    (tmp_path / "x.zip").write_bytes(data)
    write_tar(tmp_path / "x.tar", {name.decode("utf-8", "surrogateescape"): b"" for name in raw})
    names = [os.fsdecode(raw[0]), "caf\u00e9/1.png", "a/b.png"]
    listing = archive.read_listing(tmp_path / "x.zip")
    assert listing.files == sorted(names) == archive.read_listing(tmp_path / "x.tar").files
    assert [listing.members[listing.files.index(name)][:1] for name in names] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_links_are_followed(tmp_path, kind):
    links = {
        "val": "train",
        "train/cat/b": "a",
        "one/c": "../train/cat/a",
        "train/ring": "..",
        "out": "../../x",
        "z": "z",
    }
    if kind == "tar":
        with tarfile.open(tmp_path / "x", "w") as packed:
            for name, to in {"train/cat/a": b"first", **links}.items():
                info = tarfile.TarInfo(name)
                if isinstance(to, bytes):
                    info.size = len(to)
                    packed.addfile(info, io.BytesIO(to))
                else:
                    info.type, info.linkname = tarfile.SYMTYPE, to
                    packed.addfile(info)
            info = tarfile.TarInfo("hard")
            info.type, info.linkname = tarfile.LNKTYPE, "train/cat/a"
            packed.addfile(info)
    else:
        with zipfile.ZipFile(tmp_path / "x", "w") as packed:
            packed.writestr("train/cat/a", b"first")
            for name, to in {**links, "hard": "train/cat/a"}.items():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                packed.writestr(info, to)
    listing = archive.read_listing(tmp_path / "x")
    assert listing.files == ["hard", "one/c", "train/cat/a", "train/cat/b", "val/cat/a"]
    assert set(listing.members) == {b"first"}


def test_threads_share_one_descriptor(tmp_path):
    listing = archive.read_listing(write_zip(tmp_path / "x.zip"))
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        rows = RNG.integers(0, len(listing.files), 2000).tolist()
        found = list(pool.map(listing.members.__getitem__, rows))
    assert found == [FILES[listing.files[row]] for row in rows]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del listing
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_damaged_member_comes_back_and_does_not_raise(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a": b"stored", "b": bytes(5000)})
    data = bytearray((tmp_path / "x.zip").read_bytes())
    with zipfile.ZipFile(path) as packed:
        start = packed.getinfo("b").header_offset
    data[start + 31 : start + 36] = b"\xff" * 5
    (tmp_path / "x.zip").write_bytes(data)
    found = list(archive.read_listing(path).members)
    assert found[0] == b"stored" and found[1] != bytes(5000)


def test_mistakes(tmp_path):
    def refuse(words, data=None, name="x"):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=words):
            archive.read_listing(tmp_path / name)

    zipped = (tmp_path / "good.zip", write_zip(tmp_path / "good.zip"))[0].read_bytes()
    tarred = (tmp_path / "good.tar", write_tar(tmp_path / "good.tar"))[0].read_bytes()
    refuse("nothing: there is no such file", name="nothing")
    refuse(r"compressed as a whole \(gzip\) and cannot be read in place; unpack it", gzip.compress(tarred))
    refuse("not a whole .zip or .tar archive", zipped[: len(zipped) // 2])
    refuse("not a whole .zip or .tar archive", b"not an archive of any kind" * 100)
    refuse("not a whole .zip or .tar archive", b"")
    refuse("not a whole .zip or .tar archive|is cut short", tarred[: len(FILES["a/39"]) + 3000])
    encrypted = bytearray(zipped)
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    refuse("is encrypted", bytes(encrypted))
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("a", b"1" * 100)
    refuse("packed by a method other than deflate")


def test_a_member_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(budgets.UNPACKED, str(1 << 20))
    bomb = bytes(3 << 20)
    packed = write_zip(tmp_path / "x.zip", {"a": b"stored", "b": bomb, "c": bytes(8 << 20), "d": b"small"})
    members = archive.read_listing(packed).members
    assert members[0] == b"stored" and members[3] == b"small" and members.begin(1, 4) == bytes(4)
    for row in (1, 2):  # deflated, and as it is
        with pytest.raises(budgets.TooLarge, match=r"x\.zip unpacks to more than 1,048,576 bytes.*MAPJAX_MAX_UNPACKED"):
            members[row]
    monkeypatch.delenv(budgets.UNPACKED)
    assert members[1] == bomb


def test_a_directory_that_lies_of_the_size(tmp_path, monkeypatch):
    monkeypatch.setenv(budgets.UNPACKED, str(1 << 20))
    path = write_zip(tmp_path / "x.zip", {"a": b"", "b": bytes(3 << 20)})
    data = bytearray((tmp_path / "x.zip").read_bytes())
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = (9).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(budgets.TooLarge):
        archive.read_listing(path).members[1]


def test_the_first_bytes_alone(tmp_path):
    for kind, write in WRITERS.items():
        listing = archive.read_listing(write(tmp_path / kind))
        assert [listing.members.begin(row, 9) for row in range(len(listing.files))] == [
            FILES[name][:9] for name in listing.files
        ]
