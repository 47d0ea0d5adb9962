"""What of the code is compared between processes, and stands in result.json."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

from mapjax.runtime import workdir
from mapjax.sharding import mesh as shard

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json
from mapjax.runtime import workdir
files = workdir.sources()
print(json.dumps([files, workdir.code(files), workdir.revision()]))
"""


def told(root: pathlib.Path) -> list:
    """What the copy of the code in `root` says of itself: its files, one checksum of them, git's revision."""
    environ = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_source_file_counts_and_the_experiment(tmp_path):
    experiment = tmp_path / "mine.py"
    experiment.write_text("rate = 1\n")
    files = workdir.sources(experiment)
    assert {"mapjax/engine/step.py", "mapjax/data/pipeline.py", "mapjax/cli/train.py", "mine.py"} <= set(files)
    assert files["mine.py"] == hashlib.sha256(b"rate = 1\n").hexdigest()[:12]
    before = workdir.code(files)
    assert before == workdir.code(workdir.sources(experiment)) != workdir.code(workdir.sources())
    experiment.write_text("rate = 2\n")
    assert workdir.code(workdir.sources(experiment)) != before
    mesh = shard.make_mesh({"data": -1})
    assert workdir.environment(mesh)["code"] == workdir.code(workdir.sources())


def test_a_copy_without_git_is_told_from_a_changed_one(tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "mapjax", root / "mapjax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "experiments", root / "mapjax" / "experiments")  # as they are installed
    files, code, revision = told(root)
    assert (files, code, revision) == (workdir.sources(), workdir.code(workdir.sources()), None)
    with (root / "mapjax" / "data" / "transforms" / "crops.py").open("a") as file:
        file.write("# another word\n")
    changed, other, _ = told(root)
    assert other != code
    assert [name for name in files if changed[name] != files[name]] == ["mapjax/data/transforms/crops.py"]
