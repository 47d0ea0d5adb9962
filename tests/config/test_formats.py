"""Formats are found by their files, and said by the help, without importing any."""

import re
import subprocess
import sys

import pytest

from mapjax.cli import train
from mapjax.config import formats, load, parts
from mapjax.errors import UserError


def test_those_found_are_those_that_can_be_made():
    assert sorted(formats.known()) == parts.names("data.formats")
    assert [name for name, one in formats.known().items() if one.embedded] == ["digits", "scenes"]
    for name, one in formats.known().items():
        assert re.fullmatch(rf"{name}(:\w+(\.csv)?)? \(.+\)", one.about) and one.embedded == (":" not in one.about)


def test_a_new_file_is_a_new_format(tmp_path, monkeypatch):
    texts = {
        "fresh": "import nothing_at_all\nABOUT = 'fresh:URL (masks)'\ndef make(*, split): ...\n",
        "plain": "from nothing_at_all import other as make\n",
        "inside": "EMBEDDED = True\nmake_it = None\ndef make(): ...\n",
        "helper": "ABOUT = 'helper'\nclass A:\n    def make(self): ...\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    found = formats.known(tmp_path)
    assert list(found) == ["inside", "fresh", "plain"]
    assert found["fresh"] == ("fresh:URL (masks)", False) and found["plain"] == ("plain:PATH", False)
    monkeypatch.setattr(formats, "known", lambda: found)
    assert load.parse_data("fresh:x=1") == {"name": "fresh", "x": 1} and load.parse_data("inside") == {"name": "inside"}
    with pytest.raises(UserError, match=r"there is no format 'fersh'.*'fresh'"):
        load.parse_data("fersh:DIR")
    with pytest.raises(UserError, match="say where the data is: plain:PATH"):
        load.parse_data("plain")


def test_the_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(one.about in said for one in formats.known().values())


def test_what_reads_data_is_loaded_where_it_is_used():
    names = ", ".join(f"mapjax.data.formats.{name}" for name in formats.known())
    code = f"import sys; import mapjax.data.pipeline, {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "cv2" in loaded and not loaded & {"sklearn", "scipy", "tensorflow_datasets", "grain", "array_record"}
