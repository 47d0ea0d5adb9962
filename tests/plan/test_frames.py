from mapjax.plan import frames

PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/here/mapjax/engine/step.py"
2 "/here/mapjax/tasks/detection/two_stage.py"
3 "/here/mapjax/ops/nms.py"
4 "/lib/jax/lax.py"
5 "/here/mapjax/ops/boxes.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=2 function_name_id=1 line=1}
3 {file_name_id=3 function_name_id=1 line=1}
4 {file_name_id=4 function_name_id=1 line=1}
5 {file_name_id=5 function_name_id=1 line=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=4}
5 {file_location_id=5 parent_frame_id=5}
6 {file_location_id=5 parent_frame_id=3}
7 {file_location_id=4 parent_frame_id=1}

ENTRY %main (x: f32[2]) -> f32[2] {
  ROOT %x = f32[2]{0} parameter(0)
}
"""


def test_the_innermost_file_is_named():
    expected = {
        1: "engine/step",
        2: "tasks/detection/two_stage",
        3: "ops/nms",
        4: "ops/nms",
        5: "ops/boxes",
        6: "ops/boxes",
    }
    assert frames.files(PROGRAM) == expected


def test_a_clone_that_is_called_as_the_package():
    text = PROGRAM.replace("/here/", "/here/mapjax/").replace("/lib/jax/", "/here/mapjax/.venv/lib/jax/")
    assert frames.files(text) == frames.files(PROGRAM)
    assert frames.files(text.replace("/mapjax/mapjax/", "/mapjax/launch/")) == {}


def test_a_file_counts_with_the_one_of_its_folder_that_called_it():
    found = frames.files(PROGRAM, callers="ops")
    assert found[5] == "ops/nms"  # called through another package
    assert found[6] == "ops/boxes"  # called by the task itself
    assert {number: found[number] for number in (1, 2, 3, 4)} == {
        number: frames.files(PROGRAM)[number] for number in (1, 2, 3, 4)
    }


def test_a_program_without_tables():
    assert frames.files("ENTRY %main () -> f32[] {\n}\n") == {}
