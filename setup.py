"""What pyproject.toml cannot say: the recipes of experiments/ are installed as mapjax/experiments."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mapjax", "mapjax.*"]), "mapjax.experiments"],
    package_dir={"mapjax.experiments": "experiments"},
)
