"""The programs, to call within a test."""

import importlib

NAMES = {"main": "train"}  # of launch/, where it is another


def module(name):
    return importlib.import_module(f"mapjax.cli.{NAMES.get(name, name)}")


def program(name):
    return module(name).main
