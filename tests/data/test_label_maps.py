"""What masks hold becomes classes, against a lookup pixel by pixel; what they should not hold is named."""

import io

import numpy as np
import PIL.Image
import pytest

from mapjax.data.formats import class_lists, label_maps
from mapjax.errors import UserError
from mapjax.stages import VOID

rng = np.random.default_rng(0)
NAMES = ("sky", "road", "void", "car")
PALETTE = [("sky", 70, 130, 180), ("road", 128, 64, 128), ("void", 0, 0, 0), ("car", 0, 0, 142)]
IDS = rng.integers(0, 4, (20, 30)).astype(np.uint8)
COLOURS = np.array([colour[1:] for colour in PALETTE], np.uint8)[IDS]
EXPECTED = np.array([0, 1, VOID, 2], np.uint8)[IDS]


def save(path, image, **options):
    file = path / "mask.png"
    (PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, **options)
    return str(file)


def indexed(ids, palette):
    image = PIL.Image.fromarray(ids).convert("L")
    image.putpalette([value for colour in palette for value in colour[1:]])
    return image


def coding(**more):
    return label_maps.make_coding(NAMES, "classes.txt", **more)


def read(file, one, size=(20, 30)):
    return label_maps.read(file, one, size)


def test_ids_become_classes_without_gaps(tmp_path):
    one = coding()
    assert one.classes == ("sky", "road", "car") and one.ids == (0, 1, 3)
    np.testing.assert_array_equal(read(save(tmp_path, IDS), one), EXPECTED)
    for image in (indexed(IDS, PALETTE), np.dstack([IDS] * 3), IDS.astype(np.uint16)):
        np.testing.assert_array_equal(read(save(tmp_path, image), one), EXPECTED)
    np.testing.assert_array_equal(read(save(tmp_path, indexed(IDS, PALETTE), bits=2), one), EXPECTED)
    few = save(tmp_path, IDS == 1)
    np.testing.assert_array_equal(read(few, one), IDS == 1)


def test_a_palette_gives_colours_their_classes(tmp_path):
    one = coding(palette=PALETTE)
    for image in (COLOURS, np.dstack([COLOURS, np.full((20, 30), 255, np.uint8)])):
        np.testing.assert_array_equal(read(save(tmp_path, image), one), EXPECTED)
    order = [3, 1, 0, 2]  # the file's own palette counts, whatever its order
    other = indexed(np.argsort(order).astype(np.uint8)[IDS], [PALETTE[n] for n in order])
    np.testing.assert_array_equal(read(save(tmp_path, other), one), EXPECTED)
    np.testing.assert_array_equal(read(save(tmp_path, IDS), one), EXPECTED)  # one channel: ids


def test_what_is_void_can_be_said():
    assert coding(void=0).classes == coding(void="sky").classes == ("road", "car")
    assert coding(void=(1, 9)).classes == ("sky", "car") and coding(void=9).known[9]
    assert coding(void="9, sky").classes == coding(void="(0, 9)").classes == ("road", "car")
    everything = coding(void="unlisted")
    assert everything.classes == ("sky", "road", "car") and everything.known.all()
    assert coding(classes=("car", "sky")).table[:5].tolist() == [1, VOID, VOID, 0, VOID]
    assert coding(classes=("void", "car")).table[:4].tolist() == [VOID, VOID, 0, 1]
    twice = label_maps.make_coding(["a", "void", "b", "a", "void"], "")
    assert twice.table[:5].tolist() == [0, VOID, 1, 0, VOID] and twice.ids == (0, 2)


@pytest.mark.parametrize(
    ("image", "more", "words"),
    [
        (np.full((20, 30), 4, np.uint8), {}, r"mask\.png has the id 4 \(row 0, column 0\), and classes\.txt names the"),
        (np.full((20, 30), 300, np.uint16), {}, "has the id 300 .*add it there, or say data.void=300"),
        (COLOURS, {}, r"mask\.png is in colours; write what they mean to palette\.txt"),
        (COLOURS + np.uint8(1), {"palette": PALETTE}, r"has the colour \(.*\) \(row 0, column 0\), which palette="),
        (IDS[1:], {}, r"has 19×30 pixels \(height × width\), and its image has 20×30"),
        (PIL.Image.new("CMYK", (30, 20)), {}, "is an image of the kind CMYK; save masks as PNG"),
    ],
)
def test_what_a_mask_should_not_hold_is_named(image, more, words, tmp_path):
    file = tmp_path / "mask.png"
    photo = PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image
    photo.save(file, "TIFF" if photo.mode == "CMYK" else "PNG")
    with pytest.raises(UserError, match=words):
        read(str(file), coding(**more))


