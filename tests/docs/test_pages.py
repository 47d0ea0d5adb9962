"""README and docs: every command that they show is read by its program, and every file that README names is there."""

import contextlib
import importlib
import io
import pathlib
import re
import shlex

import pytest

from mapjax.cli import main
from mapjax.config import load as configs

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "_generated"} & set(page.parts)]
SHIPPED = {file.stem for file in (ROOT / "experiments").glob("*.py")}
COMMAND = re.compile(rf"\bmapjax ({'|'.join(main.PROGRAMS)}) ([^`\n]*)")


def commands(page):
    """The commands on a page: program, words after it, and the line."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    for found in COMMAND.finditer(text):
        if "--" in found[2]:
            yield found[1], shlex.split(found[2].partition("#")[0].partition(" && ")[0].replace("…", "")), found[0]


@pytest.fixture(scope="module")
def options():
    """The options of each program, by its help."""
    helps = {}
    for name in main.PROGRAMS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module(f"mapjax.cli.{name}").main(["--help"])
        helps[name] = set(re.findall(r"--\w+", said.getvalue().partition("examples:")[0]))
    return helps


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_are_read_by_their_programs(page, options):
    for program, words, line in commands(page):
        given = [word.partition("=") for word in words if word.startswith("--")]
        assert {name for name, _, _ in given if not name.startswith("--config.")} <= options[program], line
        recipe = words[words.index("--config") + 1] if "--config" in words else ""
        if recipe.partition(":")[0] in SHIPPED:
            pairs = {name.removeprefix("--config."): value for name, _, value in given if name.startswith("--config.")}
            configs.load(recipe, {key: value for key, value in pairs.items() if not value.isupper()})


def test_enough_commands_are_found():
    """A page whose commands are no longer recognised would pass unseen."""
    assert sum(len(list(commands(page))) for page in PAGES) > 80


def test_readme_is_short_and_what_it_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links and not [link for link in links if not (ROOT / link).exists()]
