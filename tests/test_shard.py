import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from mapjax import shard
from mapjax.errors import UserError

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


SHAPE = AbstractMesh((2, 2, 2, 1), shard.AXES)
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
