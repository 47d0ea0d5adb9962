import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.plan import job, search, step, summary, tables, topology
from mapjax.plan.collectives import Collective
from mapjax.runs import networks, setup, sources
from mapjax.sharding import mesh as shard

DETECT, CLASSIFY, SEGMENT = (f"experiments/{name}.py" for name in ("detect", "classify", "segment"))


def load(name, **overrides):
    return configs.load(name, {key.replace("__", "."): str(value) for key, value in overrides.items()})


def shapes(config, source):
    sharding = shard.batch_sharding(shard.make_mesh({"data": 1}, jax.devices()[:1]), 4)
    batch = sources.abstract_batch(source, sources.make_transform(config, augment=True), 4, sharding)
    return {name: (one.shape, one.dtype) for name, one in batch.items()}


@pytest.mark.parametrize("name", [DETECT, CLASSIFY, SEGMENT])
def test_blank_images_have_the_shapes_of_real_ones(name):
    config = load(name)
    _, real, note = step.find_source(config)
    assert note == ""
    assert shapes(config, step.blank_source(config, 10, 100)) == shapes(config, real)


def test_blank_images_have_what_objects_have_beside_their_boxes():
    """A run with masks or keypoints is planned where its data is not here: its metrics take the blank source too."""
    for name, key, shape in (
        ("instance:coco", "box_masks", (4, 100, 64, 64)),
        ("keypoints:mouse", "keypoints", (4, 4, 17, 3)),
    ):
        config = load(name)
        source = step.blank_source(config, 2, 10)
        assert shapes(config, source)[key][0] == shape
        setup.make_metric(config, networks.make_task(config, source.classes), source)


def test_data_that_is_not_here_is_stood_in_for(tmp_path):
    config = load(f"{DETECT}:coco", data__path=tmp_path / "none")
    _, source, note = step.find_source(config)
    assert (len(source.classes), len(source.records)) == (80, 118_287)
    assert "none is not here: planned for 80 classes and 118,287 training images" in note


def test_classes_and_examples_given_stand_before_the_data():
    _, source, note = step.find_source(load(CLASSIFY), 7, 500)
    assert (len(source.classes), len(source.records)) == (7, 500)
    assert "the data is not read" in note


