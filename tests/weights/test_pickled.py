"""Plain data comes out as pickle put it in; what runs code is refused by name; damage is told, never followed."""

import argparse
import collections
import contextlib
import math
import os
import pathlib
import pickle
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.errors import UserError
from mapjax.weights import budget
from mapjax.weights.pickled import Call, Executable, NotPlain, interpret

PROTOCOLS = range(5)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.none() | st.integers(1 - 2**63, 2**63 - 1) | st.text() | st.binary() | st.floats(allow_nan=False)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=30,
)


class Runs:
    """What a hostile file holds: a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_comes_out_as_it_went_in(value, protocol):
    assert same(interpret(pickle.dumps(value, protocol), {}), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_containers_become_dicts_and_lists(protocol):
    value = {"ordered": collections.OrderedDict(b=1, a=2), "set": {1, 2}}
    found = interpret(pickle.dumps(value, protocol), {})
    assert list(found["ordered"].items()) == [("b", 1), ("a", 2)] and type(found["ordered"]) is dict
    assert sorted(found["set"]) == [1, 2]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_programs_arguments_are_passed_over(protocol):
    value = {"args": argparse.Namespace(lr=0.1, layers=[1, 2]), "epoch": 3}
    assert interpret(pickle.dumps(value, protocol), {}) == {"args": {}, "epoch": 3}


def test_a_list_may_hold_itself():
    value = []
    value.append(value)
    found = interpret(pickle.dumps(value), {})
    assert found[0] is found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, f"{os.mkdir.__module__}.mkdir"), (eval, "eval"), (exec, "exec"), (getattr, "getattr"), (open, "open")],
)
def test_a_call_is_refused_by_name_and_not_made(function, name, protocol, tmp_path):
    target = tmp_path / "made"
    data = pickle.dumps({"epoch": 3, "weights": Runs(function, str(target))}, protocol)
    with pytest.raises(Executable, match=rf"executable pickle, which is not run: it asks for '\S*{name}'"):
        interpret(data, {})
    assert not target.exists()


class Attributes:
    """A class of somebody's: its instances are refused too, not only functions."""


def test_a_class_is_refused_by_name():
    with pytest.raises(Executable, match=r"asks for '\S*test_pickled.Attributes'"):
        interpret(pickle.dumps(Attributes()), {})


def test_an_instruction_that_calls_in_another_way_is_refused():
    for data, name in [
        (b"(S'echo'\nios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nS'echo'\no.", "asks for 'os.system'"),
        (b"\x82\x01.", "EXT1"),
        (b"\x80\x04)}\x92.", "NEWOBJ_EX"),
    ]:
        with pytest.raises(NotPlain, match=name):
            interpret(data, {})


def test_what_is_known_can_be_called_but_not_changed():
    made = Call(lambda *arguments: ("made", arguments))
    known = {"our.function": made, "our.value": 7}
    assert interpret(b"cour\nfunction\n(I1\nI2\ntR.", known) == ("made", (1, 2))
    # BUILD with a state would set attributes, as {"make": 1} or (None, {"make": 1}), on what is known.
    for state in (b"}S'make'\nI1\ns", b"N}S'make'\nI1\ns\x86"):
        assert interpret(b"cour\nfunction\n" + state + b"b.", known) is made
    for data in (b"cour\nvalue\n)R.", b"I3\n)R.", b"cour\nfunction\nI1\nR.", b"cour\nfunction\n)R)R."):
        with pytest.raises(NotPlain, match="cut short or damaged"):
            interpret(data, known)
    with pytest.raises(Executable, match=r"our\.function\.__globals__"):
        interpret(b"cour\nfunction.__globals__\n.", known)


def test_persistent_ids():
    data = b"\x80\x02(X\x01\x00\x00\x00sK\x05tQ."
    assert interpret(data, {}, lambda identity: [identity]) == [("s", 5)]
    with pytest.raises(NotPlain, match="persistent"):
        interpret(data, {})


def test_a_name_cannot_write_to_the_terminal():
    with pytest.raises(Executable) as caught:
        interpret(b"c\x1b[31mos\n" + b"x" * 1000 + b"\n.", {})
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 300


