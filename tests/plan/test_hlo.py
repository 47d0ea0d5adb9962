import numpy as np
import pytest

from mapjax.plan import frames, hlo


@pytest.mark.parametrize(
    ("shape", "size", "stored"),
    [
        ("f32[2,3]{1,0}", 24, 24),
        ("bf16[2,3]{1,0:T(8,128)(2,1)}", 12, 8 * 128 * 2),
        ("f32[100,64,3]{2,1,0:T(8,128)}", 100 * 64 * 3 * 4, 100 * 64 * 128 * 4),
        ("f32[100,64,3]{0,1,2:T(8,128)}", 100 * 64 * 3 * 4, 3 * 64 * 128 * 4),  # the fastest axis is the first
        ("f32[]{:T(128)}", 4, 512),
        ("pred[10]{0}", 10, 10),
        ("s4[3]{0}", 2, 2),
    ],
)
def test_bytes_and_stored_bytes(shape, size, stored):
    (array,) = hlo.arrays(shape)
    assert (array.bytes, array.stored, array.space) == (size, stored, 0)


def test_tuples_and_memory_spaces():
    shape = "(f32[2]{0:T(128)S(1)}, /*index=1*/(s32[], bf16[4,4]{1,0}))"
    assert [(one.dtype, one.sizes, one.space) for one in hlo.arrays(shape)] == [
        ("f32", (2,), 1),
        ("s32", (), 0),
        ("bf16", (4, 4), 0),
    ]
    assert hlo.parts(shape)[0] == "f32[2]{0:T(128)S(1)}"


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing")


LOOP = """
%step (state: (s32[], f32[])) -> (s32[], f32[]) {
  %state = (s32[], f32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[] get-tuple-element(%state), index=1
  %by = s32[] constant(STEP)
  %next = s32[] add(%i, %by)
  ROOT %both = (s32[], f32[]) tuple(%next, %x)
}

%more (state.1: (s32[], f32[])) -> pred[] {
  %state.1 = (s32[], f32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(LIMIT)
  ROOT %less = pred[] compare(%i.1, %limit), direction=DIRECTION
}

ENTRY %main (x.1: f32[]) -> (s32[], f32[]) {
  %x.1 = f32[] parameter(0)
  %start = s32[] constant(START)
  %pair = (s32[], f32[]) tuple(%start, %x.1)
  ROOT %loop = (s32[], f32[]) while(%pair), condition=%more, body=%step
}
"""


@pytest.mark.parametrize("direction", ["LT", "LE"])
@pytest.mark.parametrize("start", [-2, 0, 3, 9])
@pytest.mark.parametrize(("step", "limit"), [(1, 5), (2, 5), (3, 8)])
def test_turns_of_a_loop_by_running_it(direction, start, step, limit):
    text = LOOP.replace("STEP", str(step)).replace("LIMIT", str(limit)).replace("START", str(start))
    turns, i = 0, start
    while i < limit or (direction == "LE" and i == limit):
        turns, i = turns + 1, i + step
    module = hlo.parse(text.replace("DIRECTION", direction))
    main = module.computations[module.entry]
    assert hlo.trip_count(module, main, main.instructions["loop"]) == turns
    assert hlo.runs(module)["step"] == (turns, True)


def test_turns_that_depend_on_data():
    module = hlo.parse(LOOP.replace("constant(LIMIT)", "get-tuple-element(%state.1), index=1").replace("START", "0"))
    assert hlo.runs(module)["step"] == (1, False)


FRAMES = """HloModule jit_step

FileNames
1 "/home/me/work/launch/main.py"
2 "/home/me/work/mapjax/engine/step.py"
3 "/home/me/work/mapjax/ops/nms.py"
4 "/usr/lib/optax/adam.py"

FunctionNames
1 "main"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3}
2 {file_name_id=2 function_name_id=1 line=3}
3 {file_name_id=3 function_name_id=1 line=3}
4 {file_name_id=4 function_name_id=1 line=3}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=3}

ENTRY %main () -> f32[] {
}
"""


def test_the_innermost_file_of_the_package_is_named():
    # Frame 4 is optax's, called from frame 2; frame 1 is of no package.
    known = frames.files(FRAMES)
    assert known == {2: "engine/step", 3: "ops/nms", 4: "engine/step"}
    assert frames.file_of(', metadata={op_name="a" stack_frame_id=3}', known) == "ops/nms"
    assert frames.file_of(", metadata={}", known) == ""


def test_a_program_without_tables_names_no_file():
    assert frames.files("HloModule m\n\nENTRY %main () -> f32[] {\n}\n") == {}


def test_a_compiled_program_names_its_files():
    import jax

    from mapjax.ops import boxes

    some = jax.ShapeDtypeStruct((3, 4), np.float32)
    text = jax.jit(boxes.pairwise_iou).lower(some, some).compile().as_text()
    assert set(frames.files(text).values()) == {"ops/boxes"}
