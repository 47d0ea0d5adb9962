"""The documentation's build: `sphinx-build -W --keep-going -b html docs docs/_build/html`.

The notebooks are executed, and their outputs kept in docs/_build. With MAPJAX_DOCS_NOTEBOOKS=off only their text is
shown.
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extension")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "docs" / "_build" / "jax"))  # of the notebooks

import mapjax  # noqa: E402

project = "mapjax"
author = "the mapjax authors"
project_copyright = f"2026, {author}"
version = release = mapjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "generated",
]
exclude_patterns = ["_build", "_generated", "extension", "examples"]

html_theme = "furo"
html_title = f"mapjax {release}"
html_show_sourcelink = False
html_css_files = ["site.css"]
html_static_path = ["static"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # links to #headings are checked
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
add_module_names = True
toc_object_entries_show_parents = "hide"

_notebooks = any((ROOT / "docs" / "notebooks").glob("*.md"))
nb_execution_mode = "cache" if _notebooks and os.environ.get("MAPJAX_DOCS_NOTEBOOKS") != "off" else "off"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