def test_it_takes_no_time_or_memory_that_the_file_does_not_have():
    start = time.monotonic()
    doubled = b")" + b"q\x00h\x00\x86" * 60  # a tuple whose hash visits 2^60 tuples, as the key of a dict
    assert interpret(b"\x80\x02}" + doubled + b"K\x01s.", {}) == {}
    assert interpret(b"\x80\x02K\x01r\xff\xff\xff\xff.", {}) == 1  # remembered at place 2^32 - 1
    for length in (b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x8d" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f"):
        with pytest.raises(NotPlain):
            interpret(b"\x80\x04" + length + b"x.", {})
    assert time.monotonic() - start < 5


def test_every_cut_is_told():
    data = pickle.dumps({"a": [1, 2.5, "text", b"bytes"], "b": ((1, 2, 3, 4), None, True, 2**80)}, 2)
    for end in range(len(data)):
        with pytest.raises(NotPlain, match="cut short or damaged"):
            interpret(data[:end], {})


@pytest.mark.parametrize("data", [b"c_codecs\nencode\n.", b"(]}X\x01\x00\x00\x00dc_codecs\nencode\nst."])
def test_a_name_that_is_never_called_is_damage(data):
    with pytest.raises(NotPlain, match="cut short or damaged"):
        interpret(data, {})


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_told_or_harmless(data):
    whole = pickle.dumps({"a": [1, {"b": (2.5, "text")}], "c": collections.OrderedDict(d=b"x")}, 2)
    damaged = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotPlain):  # and no other exception
        assert is_plain(interpret(bytes(damaged), {}))


def is_plain(value):
    """Numbers, texts and containers of them: nothing that could do anything."""
    if type(value) is dict:
        return all(is_plain(key) and is_plain(one) for key, one in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return type(value) in (type(None), bool, int, float, str, bytes)


@pytest.mark.parametrize(
    "program",
    [
        b"](c__builtin__\nset\n](" + b"K\x01" * 900 + b"eq\x01\x85R" + b"c__builtin__\nset\nh\x01\x85R" * 9 + b"e.",
        b"(" + b"]" * 6000 + b"t.",
        b"(X\x00\x10\x00\x00" + b"x" * 4096 + b"q\x01" + b"c_codecs\nencode\nh\x01N\x86R" * 2 + b"t.",
    ],
    ids=["sets of one list", "empty lists", "bytes of one text"],
)
def test_elements_are_counted(program, monkeypatch):
    monkeypatch.setattr(budget, "ELEMENTS", 5000)
    with pytest.raises(NotPlain, match=r"more than 5,000 elements of a pickle, .* MAPJAX_WEIGHTS_BUDGET=10 in"):
        interpret(b"\x80\x02" + program, {})
    monkeypatch.setenv(budget.VARIABLE, "10")
    assert interpret(b"\x80\x02" + program, {})
    monkeypatch.setenv(budget.VARIABLE, "much")
    with pytest.raises(UserError, match="MAPJAX_WEIGHTS_BUDGET='much' should be a number"):
        interpret(b"\x80\x02" + program, {})


def test_bytes_are_counted_before_they_are_read(tmp_path):
    for start in (b"\x80\x02\x8e" + struct.pack("<Q", 2**40), b"\x80\x02V"):
        path = tmp_path / "sparse"
        path.write_bytes(start)
        os.truncate(path, 2**41)  # of which nothing is on the disk
        with path.open("rb") as file, pytest.raises(NotPlain, match="more than 67,108,864 bytes of a pickle"):
            interpret(file, {})


def test_long_integers_are_no_keys():
    alike = {i * (2**61 - 1): None for i in range(100)}  # all of one hash: filling a dict would take their square
    assert len(interpret(pickle.dumps(alike, 2), {})) < 6


def test_nesting_is_no_recursion():
    assert interpret(b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".", {})


def test_what_a_training_notes_is_passed_over():
    value = {"best": np.float64(0.9), "per_class": np.zeros(3), "place": pathlib.PosixPath("a"), "epoch": 3}
    value |= {"counts": collections.Counter("aab"), "lists": collections.defaultdict(list, a=[1])}
    found = interpret(pickle.dumps(value, 2), {})
    assert found["epoch"] == 3 and found["best"] is None and found["counts"] == {"a": 2, "b": 1}
    assert found["per_class"] is None and found["place"] is None and found["lists"] == {"a": [1]}
    assert interpret(b"cpathlib._local\nPosixPath\n(S'a'\ntR.", {}) is None  # as Python 3.13 writes a path
