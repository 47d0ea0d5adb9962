"""Files are found by the names that lists from elsewhere give them."""

import os
import unicodedata

import pytest

from mapjax.data import lookup

NFC, NFD = (unicodedata.normalize(form, "Café Ünï.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def files(tmp_path):
    """Some files with odd names."""
    names = [f"a/{NFD}", "a/x y.jpg", "a/one.JPG", "Dir/two.png", "b/100%.png", "b/p%20q.png", "b/s.png", "b/s.jpg"]
    for name in [*names, "b/T.png", "b/t.png", "three.tif", "a/\udcc3\udcff.jpg", "c\\d.png", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return lookup.Files(tmp_path)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a/x y.jpg", "a/x y.jpg"),
        (f"a/{NFC}", f"a/{NFD}"),
        ("a\\x y.jpg", "a/x y.jpg"),
        (".\\a\\x%20y.jpg", "a/x y.jpg"),
        ("a%2Fx%20y.JPG", "a/x y.jpg"),
        ("./a//one.jpg", "a/one.JPG"),
        ("a/one", "a/one.JPG"),
        ("a/one.jpeg", "a/one.JPG"),
        ("dir/two.PNG", "Dir/two.png"),
        ("dir/two.webp", "Dir/two.png"),
        ("b/100%.png", "b/100%.png"),
        ("b/p q.png", "b/p%20q.png"),
        ("three", "three.tif"),
        (" three.tif ", "three.tif"),
        ("a/%C3%FF.jpg", "a/\udcc3\udcff.jpg"),
        ("c\\d.png", "c\\d.png"),
        ("b/t.png", "b/t.png"),
        ("b/s", None),  # two
        ("b/T.PNG", None),
        ("b/s.txt", None),
        ("notes", None),  # no image
        ("../three.tif", None),
        ("nowhere/x.jpg", None),
        ("", None),
        ("a\0b", None),
        ("/", None),
    ],
)
def test_spellings(files, written, found):
    assert files.find(written) == found


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("a/tone.JPG", "a/one.JPG"),
        ("Dir/sub/two.png", "Dir/two.png"),
        ("photos/a/one.jpg", "a/one.JPG"),
        ("C:\\Users\\me\\data\\Dir\\two.png", "Dir/two.png"),
        ("/home/me/Dir/two.png", "Dir/two.png"),
        ("zzzzzzzz", None),
    ],
)
def test_the_nearest_is_named(files, written, near):
    assert files.find(written) is None and files.nearest(written) == near
    assert files.hint(written) == ("" if near is None else f" (is {near!r} meant?)")


def test_absolute_paths_are_taken_as_they_are(files, tmp_path):
    assert files.find(os.path.join(tmp_path, "three.tif")) == f"{tmp_path}/three.tif"
