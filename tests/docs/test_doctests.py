"""The examples of the API reference, with what they print."""

import doctest
import importlib
import pathlib
import re

import pytest

API = pathlib.Path(__file__).parents[2] / "docs" / "api"
PAGES = {
    page.stem: "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text("utf-8"), re.S)) for page in API.glob("*.md")
}
DOCUMENTED = ("mapjax.config.schema",)  # modules whose docstrings have examples with what they print


@pytest.mark.parametrize("page", sorted(name for name, text in PAGES.items() if text))
def test_the_examples_of_a_page(page):
    example = doctest.DocTestParser().get_doctest(PAGES[page], {}, page, None, 0)
    assert example.examples
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
