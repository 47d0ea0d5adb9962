"""The examples of the API reference and of docstrings, with what they print."""

import ast
import doctest
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {
    page.stem: "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text("utf-8"), re.S))
    for page in (ROOT / "docs" / "api").glob("*.md")
}


def docstrings():
    """Docstrings with examples, by module and name, from the source: tests wrap the functions themselves."""
    for file in sorted((ROOT / "mapjax").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if ">>> " in text:
                    yield f"{module}.{getattr(node, 'name', '')}", text


DOCSTRINGS = dict(docstrings())


def passes(text, name):
    """Run the examples of a text, which import all that they use."""
    example = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize("page", sorted(name for name, text in PAGES.items() if text))
def test_the_examples_of_a_page(page):
    passes(PAGES[page], page)


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_the_examples_of_a_docstring(name):
    passes(DOCSTRINGS[name], name)


def test_enough_examples_are_found():
    """Examples that are no longer recognised would pass unseen."""
    assert len(DOCSTRINGS) > 90
