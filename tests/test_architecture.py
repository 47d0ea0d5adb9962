"""The house of mapjax: which room stands on which, held by the imports of every module.

An import goes down only. Parts that a config names are found at run time (mapjax.config.parts) and are no imports.
"""

import ast
import functools
import graphlib
import pathlib
import sys

import pytest

import mapjax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mapjax"

# Top to bottom; the rooms of one line know nothing of each other.
LAYERS = """
__main__
cli
study check
plan
runs
report explain
tasks
metrics
weights
models
data engine
ops
runtime
sharding config
task stages
paths regular
errors
mapjax
"""
# What finds modules by names that are made at run time: parts, the package's exports, the programs.
FINDERS = {"mapjax", "mapjax.config.parts", "mapjax.config.keys", "mapjax.cli.main"}
INNER = {  # the same inside a room, by folders; what stands in it beside them comes last, but for what is named
    "data": "pipeline streams | formats | prepared transforms checks | …",
    "models": "detectors segmenters generators | heads | necks | backbones | …",
}


@functools.cache
def modules():
    """All modules of the package: dotted name → its file."""
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted(PACKAGE.rglob("*.py"))}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


@functools.cache
def imports(name):
    """The modules that a module imports anywhere in it, also within functions, but not for type checkers only.

    So are those behind what `mapjax` itself exports, and those that importlib is asked for.
    """
    found, roots, finders = set(), set(), {"import_module", "__import__"}
    nodes = list(walk(ast.parse(modules()[name].read_text(encoding="utf-8"))))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            bound = {alias.asname or alias.name.split(".")[0]: alias for alias in node.names}
            roots |= {one for one, alias in bound.items() if one == "mapjax" or alias.name == "mapjax"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import, line {node.lineno}"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            finders |= {alias.asname for alias in node.names if alias.name in finders} - {None}
            found |= {exported(one) or (one if one in modules() else node.module) for one in whole}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in roots:
            found |= {exported(f"mapjax.{node.attr}")} - {None}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in finders:
            (asked, *_) = [*node.args, *(keyword.value for keyword in node.keywords)]
            if isinstance(asked, ast.Constant):
                found.add(asked.value)
            else:
                assert name in FINDERS, f"{name} imports by a name that is made at run time, line {node.lineno}"
    return found


def exported(name):
    """The module that holds what `mapjax` exports by a name; None for any other name."""
    root, _, last = name.rpartition(".")
    return f"mapjax.{mapjax._HOMES.get(last, 'runs.api')}" if root == "mapjax" and last in mapjax.__all__ else None


def walk(tree):
    """As ast.walk, without the branch `if TYPE_CHECKING:`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            child.body = []
        yield from walk(child)


def own(name):
    """The modules of mapjax that a module imports, anywhere in it."""
    return set(imports(name) & modules().keys() - {name})


def room(name):
    """The room of a module, or the module itself where it stands at the root: "data", "task", "mapjax"."""
    return name.split(".")[1] if "." in name else name


def ranks(text, separator):
    """Room → number of its layer, 0 at the top."""
    return {room: number for number, line in enumerate(text.strip().split(separator)) for room in line.split()}


def test_every_import_goes_down():
    rank = ranks(LAYERS, "\n")
    assert {room(name) for name in modules()} <= rank.keys(), "a room that has no layer yet"
    upward = [
        f"{name} imports {other}"
        for name in modules()
        for other in own(name)
        if room(name) != room(other) and rank[room(name)] >= rank[room(other)]
    ]
    assert not upward, "\n".join(sorted(upward))


@pytest.mark.parametrize("outer", INNER)
def test_every_import_goes_down_inside_a_room(outer):
    rank = ranks(INNER[outer], "|")

    def layer(name):
        return rank.get(name.split(".")[2] if name.count(".") > 1 else "…", rank["…"])

    def folder(name):
        return name.split(".")[2] if name.count(".") > 2 else ""

    inside = [name for name in modules() if name.startswith(f"mapjax.{outer}.")]
    upward = [
        f"{name} imports {other}"
        for name in inside
        for other in own(name)
        if other in inside
        if layer(name) > layer(other) or (layer(name) == layer(other) and folder(name) != folder(other))
    ]
    assert not upward, "\n".join(sorted(upward))


def test_no_module_imports_itself_through_others():
    try:
        graphlib.TopologicalSorter({name: own(name) for name in modules()}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_tasks_know_no_report_and_only_models_know_flax():
    reports = [(name, other) for name in modules() if room(name) == "tasks" for other in own(name)]
    assert not [pair for pair in reports if room(pair[1]) == "report"]
    networks = {name for name in modules() if any(other.split(".")[0] == "flax" for other in imports(name))}
    assert networks and {room(name) for name in networks} == {"models"}


def test_the_size_of_the_house():
    at_root = {file.name for file in PACKAGE.glob("*.py")}
    assert len(at_root) <= 7, sorted(at_root)
    folders = {file.parent for file in modules().values()} - {PACKAGE}
    rooms = {room(name) for name in modules()} - {pathlib.Path(name).stem for name in at_root} - {"mapjax"}
    assert len(rooms) <= 22, sorted(rooms)
    assert len(folders) <= 28, sorted(folders)
    assert max(len(folder.relative_to(PACKAGE).parts) for folder in folders) == 2
    for folder in folders:  # a new room is one that its first file opens
        assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


def test_every_module_says_what_it_is():
    silent = [name for name, file in modules().items() if not ast.get_docstring(ast.parse(file.read_text("utf-8")))]
    assert not silent


def test_programs_of_launch_are_three_lines_and_hide_no_standard_module():
    """launch/ is first on Python's path where its programs run: `import profile` would find launch/profile.py."""
    programs = sorted((ROOT / "launch").glob("*.py"))
    assert "main" in {file.stem for file in programs}
    assert not {file.stem for file in programs} & sys.stdlib_module_names
    for file in programs:
        text = file.read_text(encoding="utf-8")
        documented, *rest = ast.parse(text).body
        assert ast.get_docstring(ast.parse(text)), file
        lines = [line for line in text.splitlines()[documented.end_lineno :] if line]
        assert len(lines) == 3 and len(rest) == 2, file


def test_every_program_is_there_installed_and_in_launch():
    """`mapjax NAME` and launch/NAME.py are one; launch/main.py is `mapjax train`."""
    from mapjax.cli import main

    scripts = {"train" if file.stem == "main" else file.stem for file in (ROOT / "launch").glob("*.py")}
    assert scripts == set(main.PROGRAMS)
    assert all(f"mapjax.cli.{name}" in modules() for name in main.PROGRAMS)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"ops/a.py": "from mapjax.data import source"}, "test_every_import_goes_down"),
        ({"ops/a.py": "def f():\n    import mapjax.tasks.classify"}, "test_every_import_goes_down"),
        ({"ops/a.py": "from mapjax import load, fit"}, "test_every_import_goes_down"),
        ({"ops/a.py": "import mapjax\nmapjax.fit('detect')"}, "test_every_import_goes_down"),
        ({"ops/a.py": "import mapjax as m\ndef f():\n    return m.Source"}, "test_every_import_goes_down"),
        ({"ops/a.py": "import importlib\nimportlib.import_module('mapjax.runs.fit')"}, "test_every_import_goes_down"),
        ({"ops/a.py": "from importlib import import_module as find\nfind(f'mapjax.{x}')"},
         "test_every_import_goes_down"),
        ({"ops/a.py": "import flax.linen"}, "test_tasks_know_no_report_and_only_models_know_flax"),
        ({"ops/a.py": "from mapjax.ops import b", "ops/b.py": "from mapjax.ops import a"},
         "test_no_module_imports_itself_through_others"),
    ],
)  # fmt: skip
def test_these_tests_see_what_is_wrong(monkeypatch, tmp_path, files, problem):
    known = dict(modules())
    for number, (name, text) in enumerate(files.items()):
        (tmp_path / f"{number}.py").write_text(text)
        known["mapjax." + name.removesuffix(".py").replace("/", ".")] = tmp_path / f"{number}.py"
    monkeypatch.setitem(globals(), "modules", lambda: known)
    monkeypatch.setitem(globals(), "imports", imports.__wrapped__)
    with pytest.raises((AssertionError, pytest.fail.Exception), match="ops"):
        globals()[problem]()
