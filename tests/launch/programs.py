"""The programs of launch/, as modules to call within a test."""

import importlib.util
import pathlib

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"


def module(name):
    spec = importlib.util.spec_from_file_location(f"launch_{name}", LAUNCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def program(name):
    return module(name).main
