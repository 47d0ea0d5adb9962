import dataclasses
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from mapjax.errors import UserError
from mapjax.sharding import mesh as shard

# Any hashable stands for a device where only the arithmetic is tested.
ONE = jax.devices()[:1]


def test_one_axis_takes_what_is_left():
    mesh = shard.make_mesh({"data": -1, "model": 1}, ONE)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "model": 1, "pipe": 1}


@pytest.mark.parametrize("sizes", [{"data": 2}, {"data": -1, "model": -1}, {"data": -1, "model": 2}, {"data": 0}])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(UserError, match="does not fit 1 device"):
        shard.make_mesh(sizes, ONE)


def test_an_unknown_axis():
    with pytest.raises(UserError, match="Did you mean 'data'"):
        shard.make_mesh({"dat": 1}, ONE)


@dataclasses.dataclass(frozen=True)
class Chip:
    """Stands for a device: what is asked of one that is to be laid out."""

    id: int
    coords: tuple[int, ...] = (0, 0, 0)
    slice_index: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    core_on_chip: int = 0


def torus(*sides, number=0):
    """The chips of a slice, four to a host."""
    places = enumerate(itertools.product(*map(range, sides)))
    return [Chip(1000 * number + i, place, number, i // 4) for i, place in places]


def gpus(hosts, each, *, processes=1):
    """GPUs that know their host by its process, or, with a process for each of them, by their slice."""
    options = {"platform": "gpu", "device_kind": "NVIDIA H100"}
    if processes == 1:
        return [Chip(i, process_index=i // each, **options) for i in range(hosts * each)]
    return [Chip(i, process_index=i, slice_index=i // each, **options) for i in range(hosts * each)]


def along(mesh, axis):
    """The rows of devices that differ in this axis of the mesh only."""
    return np.moveaxis(mesh.devices, shard.AXES.index(axis), -1).reshape(-1, mesh.shape[axis])


@pytest.mark.parametrize(
    ("sides", "sizes"),
    [
        ((4, 4, 4), {"data": 32, "model": 2}),
        ((2, 4, 4), {"data": 2, "fsdp": 8, "model": 2}),
        ((4, 4, 4), {"data": 8, "pipe": 4, "model": 2}),
        ((4, 4, 8), {"data": -1, "fsdp": 16, "model": 2}),
    ],
)
def test_a_torus_is_split_where_no_side_of_it_has_the_size_of_an_axis(sides, sizes):
    mesh = shard.make_mesh(sizes, torus(*sides))
    assert {axis: mesh.shape[axis] for axis in sizes} == sizes | {"data": mesh.shape["data"]}
    assert sorted(device.id for device in mesh.devices.flat) == list(range(np.prod(sides)))
    for one, other in along(mesh, "model"):
        hops = np.abs(np.subtract(one.coords, other.coords))
        assert np.minimum(hops, np.array(sides) - hops).sum() == 1, "neighbours"


SLICES = torus(2, 4, 1, number=0) + torus(2, 4, 1, number=1)


@pytest.mark.parametrize(
    ("devices", "sizes", "crossing"),
    [
        (SLICES, {"data": 2, "model": 8}, "data"),
        (SLICES, {"data": 4, "model": 4}, "data"),
        (SLICES, {"fsdp": 4, "model": 4}, "fsdp"),
        (SLICES, {"pipe": 2, "model": 8}, "pipe"),
        (gpus(2, 8), {"pipe": 2, "model": 8}, "pipe"),
        (gpus(2, 8), {"data": 2, "fsdp": 4, "model": 2}, "data"),
        (gpus(2, 8), {"data": -1}, "data"),
        (gpus(2, 8), {"fsdp": 2, "pipe": 2, "model": 4}, "fsdp"),
        (gpus(2, 8), {"model": 16}, "model"),
        (gpus(2, 8, processes=8), {"pipe": 2, "model": 8}, "pipe"),
        (gpus(3, 4)[::-1], {"data": 3, "model": 4}, "data"),
    ],
)
def test_slow_links_are_crossed_by_the_first_axis_that_can(devices, sizes, crossing):
    """Slices of a TPU and hosts of GPUs: along every other axis there are fast links only."""
    mesh = shard.make_mesh(sizes, devices)
    assert set(mesh.devices.flat) == set(devices)
    by_process = devices[0].platform == "gpu" and not any(device.slice_index for device in devices)

    def island(device):
        return device.process_index if by_process else device.slice_index

    counts = {axis: max(len({island(one) for one in row}) for row in along(mesh, axis)) for axis in shard.AXES}
    assert counts == dict.fromkeys(shard.AXES, 1) | {crossing: len({island(one) for one in devices})}


def test_hosts_of_one_tpu_slice_are_joined_by_its_fast_links():
    """So the shape of the slice counts: rings of its sides, though these go through several hosts."""
    mesh = shard.make_mesh({"data": 4, "model": 4}, torus(4, 4, 1))
    for row in along(mesh, "model"):
        differ = np.array([device.coords for device in row]).std(0) > 0
        assert differ.sum() == 1


def test_hosts_of_different_sizes_are_taken_in_their_order():
    devices = [Chip(i, process_index=int(i >= 8), platform="gpu", device_kind="") for i in range(12)]
    mesh = shard.make_mesh({"data": 3, "model": 4}, devices)
    assert [device.id for device in mesh.devices.flat] == list(range(12))


def test_devices_that_are_no_mesh():
    odd = torus(2, 2, 1, number=0) + torus(2, 2, 2, number=1)
    with pytest.raises(UserError, match=r"mesh \(data=-1.*\) cannot be laid out on these 12 device\(s\), .* one size"):
        shard.make_mesh({"data": -1}, odd)


def test_devices_of_one_process_keep_their_order():
    devices = [Chip(i, platform="cpu", device_kind="cpu") for i in range(8)]
    mesh = shard.make_mesh({"data": 2, "model": 2, "pipe": 2}, devices)
    assert [device.id for device in mesh.devices.flat] == list(range(8))
    assert mesh.axis_names == ("data", "fsdp", "pipe", "model"), "what talks most is nearest"


SHAPE = AbstractMesh((2, 2, 1, 2), shard.AXES)
VALUES = {"a": {"kernel": jax.ShapeDtypeStruct((64, 30), np.float32)}, "b": jax.ShapeDtypeStruct((6,), np.float32)}


def test_fsdp_splits_the_longest_axis_that_is_whole():
    places = shard.placement(VALUES, SHAPE, [("kernel", PartitionSpec("model"))])
    assert places["a"]["kernel"].spec == PartitionSpec("model", "fsdp")
    assert places["b"].spec == PartitionSpec(), "too small to be worth it"
    assert shard.placement(VALUES, SHAPE)["a"]["kernel"].spec == PartitionSpec("fsdp")


def test_parameters_are_used_whole_along_fsdp():
    places = shard.gathered(shard.placement(VALUES, SHAPE, [("kernel", PartitionSpec("model"))]))
    assert places["a"]["kernel"].spec == PartitionSpec("model", None)


def test_an_axis_that_does_not_divide_is_left_out_of_a_known_rule():
    odd = {"kernel": jax.ShapeDtypeStruct((7, 9), np.float32)}
    assert shard.placement(odd, SHAPE, [("kernel", PartitionSpec("model", None))])["kernel"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("kernal$", ()), (".", ())), r"rules: 'kernal\$' matches no parameter"),
        ((("^b$", ()),), r"rules: none matches a/kernel \(64, 30\); end them with"),
        (((".", (None, ("model", "fsdp"))),), r"axis 1 of a/kernel \(64, 30\) does not divide over 4 devices"),
        (((".", (None, None, "model")),), r"has more axes than a/kernel"),
    ],
)
def test_rules_of_a_person_must_fit(rules, message):
    with pytest.raises(UserError, match=message):
        shard.placement(VALUES, SHAPE, shard.read_rules(rules), strict=True)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((("kernel", ("modl",)),), r"names the axis 'modl'.*'model'"),
        (("kernel",), r"write pairs"),
        ((("[", ("model",)),), r"write pairs"),
        (((5, ()),), r"write pairs"),
    ],
)
def test_rules_that_are_none(pairs, message):
    with pytest.raises(UserError, match=message):
        shard.read_rules(pairs)


@pytest.mark.parametrize("axis", ["model", "pipe"])
def test_devices_with_nothing_to_do(axis):
    sizes = dict.fromkeys(shard.AXES, 1) | {axis: 2}
    mesh = AbstractMesh(tuple(sizes.values()), shard.AXES)
    with pytest.raises(UserError, match=rf"mesh.{axis}=2 splits no parameter"):
        shard.require_used(shard.placement(VALUES, mesh), mesh)


def test_without_a_mesh_a_function_of_examples_is_called_as_it_is():
    assert shard.per_example(lambda x: x + 1)(1) == 2


def test_tuples_of_axes_are_looked_into():
    places = shard.placement(VALUES, SHAPE, [("kernel", PartitionSpec(("model", "fsdp")))])
    assert places["a"]["kernel"].spec == PartitionSpec(("model", "fsdp")), "fsdp is used already"
    assert shard.gathered(places)["a"]["kernel"].spec == PartitionSpec("model")
    shard.require_used(places, SHAPE)


def test_a_stack_is_not_gathered_as_a_whole():
    stacked = {"stack": {"kernel": jax.ShapeDtypeStruct((2, 64, 30), np.float32)}}
    places = shard.placement(stacked, SHAPE)
    assert shard.gathered(places)["stack"]["kernel"].spec == PartitionSpec(None, "fsdp")
