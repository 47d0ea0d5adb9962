"""Names that are no text are kept, and shown escaped; nothing printed fails on a terminal without our signs."""

import contextlib
import io
import os
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from mapjax.data.records import Packed, unlabelled
from mapjax.errors import UserError
from mapjax.runtime import log, names

GBK = os.fsdecode(b"\xb9\xb7/\xc3\xff.png")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ünï → …", "plain ünï → …"),
        (GBK, r"\xb9\xb7/\xc3\xff.png"),
        ("\ud800", r"\ud800"),
        ("a\x1b[31m\r\nb\x9b\u202e", r"a\x1b[31m\r\nb\x9b\u202e"),
    ],
)
def test_what_people_see(name, shown):
    assert names.shown(name) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_shown_and_hashed(name):
    names.shown(name).encode("utf-8")
    assert isinstance(names.encoded(name), bytes)


@given(st.binary(max_size=9))
def test_the_bytes_are_those_on_the_disk(data):
    assert names.encoded(data.decode("utf-8", "surrogateescape")) == data


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_nothing_printed_fails(monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    names.settle_streams()
    print(f"starting JAX … 2 → 3, {GBK}, 猫")
    print(f"error: {GBK}", file=sys.stderr)
    table = Table(title="4×5 – µ")
    table.add_row(GBK)
    log.Log(None).say(table)
    with log.Log(None).bar("training", 3):
        pass
    text, complaint = (stream.flush() or stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert complaint == "error: \\xb9\\xb7/\\xc3\\xff.png\n" and text.count("\\xb9\\xb7") == 2
    assert ("starting JAX ... 2 -> 3" in text) == (encoding != "utf-8")
    assert ("4x5 - u" in text) == (encoding == "ascii") and ("猫" in text) == (encoding == "utf-8")


def test_streams_that_cannot_be_set_are_left(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    names.settle_streams()


def test_metrics_of_a_class_whose_name_is_no_text(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(RecordWriter, "write", lambda self, data: written.append(event_pb2.Event.FromString(data)))
    with contextlib.closing(log.Log(tmp_path)) as one:
        one.record("eval", 3, {f"AP/{GBK}": 0.5})
    assert [value.tag for event in written for value in event.summary.value] == [r"eval/AP/\xb9\xb7/\xc3\xff.png"]
    assert log.read(tmp_path / "metrics.jsonl") == [{"kind": "eval", "step": 3, f"AP/{GBK}": 0.5}]


def test_records_of_files_whose_names_are_no_text_have_a_fingerprint(tmp_path):
    found = {Packed(tmp_path, [unlabelled(1, file, (4, 5))]).fingerprint() for file in (GBK, GBK[:-1], "\ud800")}
    assert len(found) == 3


def test_a_folder_that_libraries_cannot_take_is_told(tmp_path):
    names.require_text(tmp_path / "ünï", "--out")
    with pytest.raises(UserError, match=re.escape(rf"--out {tmp_path}/\xb9\xb7/\xc3\xff.png: its name is no UTF-8")):
        names.require_text(tmp_path / GBK, "--out")
