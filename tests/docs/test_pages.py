"""README and docs: every command that they show is one of a program, and every file that README names is there."""

import pathlib
import re
import shlex

import pytest

from mapjax.cli import main
from mapjax.config import keys, schema
from mapjax.config import load as configs

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "_generated"} & set(page.parts)]
PARTS = ("data", "transform", "model", "task", "corruption", "streams")  # whose keys are those of a part


def commands(page):
    """The commands of mapjax on a page, as program and words."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    for line in re.findall(
        r"(?:mapjax|python -m mapjax) (?:train|predict|evaluate|plan|bench|prepare|probe|ablate|soak|memory) [^`\n]*",
        text,
    ):
        words = shlex.split(line.partition("#")[0].partition(" && ")[0].replace("…", "").replace("--data KEY", ""))
        yield words[words.index("mapjax") + 1], words[words.index("mapjax") + 2 :], line


@pytest.fixture(scope="module")
def options():
    """The options of each program, by its help."""

    def read(name):
        import contextlib
        import importlib
        import io

        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module(f"mapjax.cli.{name}").main(["--help"])
        return set(re.findall(r"--[\w]+", said.getvalue().partition("examples:")[0]))

    return {name: read(name) for name in main.PROGRAMS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_are_those_of_the_programs(page, options):
    for program, words, line in commands(page):
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert {word for word in given if not word.startswith("--config.")} <= options[program], line
        name = words[words.index("--config") + 1] if "--config" in words else "classify"
        if name.partition(":")[0] not in ("classify", "detect", "segment", *RECIPES):
            continue
        known = {**schema.KEYS, **keys.optional(configs.recipe(name))}
        for key in (word.removeprefix("--config.") for word in given if word.startswith("--config.")):
            assert key in known or key in schema.GROUPS or key.partition(".")[0] in PARTS, line


RECIPES = ("ablate_augment", "ablate_norm", "ablate_imbalance")


def test_readme_is_short_and_what_it_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links and not [link for link in links if not (ROOT / link).exists()]
