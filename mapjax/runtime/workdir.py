"""The folder of a run: what is in it, and whether it may be gone on with.

config.json classes.json keypoints.json metrics.jsonl tensorboard/ checkpoints/ predictions.json truth.json result.json
report.html
"""

import contextlib
import copy
import datetime
import functools
import hashlib
import importlib.metadata
import json
import operator
import os
import pathlib
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

import mapjax
from mapjax import regular
from mapjax.config import foreign, keys
from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runtime import checksum, lock

LOCK = "training.lock"  # in the folder of a run: who trains in it

# Where a run computes, and how its input comes there: nothing that it learns depends on these keys of a config.
PLACING = ("mesh", "rules", "input", "eval_batch")


def dated(name: str, root: pathlib.Path = pathlib.Path("runs")) -> pathlib.Path:
    """Name a new folder: runs/2026-01-31_120000-detect."""
    return root / f"{datetime.datetime.now():%Y-%m-%d_%H%M%S}-{name}"


def make_new(path: pathlib.Path | None, name: str) -> pathlib.Path:
    """Make a folder that must not be there yet: `path`, or a dated one.

    Raises:
      UserError: it is there, or cannot be made.
    """
    path = path or dated(name)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--workdir {path} cannot be made ({error.strerror}); name a new folder.") from error
    return path


@contextlib.contextmanager
def alone(path: pathlib.Path) -> Iterator[None]:
    """Make the folder if need be, and keep every other training out of it for the time of the block.

    Raises:
      UserError: another process trains in it, or it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        other = ""
        try:
            path.mkdir(parents=True, exist_ok=True)
            _, other = stack.enter_context(lock.held(path / LOCK))
        except OSError as error:
            if not path.is_dir():
                raise UserError(f"--workdir {path} cannot be made ({error.strerror}); name another folder.") from error
        if other:
            raise UserError(f"--workdir {path} is being trained in by {other}; wait for it, or name another folder.")
        yield


def open_for(
    path: pathlib.Path, config: Mapping[str, Any], classes: Sequence[str], points: Mapping[str, Any] | None = None
) -> str:
    """Create the folder, or check that what was trained there is the same experiment.

    Args:
      points: what keypoints.json is to say; None: there is no such file.

    Returns:
      What of `PLACING`, or of the places of its data, differs from before ("mesh.model: 2 → 1"), "" for nothing; once
      its data is known to be the same, `move` writes the new.

    Raises:
      UserError: it holds another experiment or another class list (what differs is named), or cannot be written.
    """
    if not is_trained(path) or not (path / "config.json").exists():
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "classes.json", list(classes))
            if points is not None:
                write_json(path / "keypoints.json", dict(points))
            write_json(path / "config.json", dict(config))
        except OSError as error:
            raise UserError(f"--workdir {path} cannot be made ({error.strerror}); name another folder.") from error
        return ""
    before = configs.plain_saved(read_json(path / "config.json"), str(path / "config.json"))
    (old, old_places), (new, new_places) = (_parted(one, moved_data(before, config)) for one in (before, config))
    changed = list(configs.differences(old, new))
    same_modules = foreign.named_in(before).items() <= foreign.named_in(config).items()
    if changed and same_modules:  # perhaps one of the two only writes what the other leaves at its default
        old, new = (_parted(keys.filled(one), moved_data(before, config))[0] for one in (before, config))
        changed = list(configs.differences(old, new))
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"--workdir {path} holds another experiment ({'; '.join(changed[:4])}{more}); "
            "name another folder, or give the same options to go on with it."
        )
    known = read_json(path / "classes.json")
    if known != list(classes):
        raise UserError(
            f"--workdir {path} was trained on other classes ({', '.join(map(str, known))}), and the data now has "
            f"{', '.join(classes)}; name another folder, or mend the data."
        )
    return "; ".join(configs.differences(old_places, new_places))


def move(path: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Let config.json say where a run computes now, and where its data is."""
    with contextlib.suppress(OSError):  # where the disk is full, training goes on as well as it can
        write_json(path / "config.json", dict(config))


