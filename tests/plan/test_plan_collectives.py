import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from jax.sharding import Mesh

from mapjax.plan import collectives, hlo

MESH = Mesh(np.arange(8).reshape(2, 2, 2), ("data", "fsdp", "model"))  # only its shape and names matter here

PROGRAM = """
HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: f32[8,4]) -> f32[4,4] {
  %input = f32[8,4]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[8,4]{1,0:T(8,128)} all-reduce(%input), channel_id=6, replica_groups={{0,2},{4,6},{1,3},{5,7}}, use_global_device_ids=true, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = f32[4,4]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={4,4}
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %moved = f32[8,4]{1,0} collective-permute(%x), channel_id=2, source_target_pairs={{0,1},{1,0},{2,3},{3,2},{4,5},{5,4},{6,7},{7,6}}, metadata={op_name="jit(step)/while/body/ppermute"}
  ROOT %pair = (s32[], f32[8,4]{1,0}) tuple(%next, %moved)
}

%condition (state.1: (s32[], f32[8,4])) -> pred[] {
  %state.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(LIMIT)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[8,4], n: s32[]) -> f32[4,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %start = s32[] START
  %pair.1 = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%start, %x.1)
  %loop = (s32[], f32[8,4]{1,0}) while(%pair.1), condition=%condition, body=%body
  %out = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  %gather = (f32[8,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%out), channel_id=3, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(step)/gather"}
  %gathered = f32[16,4]{1,0} all-gather-done(%gather)
  ROOT %scattered = f32[4,4]{1,0:T(8,128)S(1)} fusion(%out), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/scatter"}
}
"""  # noqa: E501


def program(start="constant(2)", limit=7):
    return PROGRAM.replace("START", start).replace("LIMIT", str(limit))


def test_a_program_of_every_form():
    found = collectives.find(program(), MESH)
    # In the order of the text; [4,2]<=[4,2]T(1,0) pairs devices 0 with 2, 4 with 6, 1 with 3 and 5 with 7.
    assert found == [
        collectives.Collective("reduce-scatter", 4 * 4 * 4, ("fsdp",), "jit(step)/scatter", 1, True, 2),
        collectives.Collective(
            "collective-permute", 8 * 4 * 4, ("model",), "jit(step)/while/body/ppermute", 5, True, 2
        ),
        collectives.Collective("all-gather", 16 * 4 * 4, ("fsdp",), "jit(step)/gather", 1, True, 2),
    ]


def test_a_loop_whose_turns_depend_on_data_counts_as_one_turn_and_says_so():
    permute = collectives.find(program(start="parameter(1)"), MESH)[1]
    assert (permute.count, permute.known) == (1, False)


def groups_of(attributes, devices=8):
    line = hlo.Instruction("x", "f32[2]", "all-reduce", (), "", f", replica_groups={attributes}, to_apply=%add", False)
    return collectives.group_devices(line, devices)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [(0, 1), (2, 3)]),
        ("{}", [tuple(range(8))]),
        ("[2,4]<=[8]", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("[2,4]<=[4,2]T(1,0)", [(0, 2, 4, 6), (1, 3, 5, 7)]),
        ("mesh['a'=2,'b'=4] {'a'}", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("mesh['a'=2,'b'=4] {'b'}", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("mesh['a'=2,'b'=4] {'a','b':(2)2}", [(0, 1, 4, 5), (2, 3, 6, 7)]),
    ],
)
def test_ways_of_writing_groups(text, groups):
    assert groups_of(text) == groups


def test_groups_written_in_another_way_are_refused():
    with pytest.raises(ValueError, match="unknown way"):
        groups_of("[4,2]")


@pytest.mark.parametrize("count", range(4))
def test_axes_by_brute_force(count):
    places = {place: device for device, place in enumerate(itertools.product(range(2), repeat=3))}
    for chosen in itertools.combinations(range(3), count):
        groups = {}
        for place, device in places.items():
            groups.setdefault(tuple(0 if axis in chosen else place[axis] for axis in range(3)), []).append(device)
        found = collectives.axes_of([tuple(group) for group in groups.values()], MESH)
        assert found == tuple(MESH.axis_names[axis] for axis in chosen)


def test_a_device_that_the_mesh_has_not():
    with pytest.raises(ValueError, match="beyond the 8"):
        collectives.axes_of([(0, 9)], MESH)


COMPILED = """
import itertools, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from mapjax.plan import collectives
names = ("data", "fsdp", "model")
mesh = jax.make_mesh((2, 2, 2), names, axis_types=(AxisType.Auto,) * 3)
made = {
    "all-reduce": lambda axes: lambda x: jax.lax.psum(x, axes),
    "all-gather": lambda axes: lambda x: jax.lax.all_gather(x, axes, tiled=True),
    "reduce-scatter": lambda axes: lambda x: jax.lax.psum_scatter(x, axes, tiled=True),
    "all-to-all": lambda axes: lambda x: jax.lax.all_to_all(x, axes, 0, 1, tiled=True),
}
x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P(names)))
for kind, function in made.items():
    for count in (1, 2, 3):
        for axes in itertools.combinations(names, count):
            mapped = jax.shard_map(function(axes), mesh=mesh, in_specs=P(names), out_specs=P(names), check_vma=False)
            found = collectives.find(jax.jit(mapped).lower(x).compile().as_text(), mesh)
            factor = {"all-gather": 2**count, "reduce-scatter": 0.5**count}.get(kind, 1)
            expected = (kind, int(8 * 64 * 4 * factor), axes, 2**count)
            assert [(c.kind, c.bytes, c.axes, c.size) for c in found] == [expected], (found, expected)
pairs = [(0, 1), (1, 0)]
mapped = jax.shard_map(lambda x: jax.lax.ppermute(x, "fsdp", pairs), mesh=mesh, in_specs=P(names), out_specs=P(names))
(one,) = collectives.find(jax.jit(mapped).lower(x).compile().as_text(), mesh)
assert (one.kind, one.bytes, one.axes) == ("collective-permute", 2048, ("fsdp",)), one
print("fine")
"""


@pytest.mark.process
def test_programs_of_eight_devices_hold_what_was_asked_for():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
