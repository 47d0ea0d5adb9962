"""A Sphinx extension: tables of the documentation that are made of the code, written to docs/_generated.

Nothing in them is written by hand: keys come from mapjax/config/schema.py, keywords from the signature of each part,
recipes from experiments/, weights from mapjax/weights and the programs' helps from the programs.
"""

import contextlib
import importlib
import importlib.util
import inspect
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mapjax import stages
from mapjax.cli import main as programs
from mapjax.config import formats, keys, parts, schema
from mapjax.config import load as configs
from mapjax.data import labels
from mapjax.data.transforms import augment
from mapjax.weights import recipes

OUT = pathlib.Path(__file__).parents[1] / "_generated"
ABLATIONS = ("ablate_augment", "ablate_imbalance", "ablate_norm", "ablate_rcnn")
RECIPES = ("classify", "detect", "instance", "keypoints", "segment", *ABLATIONS)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write())
    return {"parallel_read_safe": True}


def write() -> None:
    """Write all generated pages; a page that is the same keeps its time, so that Sphinx need not read it again."""
    OUT.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        file, text = OUT / f"{name}.md", make()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table of Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def code(value: Any) -> str:
    """Write a value as code."""
    text = value if isinstance(value, str) else repr(value)
    return f"`{text}`" if text and "`" not in text else text or "empty"


def plain(text: str) -> str:
    """Escape Markdown outside of code."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*_<>\[\]\\$])", r"\\\1", piece) for piece in pieces)


def first_line(document: str | None) -> str:
    """Give the first sentence of a docstring, without its full stop."""
    return plain(" ".join((document or "").strip().partition("\n\n")[0].split()).rstrip("."))


def known_keys() -> str:
    """Every key of a run."""
    return _keys(schema.KEYS)


def stream_keys() -> str:
    """Every key of a further stream."""
    return _keys(schema.STREAM)


def _keys(known: dict[str, schema.Key]) -> str:
    def row(name: str, key: schema.Key) -> list[str]:
        default = code(repr(key.default))
        return [f"`{name}`", default, schema.words(key.kind), plain(key.unit), plain(key.help)]

    return table(("key", "default", "value", "unit", "meaning"), [row(name, key) for name, key in known.items()])


def keywords(kind: str) -> str:
    """The keywords of each part of a kind, with their defaults."""
    rows = []
    for name in parts.names(kind):
        make = parts.find(kind, name)
        found = inspect.signature(make).parameters.values()
        taken = [one for one in found if one.name not in keys.OFFERED.get(kind, ())]
        shown = [
            f"`{one.name}`" if one.default is one.empty else f"`{one.name}={one.default!r}`"
            for one in taken
            if one.name not in ("source", "nodes")
        ]
        module = importlib.import_module(make.__module__)
        rows.append([f"`{name}`", first_line(module.__doc__), ", ".join(shown) or "none"])
    return table(("name", "what it is", "keywords with their defaults"), rows)


def augmentations() -> str:
    """Every augmentation, from the docstring of its module."""
    documented = re.findall(r"^    (\w+) {2,}(.+)$", augment.__doc__ or "", re.MULTILINE)
    known = augment.DEFAULTS | augment.WHOLE

    def where(name: str) -> str:
        both = name in augment.DEFAULTS and name in augment.WHOLE
        return "all" if both else "images with boxes" if name in augment.DEFAULTS else "images with a label"

    rows = [[f"`{name}`", code(repr(known[name])), where(name), plain(text)] for name, text in documented]
    assert {name for name, _ in documented} == known.keys()
    return table(("key", "default", "of", "what it does"), rows)


def recipe_table() -> str:
    """Every recipe of experiments/."""
    rows = []
    for name in RECIPES:
        module = _experiment(name)
        variants = getattr(module, "VARIANTS", {"": module.get_config})
        for number, (variant, make) in enumerate(variants.items()):
            config: Any = configs.load(f"{name}:{variant}" if variant else name)
            title = (
                f"`{name}`" + (f" or `{name}:{variant}`" if variant else "") if number == 0 else f"`{name}:{variant}`"
            )
            network = config.model.name
            backbone = config.model.get("backbone")
            if backbone is not None:
                network += f" on {backbone.name}"
            rows.append([
                title,
                first_line(make.__doc__),
                config.data.name,
                network,
                "×".join(map(str, config.image_size)),
                config.batch,
                config.duration,
                config.optimizer.name,
            ])  # fmt: skip
    head = ("recipe", "what it is", "data", "network", "height × width", "batch", "duration", "optimizer")
    return table(head, rows)


def recipe_commands() -> str:
    """The commands in the docstrings of experiments/."""
    found = []
    for name in RECIPES[:3]:
        document = _experiment(name).__doc__ or ""
        text = document.partition("\n\n")[2].partition("\n\nIn a checkout")[0]
        found.append(f"```text\n{inspect.cleandoc('    ' + text.strip())}\n```")
    return "\n\n".join(found) + "\n"


def _experiment(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, configs.find(name))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(classes: str) -> Callable[[], str]:
    """Published weights of one list of classes."""

    def make() -> str:
        rows = []
        for name in recipes.known():
            recipe = recipes.find(name)
            if recipe.classes == classes:
                rows.append([f"`{name}`", code(repr(dict(recipe.model))), "×".join(map(str, recipe.image_size))])
        return table(("name for `--weights` and `--init_from`", "network", "height × width"), rows)

    return make


def formats_table() -> str:
    """The formats of data, as they describe themselves."""
    rows = []
    for name, one in formats.known().items():
        found = re.fullmatch(r"(\S+) \((.+)\)", one.about)
        module = importlib.import_module(f"mapjax.data.formats.{name}")
        rows.append([code(found[1] if found else one.about), found[2] if found else "", first_line(module.__doc__)])
    return table(("`--data`", "labels", "what it is"), rows)


def stage_table() -> str:
    """The keys of every stage of the data flow."""
    rows = [
        [f"`{name}`", ", ".join(key.stages), code(key.shape) if key.shape else "scalar", key.dtype, plain(key.meaning)]
        for name, key in stages.KEYS.items()
    ]
    return table(("key", "stages", "shape, without batch axis", "dtype", "meaning"), rows)


def label_table() -> str:
    """The kinds of labels."""
    rows = [[f"`{name}`", kind.of, ", ".join(f"`{key}`" for key in kind.keys)] for name, kind in labels.KINDS.items()]
    return table(("kind", "belongs to", "keys of a record"), rows)


def program_helps() -> str:
    """The help of every program."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        pieces = [f"## mapjax\n\n```text\n{programs.overview()}\n```\n"]
        for name in programs.PROGRAMS:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
                importlib.import_module(f"mapjax.cli.{name}").main(["--help"])
            pieces.append(f"## mapjax {name}\n\n```text\n{said.getvalue().rstrip()}\n```\n")
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join(pieces)


