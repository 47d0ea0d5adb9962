"""A program whose output no one reads any more, or whose disk is full, goes on."""

import os
import subprocess
import sys

import pytest

from mapjax.runtime import console

PROGRAM = """
import sys
from mapjax.runtime import console
console.outlast()
for number in range(200):
    print("line", number, flush=True)
    print("complaint", number, file=sys.stderr)
sys.exit(7)
"""


def test_a_pipe_without_a_reader_takes_everything():
    reader, writer = os.pipe()
    os.close(reader)
    with console.Lasting(writer, "w") as file:
        assert [file.write(b"abc") for _ in range(3)] == [3, 3, 3]


@pytest.mark.parametrize("where", ["closed", "/dev/full"])
def test_a_program_outlasts_its_output(where):
    if where == "closed":
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.wait(60) == 7
    else:
        with open(where, "wb") as full:
            assert subprocess.run([sys.executable, "-c", PROGRAM], stdout=full, stderr=full).returncode == 7


def test_output_in_memory_is_left_as_it_is(monkeypatch, capsys):
    before = sys.stdout
    console.outlast()
    assert sys.stdout is before
