"""A program whose output no one reads any more, or whose disk is full, goes on."""

import io
import logging
import os
import subprocess
import sys

import pytest
from rich.table import Table
from rich.text import Text

from mapjax.errors import UserError
from mapjax.runtime import console
from mapjax.runtime import log as logs

PROGRAM = """
import sys
from mapjax.errors import UserError
from mapjax.runtime import console
from mapjax.runtime import log as logs
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


def test_files_do_not_get_the_numbers_of_closed_output():
    program = "from mapjax.runtime import console; console.outlast(); import sys; sys.exit(open(sys.argv[1]).fileno())"
    shell = f'exec "{sys.executable}" -c "{program}" "{__file__}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", shell]).returncode > 2


def test_output_in_memory_is_left_as_it_is(monkeypatch, capsys):
    before = sys.stdout
    console.outlast()
    assert sys.stdout is before


def test_names_from_files_do_not_steer_the_terminal(capsys):
    table = Table("\x1b]0;title\x07 head")
    table.add_row("a\x1b[2J\nb")
    shown = logs.Terminal(file=io.StringIO(), width=60, markup=False)
    shown.print("dog\x1b[31m\u202egnp.exe", "\x1b[1m")
    shown.print(table)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert r"dog\x1b[31m\u202egnp.exe" in text and r"a\x1b[2J" in text
    assert str(UserError("x\x1b[0m\n\x9b1my.png is missing")) == r"x\x1b[0m\n\x9b1my.png is missing"


def test_nor_does_the_log():
    record = console.Harmless("mapjax", logging.WARNING, "", 0, "%s\nis cut short", ("\x1b[2Ja.png",), None)
    assert logging.Formatter().format(record) == "\\x1b[2Ja.png\nis cut short"


def test_a_sentence_is_no_page():
    text = str(UserError(f"x has the name {'y' * 5000}; choose another."))
    assert len(text) < 1600 and text.startswith("x has the name") and text.endswith("choose another.")


def test_colours_of_our_own_stay():
    shown = logs.Terminal(file=io.StringIO(), force_terminal=True, color_system="standard", width=40)
    shown.print(Text("red", style="red"))
    assert shown.file.getvalue() == "\x1b[31mred\x1b[0m\n"  # type: ignore[attr-defined]