def moved_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Give the dotted keys of data that is at another place than it was: of them, a file or folder that is there.

    Whether it is the same data is for its fingerprint to say.

    Example:
      >>> from mapjax.runtime import workdir
      >>> old = {"data": {"name": "voc", "path": "a"}}
      >>> workdir.moved_data(old, {"data": {"name": "voc", "path": "."}})
      {'data.path'}
    """
    found = set()
    for key, old, new in _texts_of_data(before, now):
        if old != new and "\0" not in new and pathlib.Path(new).exists():
            found.add(key)
    return found


def _texts_of_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key of every text in a node of data, but the name of its format, with its value in both."""
    old_streams, new_streams = (one.get("streams") or {} for one in (before, now))
    nodes = {"data": (before.get("data") or {}, now.get("data") or {})}
    for name in old_streams.keys() & new_streams.keys():
        nodes[f"streams.{name}.data"] = old_streams[name].get("data") or {}, new_streams[name].get("data") or {}
    for where, (old, new) in nodes.items():
        for key in sorted((old.keys() & new.keys()) - {"name"}):
            if isinstance(old[key], str) and isinstance(new[key], str):
                yield f"{where}.{key}", old[key], new[key]


def _parted(config: Mapping[str, Any], moved: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a plain config in what a run computes, and where (without what is empty), with the keys of moved data."""
    rest = copy.deepcopy({key: value for key, value in config.items() if key not in PLACING})
    places = {key: config[key] for key in PLACING if config.get(key)}
    for key in moved:
        *way, last = key.split(".")
        places[key] = functools.reduce(operator.getitem, way, rest).pop(last)
    return rest, places


def is_trained(path: pathlib.Path) -> bool:
    """Say whether the folder holds a checkpoint."""
    return any(entry.name.isdigit() for entry in path.glob("checkpoints/*"))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:  # on a full disk, leave the room to others
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def read_json(path: pathlib.Path) -> Any:
    """Read JSON.

    Raises:
      UserError: no such file, or it is not JSON.
    """
    try:
        return json.loads(regular.read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; is {path.parent} the folder of a run (--workdir)?") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers too long, nested too deeply
        raise UserError(f"{path} is damaged ({error}); restore it, or name another --workdir.") from error


def environment(mesh: Mesh) -> dict[str, Any]:
    """Describe what a run ran on: versions, devices, mesh, code, git revision, peak memory of this process."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless")
    return {
        "versions": {
            "mapjax": mapjax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
        "revision": revision(),
        "code": code(sources()),
        "command": shlex.join(sys.argv),
        "peak_rss_mb": peak_rss_mb(),
        "peak_device_mb": peak_device_mb(),
    }


def sources(experiment: pathlib.Path | None = None) -> dict[str, str]:
    """List the files of what is run, with their checksums: of this package, and an experiment.

    Unlike git's revision that is there without a checkout, and tells two uncommitted changes apart.
    """
    here = pathlib.Path(mapjax.__file__).resolve().parent
    # Installed, the package holds the recipes as well, which a checkout has beside it.
    files = [file for file in here.rglob("*.py") if file.parent != here / "experiments"]
    named = {path.relative_to(here.parent).as_posix(): path for path in files}
    if experiment is not None:
        named[experiment.name] = experiment
    return {name: checksum.sha256(path)[:12] for name, path in sorted(named.items())}


def code(files: Mapping[str, str]) -> str:
    """Give one checksum of what `sources` lists."""
    return hashlib.sha256(json.dumps(dict(files)).encode()).hexdigest()[:12]


def peak_rss_mb() -> float:
    """Give the largest memory this process has held, in MiB."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def peak_device_mb() -> float | None:
    """Give the largest memory that any device of this process has held, in MiB; None where the backend does not say."""
    stats = (device.memory_stats() or {} for device in jax.local_devices())
    return max((one["peak_bytes_in_use"] / 2**20 for one in stats if "peak_bytes_in_use" in one), default=None)


def revision() -> str | None:
    """Give the git revision of the code, with "+" where it has uncommitted changes; None outside a checkout."""
    here = pathlib.Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        run = ["git", "-C", str(here)]
        revision = subprocess.run([*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return revision.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    return None


def is_committed(file: str) -> bool:
    """Say whether git knows a file, by its path from here; files that were never added make no "+" of a revision."""
    with contextlib.suppress(OSError):
        return subprocess.run(["git", "ls-files", "--error-unmatch", file], capture_output=True).returncode == 0
    return False