def test_a_broken_mask_is_named(tmp_path):
    whole = io.BytesIO()
    PIL.Image.fromarray(rng.integers(0, 255, (20, 30), np.uint8)).save(whole, "PNG")
    (tmp_path / "mask.png").write_bytes(whole.getvalue()[:200])
    with pytest.raises(UserError, match=r"mask\.png is not a mask that can be read \(.*\); write it again"):
        read(str(tmp_path / "mask.png"), coding())
    with pytest.raises(UserError, match="there is no such mask"):
        read(str(tmp_path / "none.png"), coding())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": []}, "classes.txt must name from 1 to 255 classes.*names 0"),
        ({"names": [str(n) for n in range(256)]}, "it names 256"),
        ({"void": "rode"}, r"void='rode' is no id, and classes\.txt does not name it\. Did you mean 'road'"),
        ({"void": 256}, "void=256 must be ids from 0 to 255"),
        ({"classes": ("cars",)}, r"classes\.txt has no class 'cars'\. Did you mean 'car'"),
        ({"palette": [*PALETTE, ("bus", 1, 1, 1)]}, r"classes\.txt has no class 'bus'"),
        ({"palette": PALETTE[1:]}, r"the palette has no colour for the class 'sky' of classes\.txt"),
    ],
)
def test_a_coding_that_cannot_be_is_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        label_maps.make_coding(options.pop("names", NAMES), "classes.txt", **options)


def test_palettes_are_read_in_their_usual_forms(tmp_path):
    file = tmp_path / "palette.txt"
    file.write_text("# name r g b\nsky 70 130 180\n128 64 128\troad\n\nlane mark: 1,2,3::\ncar, 0, 0, 142\nb 2:9,9,9::")
    assert class_lists.read_palette(file) == [
        ("sky", 70, 130, 180), ("road", 128, 64, 128), ("lane mark", 1, 2, 3), ("car", 0, 0, 142), ("b 2", 9, 9, 9),
    ]  # fmt: skip
    assert class_lists.palette_of([("sky", 1, 2, 3), ["a", 0, 0, 0]], "") == [("sky", 1, 2, 3), ("a", 0, 0, 0)]
    for line in ("sky 1 2", "sky 1 2 256", "sky", "sky 1 2 -3", "sky 1.0 2 3"):
        with pytest.raises(UserError, match="must be a name and red, green, blue from 0 to 255"):
            class_lists.palette_of([line], "palette=")
    with pytest.raises(UserError, match=r"gives 'b' and 'a' the same colour \(1, 2, 3\)"):
        class_lists.palette_of(["a 1 2 3", "b 1 2 3"], "palette=")


def test_lists_of_classes_are_read(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffsky\n\n road \r\nvoid\nvoid\n", "utf-8")
    assert class_lists.read_names(file) == ["sky", "road", "void", "void"]
    file.write_text("sky\nroad\nsky\n")
    with pytest.raises(UserError, match=r"classes\.txt names 'sky' twice"):
        class_lists.read_names(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"classes\.txt cannot be read as text"):
        class_lists.read_names(file)


def find(root, **more):
    return label_maps.find_coding(root, **{"classes": None, "void": None, "palette": None, **more})


def test_the_list_of_classes_is_found(tmp_path):
    assert find(tmp_path, classes="b; a").classes == ("b", "a")
    assert find(tmp_path, default=PALETTE).classes == ("sky", "road", "car")
    assert find(tmp_path, palette="b 1 1 1; a 2 2 2").classes == ("b", "a")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,0,0::\n")
    assert find(tmp_path, default=PALETTE).classes == ("background", "cat")
    (tmp_path / "palette.txt").write_text("sky 1 1 1\nvoid 0 0 0\nroad 2 2 2\n")
    assert find(tmp_path).classes == ("sky", "road") and find(tmp_path, classes=("road",)).classes == ("road",)
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    assert find(tmp_path).classes == ("road", "sky") and find(tmp_path).colour_classes.tolist() == [VOID, 1, 0]
    with pytest.raises(UserError, match="must name every class once; 'road' is there twice"):
        find(tmp_path, classes=("road", "road"))
