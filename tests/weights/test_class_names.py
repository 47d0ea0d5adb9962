"""Lists of classes, and the many ways in which a folder may name one."""

import pytest

from mapjax.errors import UserError
from mapjax.weights import class_names


def test_lists():
    imagenet, coco, voc = map(class_names.read, class_names.NAMES)
    assert [len(known.names) for known in (imagenet, coco, voc)] == [1000, 80, 21]
    for known in (imagenet, coco, voc):
        assert len(set(known.names)) == len(known.names) == len(set(known.ids))
        assert class_names.of(known.names) is known
    assert imagenet.names[698] == "palace" and imagenet.ids[0] == "n01440764"
    assert list(imagenet.ids) == sorted(imagenet.ids)  # WordNet's order is the network's
    assert coco.ids[0] == "1" and coco.ids[-1] == "90" and coco.names[-1] == "toothbrush"
    assert voc.names[0] == "background"
    assert class_names.of(("cat", "dog")) is None


@pytest.mark.parametrize(
    "given",
    [
        ("African elephant", "crane", "crane bird"),
        ("african_elephant", "CRANE", "crane-bird"),
        ("n02504458", "n03126707", "n02012849"),
        ("n02504458_African_elephant", "n03126707 crane", "n02012849-crane"),
        ("386", "517", "134"),
        ("0386", "0517", "0134"),
    ],
)
def test_a_class_is_found_by_name_identifier_or_index(given):
    found = class_names.match(given, class_names.read("imagenet"), "folder:x")
    assert found == ("African elephant", "crane", "crane bird")


def test_numbers_are_identifiers_before_they_are_indices():
    coco = class_names.read("coco")
    assert class_names.match(("1", "90"), coco, "folder:x") == ("person", "toothbrush")
    assert class_names.match(("0", "1"), coco, "folder:x") == ("person", "bicycle")


def test_names_that_differ_in_capitals_only():
    """ImageNet has a dog and a garment of one name: n02113186 and n02963159 of WordNet."""
    imagenet = class_names.read("imagenet")
    given = ("Cardigan", "cardigan", "n02113186", "n02963159-Cardigan", "n02113186_cardigan", "7 cardigan")
    found = class_names.match(given, imagenet, "folder:x")
    assert found == ("Cardigan", "cardigan", "Cardigan", "cardigan", "Cardigan", "cardigan")
    message = "'CARDIGAN' may be 'Cardigan' or 'cardigan'; write it so, or by its identifier, n02113186 or n02963159"
    with pytest.raises(UserError, match=message):
        class_names.match(("tench", "CARDIGAN"), imagenet, "folder:x")


def test_a_name_counts_more_than_the_number_before_it():
    coco = class_names.read("coco")
    assert class_names.match(("3_cat", "dog", "17-cat", "999 Dog"), coco, "folder:x") == ("cat", "dog", "cat", "dog")
    with pytest.raises(UserError, match=r"1 of its 2 classes are none of the 80.*'3_lorry'"):
        class_names.match(("3_lorry", "dog"), coco, "folder:x")
    imagenet = class_names.read("imagenet")
    assert class_names.match(("n01440764_Tinca tinca",), imagenet, "folder:x") == ("tench",)
    with pytest.raises(UserError, match="'n01440764_goldfish' has the identifier of 'tench' and the name of another"):
        class_names.match(("n01440764_goldfish",), imagenet, "folder:x")


def test_what_is_no_class_is_said_with_the_near_names():
    given = ("palace", "elephant", "zebr", "386", "n00000001", "qqqq", "xxxx")
    with pytest.raises(UserError) as error:
        class_names.match(given, class_names.read("imagenet"), "folder:mine")
    text = str(error.value)
    assert text.startswith("folder:mine: 6 of its 7 classes are none of the 1000 that these weights know: 'elephant'")
    assert "'Indian elephant' or 'African elephant'" in text and "'zebr' (did you mean 'zebra'" in text
    assert "and 3 more. Name each by the class, its identifier (as n01440764) or its index." in text