def references(*kinds: str) -> Callable[[], str]:
    """The API reference of the `make` of all parts of some kinds."""

    def make() -> str:
        paths = sorted({f"{parts.find(kind, name).__module__}.make" for kind in kinds for name in parts.names(kind)})
        return _auto("function", paths)

    return make


def functions(*modules: str) -> Callable[[], str]:
    """The API reference of the public functions of some modules."""

    def make() -> str:
        paths = []
        for name in modules:
            module = importlib.import_module(name)
            found = inspect.getmembers(module, inspect.isfunction)
            own = [function for word, function in found if not word.startswith("_") and function.__module__ == name]
            own.sort(key=lambda function: function.__code__.co_firstlineno)
            paths += [f"{name}.{function.__name__}" for function in own]
        return _auto("function", paths)

    return make


def _auto(kind: str, paths: Iterable[str]) -> str:
    lines = "\n\n".join(f".. auto{kind}:: {path}" for path in paths)
    return f"```{{eval-rst}}\n{lines}\n```\n"


PAGES: dict[str, Callable[[], str]] = {
    "keys": known_keys,
    "stream_keys": stream_keys,
    "models": lambda: keywords("models"),
    "tasks": lambda: keywords("tasks"),
    "formats_keywords": lambda: keywords("data.formats"),
    "transforms": lambda: keywords("data.transforms"),
    "metrics": lambda: keywords("metrics"),
    "augmentations": augmentations,
    "recipes": recipe_table,
    "recipe_commands": recipe_commands,
    "weights_imagenet": weights("imagenet"),
    "weights_voc": weights("voc"),
    "weights_coco": weights("coco"),
    "formats": formats_table,
    "stages": stage_table,
    "labels": label_table,
    "programs": program_helps,
    "api_models": references("models"),
    "api_tasks": references("tasks"),
    "api_data": references("data.formats", "data.transforms"),
    "api_metrics": references("metrics"),
    "api_losses": functions(
        "mapjax.ops.losses",
        "mapjax.ops.quality_losses",
        "mapjax.ops.pixel_losses",
        "mapjax.ops.box_losses",
        "mapjax.ops.box_codes",
        "mapjax.ops.assignment",
        "mapjax.ops.imbalance",
    ),
    "api_augment": functions("mapjax.data.transforms.augment"),
}
