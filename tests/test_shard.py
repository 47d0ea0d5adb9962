import jax
import pytest
from jax.sharding import PartitionSpec

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


def test_rules_place_parameters():
    mesh = shard.make_mesh({"data": 1}, ONE)
    values = {"a": {"kernel": jax.numpy.zeros((2, 2))}, "b": jax.numpy.zeros(3)}
    places = shard.placement(values, mesh, [("kernel", PartitionSpec("model"))])
    assert places["a"]["kernel"].spec == PartitionSpec("model")
    assert places["b"].spec == PartitionSpec()