def test_the_largest_batch_that_fits_here_is_found_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "_memory", lambda: 20_000_000)
    config = load(CLASSIFY)
    found = job.local_batches(config, tmp_path)
    batch = found["batch"]

    def peak(batch):
        config.batch = batch
        _, source, _ = step.find_source(config)
        return step.compile_step(config, source, shard.make_mesh(config.mesh.to_dict())).peak

    assert batch != 64 and found["eval_batch"] == 200
    assert peak(batch) <= job.HERE * 20_000_000 < peak(batch + max(1, batch // 8))
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    (tmp_path / "config.json").write_text('{"batch": 7, "eval_batch": 3}')
    assert job.local_batches(load(CLASSIFY), tmp_path) == {"batch": 7, "eval_batch": 3}


def test_images_are_scored_in_batches_that_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "_memory", lambda: 20_000_000)
    config = load(CLASSIFY, eval_batch=200_000)
    _, seen, held_out = sources.open_sources(config)
    mesh = shard.make_mesh(config.mesh.to_dict())

    def peak(batch):
        return step.evaluation_peak(load(CLASSIFY, eval_batch=batch), seen, held_out, mesh)

    found = job.local_batches(config, tmp_path)["eval_batch"]
    assert found in [200_000 >> turns for turns in range(1, 18)]
    assert peak(found) <= job.HERE * 20_000_000 < peak(2 * found)
    # The state stays: parameters, their average and two moments of Adam's; and each image takes its bytes at least.
    state = 4 * 4 * step.compile_step(config, seen, mesh).parameters
    assert state < peak(1) < 2 * state
    assert peak(3000) - peak(1000) >= 2000 * 8 * 8 * 3


def test_processes_of_a_machine_share_its_memory(monkeypatch):
    devices = len(jax.local_devices())
    monkeypatch.setattr(topology, "_memory", lambda: 12_000)
    monkeypatch.setattr(topology.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(topology.distributed, "exchange", lambda key, value: ["there", value, "there", value, value])
    assert topology.open_place(None).chip.hbm == 12_000 // (3 * devices)


def test_the_process_with_the_least_memory_counts(monkeypatch):
    monkeypatch.setattr(topology, "_memory", lambda: 12_000)
    place = topology.open_place(None)
    monkeypatch.setattr(job.distributed, "exchange", lambda key, value: [value, "700", "9000"])
    assert job._of_all(place).chip.hbm == 700
    monkeypatch.setattr(job.distributed, "exchange", lambda key, value: [value, "0"])  # one does not know
    assert job._of_all(place).chip.hbm is None


@pytest.mark.process
def test_a_mesh_that_cannot_be_is_a_line_under_the_ranking(monkeypatch, capsys):
    """One device: the mesh of it is planned, one is refused with a sentence, and at another JAX itself gives up."""
    sizes = [{"data": 1}, {"data": 3}, {"data": 1, "model": 1}, {"data": 1, "fsdp": 1}]
    made = shard.make_mesh

    def make_mesh(sizes, devices=None):
        if "model" in sizes:
            raise NotImplementedError("no such torus\nand more of that")
        if "fsdp" in sizes:
            raise step.TooLarge(5 * 2**30, 2**30)
        return made(sizes, devices)

    place = topology.open_place(None)._replace(devices=jax.devices()[:1])
    monkeypatch.setattr(topology, "open_place", lambda name: place)
    monkeypatch.setattr(search, "meshes", lambda devices, stacked: sizes)
    monkeypatch.setattr(job.shard, "make_mesh", make_mesh)
    asked = job.Asked("digits", load(CLASSIFY, batch=4), None, None)
    (only,) = job.rank(asked)
    assert only["mesh"] == {"data": 1, "fsdp": 1, "model": 1, "pipe": 1}
    shown = capsys.readouterr().out
    assert "data=3: mesh (data=3, " in shown and "does not fit 1 device(s)" in shown
    assert "NotImplementedError: no such torus" in shown and "and more of that" not in shown
    assert "needs 5.00 GiB of 1.00 GiB" in shown
    sizes[:] = [{"data": 3}, {"data": 3}]
    with pytest.raises(UserError, match=r"--mesh auto: no mesh of 1 devices takes batch=4: mesh \(data=3[^;]*$"):
        job.rank(asked)


def test_counts_that_cannot_be():
    with pytest.raises(UserError, match="must be positive"):
        step.find_source(load(CLASSIFY), 0, 500)


@pytest.mark.parametrize("text", ["data", "data=", "data=x", "data=2,data=2", ""])
def test_a_mesh_that_is_not_written_so(text):
    with pytest.raises(UserError, match="no AXIS=N"):
        job.read_mesh(text)


def test_a_mesh_is_read():
    assert job.read_mesh("data=-1, model=4") == {"data": -1, "model": 4}


@pytest.mark.parametrize(
    ("message", "needed", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.50G "
            "of 15.75G hbm. Exceeded hbm capacity by 2.75G.",
            18.5 * 2**30,
            15.75 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory", 0, 0),
    ],
)
def test_what_a_compiler_says_of_too_large_a_step(message, needed, limit):
    found = step._too_large(message)
    assert found is not None
    assert (found.needed, found.limit) == (int(needed), int(limit))
    assert step._too_large("INTERNAL: a bug") is None


def test_collectives_of_a_kind_are_added_up():
    ones = [
        Collective("all-reduce", 8, ("data",), "a", 3, True, 4),
        Collective("all-reduce", 2, ("data",), "b", 1, True, 4),
    ]
    ones.append(Collective("all-gather", 40, ("data", "fsdp"), "c", 1, True, 8))
    first, second = summary.together(ones)
    assert first == summary.Sent("all-reduce", ("data",), 4, 4, 26, 26 * 2 * 3 / 4)
    assert second == summary.Sent("all-gather", ("data", "fsdp"), 8, 1, 40, 40 * 7 / 8)


@pytest.mark.parametrize(("stages", "micro"), [(1, 4), (2, 4), (4, 8)])
def test_the_bubble_by_filling_a_schedule(stages, micro):
    config = load(CLASSIFY, model="{'name': 'vit', 'variant': 'small', 'patch': 4}", model__micro_batches=micro)
    mesh = Mesh(np.arange(stages).reshape(1, 1, stages, 1), shard.AXES)
    busy = {(stage, stage + number) for stage in range(stages) for number in range(micro)}
    ticks = 1 + max(tick for _, tick in busy)
    assert summary._bubble(config, mesh) == pytest.approx(1 - len(busy) / (ticks * stages))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (tables.size(1023), "1023 B"),
        (tables.size(1.5 * 2**30), "1.50 GiB"),
        (tables.size(5000 * 2**30), "5000.00 GiB"),
        (tables.amount(999), "999 "),
        (tables.amount(2.5e12), "2.5 T"),
        (tables.amount(3e18), "3e+03 P"),
        (tables.seconds(None), "–"),
        (tables.seconds(0.0025), "2.5 ms"),
        (tables.seconds(7200.0), "2 h"),
        (tables.seconds(4e-5), "40 µs"),
        (tables.mesh_name({"data": 4, "fsdp": 1, "model": 2, "pipe": 1}), "data=4,model=2"),
    ],
)
def test_figures_for_people(shown, expected):
    assert shown == expected


@pytest.mark.process
def test_the_plan_of_a_small_step_on_the_local_device(capsys):
    """The parameters' bytes are known; the forward and backward products of the two ends are counted by hand."""
    config = load(CLASSIFY, batch=16, transform__augment="{}")
    place = topology.open_place(None)._replace(devices=jax.devices()[:1])
    found = summary.make(config, step.blank_source(config, 10, 160), place, shard.make_mesh({"data": 1}, place.devices))
    parameters = found.compiled.parameters
    held = found.compiled.shares
    assert held.parameters == held.average == 4 * parameters
    assert 8 * parameters <= held.optimizer <= 8 * parameters + 64  # Adam's two moments and counters
    assert found.compiled.steps == 10
    assert found.sent == []
    assert found.unknown == 0
    assert found.compiled.peak > held.total
    assert 3 * 2 * 16 * 32 * 10 < found.flops < found.compiled.flops
    assert found.bound.step is None
    tables.wide().print(tables.plan(found))
    assert "no collectives" in capsys.readouterr().out
