"""Every recipe that mapjax ships: it resolves, its parts take what it says, and it says nothing that is the default."""

import importlib.util
import inspect
import pathlib

import pytest

from mapjax.config import keys, parts, schema
from mapjax.config import load as configs

FOLDER = pathlib.Path(configs.__file__).parents[2] / "experiments"
DENSE = ("detect:bccd_retinanet", "detect:bccd_fcos", "detect:bccd_ssd")
FILES = sorted(file.stem for file in FOLDER.glob("*.py"))


def variants(stem):
    spec = importlib.util.spec_from_file_location(stem, FOLDER / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known = getattr(module, "VARIANTS", {"": module.get_config})
    return {f"{stem}:{variant}".rstrip(":"): made for variant, made in known.items()}


@pytest.mark.parametrize("stem", FILES)
def test_every_variant_resolves_and_its_parts_take_what_it_says(stem):
    for name, made in variants(stem).items():
        config = configs.load(name)
        assert configs.saved(configs.to_dict(config)).to_dict() == config.to_dict(), name
        for key in schema.PARTS:
            node = config[key].to_dict()
            inspect.signature(parts.find(keys.KINDS[key], node.pop("name"))).bind_partial(**node)
        assert made.__doc__ and len(inspect.getsource(made).splitlines()) <= 36, name


@pytest.mark.parametrize("stem", FILES)
def test_a_recipe_says_only_what_differs(stem):
    usual = dict(keys.flat_values(schema.defaults()))
    for name in variants(stem):
        recipe = configs.recipe(name)
        if name.startswith("ablate_rcnn:bccd") or name in (
            "ablate_augment:scenes",
            "ablate_norm",
            "detect:bccd",
            "detect:bccd_cascade",
            *DENSE,
        ):  # the optimizer of its base is another
            recipe["optimizer"] = {}
        assert not [key for key, value in keys.flat_values(recipe) if usual.get(key) == value], name


def test_it_is_found_by_its_bare_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stem in FILES:
        assert configs.find(stem).name == f"{stem}.py"
    assert configs.load("detect:bccd").batch == 4
    assert configs.label("detect:bccd") == configs.label("experiments/detect.py:bccd") == "detect-bccd"
    assert configs.label("detect") == configs.label("a/detect.py") == "detect"


def test_it_is_found_beside_the_package_or_in_it(tmp_path, monkeypatch):
    """In a checkout experiments/ is beside mapjax/, and in a wheel it is inside."""
    for place in ("mapjax/config", "experiments", "mapjax/experiments"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(configs, "__file__", str(tmp_path / "mapjax" / "config" / "load.py"))
    (tmp_path / "mapjax/experiments/mine.py").touch()
    (tmp_path / "experiments/other.py").touch()
    assert configs.find("mine") == tmp_path / "mapjax/experiments/mine.py"
    assert configs.find("other") == tmp_path / "experiments/other.py"
