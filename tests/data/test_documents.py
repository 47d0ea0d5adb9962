"""JSON and XML in other encodings than UTF-8."""

import xml.etree.ElementTree as ElementTree

import pytest

from mapjax.data import documents

CAT = "\u732b"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_json_in_any_encoding_of_its_own(encoding):
    assert documents.parse_json(f'{{"name": "{CAT}"}}'.encode(encoding)) == {"name": CAT}


def test_bytes_of_names_in_json_are_kept():
    assert documents.parse_json(b'{"file_name": "\xb9\xb7.png"}') == {"file_name": "\udcb9\udcb7.png"}
    with pytest.raises(ValueError, match="Expecting"):
        documents.parse_json(b"{\xb9")


@pytest.mark.parametrize("encoding", ["utf-8", "GBK", "gb2312", "Shift_JIS", "big5", "utf-16"])
def test_xml_in_the_encoding_that_it_declares(encoding):
    letter = CAT if encoding not in ("gb2312", "big5") else "\u4e2d"
    text = f"<?xml version='1.0' encoding='{encoding}'?>\n<a><name>{letter}</name></a>"
    assert documents.parse_xml(text.encode(encoding)).findtext("name") == letter


def test_xml_with_bytes_that_are_none_is_read_with_them_escaped():
    assert documents.parse_xml(b"<a><name>\xb9\xb7</name></a>").findtext("name") == r"\xb9\xb7"
    unknown = b'<?xml version="1.0" encoding="none-such"?><a><name>b</name></a>'
    assert documents.parse_xml(unknown).findtext("name") == "b"
    for broken in (b"<a>", b"", b"\xff<a>", b"<?xml encoding='utf-7'?>+ADw-a/>"):
        with pytest.raises((ElementTree.ParseError, ValueError, LookupError)):
            documents.parse_xml(broken)
