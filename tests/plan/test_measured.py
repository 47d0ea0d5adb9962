"""Where a program's time goes, by the profiler and from hand-made events."""

import jax
import jax.numpy as jnp
import pytest

from mapjax.ops import resize
from mapjax.plan import measured

PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/lib/flax/linen.py"
2 "/here/mapjax/ops/nms.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=2 function_name_id=1 line=1}
2 {file_name_id=1 function_name_id=1 line=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%body (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %inner = f32[2]{0} add(%p, %p), metadata={op_name="jit(step)/transpose(jvp())/add" stack_frame_id=1}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %dot = f32[2]{0} multiply(%x, %x), metadata={op_name="jit(step)/mul" stack_frame_id=1}
  ROOT %loop = f32[2]{0} call(%dot), to_apply=%body
}
"""


def test_events_are_added_up_by_file_and_kind():
    events = [
        ("jit_step", "dot", 3.0), ("jit_step", "dot", 1.0), ("jit_step", "inner", 6.0), ("jit_step", "inner", 2.0),
        ("jit_step", "loop", 99.0), ("jit_other", "dot", 99.0), ("jit_step", "unknown", 99.0),
    ]  # fmt: skip
    assert measured.together(events, PROGRAM, 2) == [
        ("ops/nms backward", "add", 1.0, 4.0, pytest.approx(8 / 12)),
        ("ops/nms", "multiply", 1.0, 2.0, pytest.approx(4 / 12)),
    ]


def test_the_profiler_finds_the_file_that_takes_the_time():
    x = jnp.ones((4, 240, 240, 16))

    @jax.jit
    def enlarge(x):
        return resize.bilinear(x, (250, 250))

    compiled = enlarge.lower(x).compile()
    compiled(x).block_until_ready()
    found = measured.parts(lambda: compiled(x).block_until_ready(), compiled.as_text(), runs=2)
    assert sum(part.share for part in found) == pytest.approx(1)
    assert sum(part.share for part in found if part.where == "ops/resize") > 0.5
