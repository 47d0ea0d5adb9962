import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.plan import chips, collectives, cost, hlo, roofline


def program(opcode, left, right, out, attributes):
    """Write a program of one operation on two arrays."""
    return (
        f"ENTRY %main (a: {left}, b: {right}) -> {out} {{\n  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n"
        f"  ROOT %c = {out} {opcode}(%a, %b), {attributes}\n}}\n"
    )


def total(text, what):
    return sum(getattr(one, what) for one in cost.of_module(hlo.parse(text)))


def products_by_brute_force(length, kernel, stride, pads, gap, spread):
    """Convolve a side of ones with a window of ones, gaps and padding being zeros: the sum counts the products."""
    side = np.zeros(sum(pads) + (length - 1) * gap + 1)
    side[pads[0] : pads[0] + (length - 1) * gap + 1 : gap] = 1
    reach = (kernel - 1) * spread + 1
    starts = range(0, len(side) - reach + 1, stride)
    return len(starts), int(sum(side[start : start + reach : spread].sum() for start in starts))


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "gap", "spread"),
    [
        (1, 1, (0, 0), 1, 1),
        (3, 1, (1, 1), 1, 1),
        (3, 2, (1, 1), 1, 1),
        (7, 2, (3, 3), 1, 1),
        (3, 1, (2, 1), 2, 1),  # the gradient of a stride
        (3, 1, (2, 2), 1, 2),
        (12, 1, (1, 1), 1, 1),  # the gradient of a kernel, where the map is the window
    ],
)
def test_flops_of_a_convolution(kernel, stride, pads, gap, spread):
    length, batch, channels, features = 12, 2, 6, 5
    outputs, pairs = products_by_brute_force(length, kernel, stride, pads, gap, spread)
    both = "x".join([f"{pads[0]}_{pads[1]}"] * 2)
    window = f"window={{size={kernel}x{kernel} stride={stride}x{stride} pad={both}"
    window += f" lhs_dilate={gap}x{gap} rhs_dilate={spread}x{spread}}}, dim_labels=b01f_01io->b01f"
    text = program(
        "convolution",
        f"f32[{batch},{length},{length},{channels}]{{3,2,1,0}}",
        f"f32[{kernel},{kernel},{channels},{features}]{{3,2,1,0}}",
        f"f32[{batch},{outputs},{outputs},{features}]{{3,2,1,0}}",
        window,
    )
    assert total(text, "flops") == 2 * batch * channels * features * pairs**2


def test_flops_of_a_grouped_convolution():
    text = program(
        "convolution",
        "f32[2,8,8,6]{3,2,1,0}",
        "f32[1,1,3,4]{3,2,1,0}",
        "f32[2,8,8,4]{3,2,1,0}",
        "window={size=1x1}, dim_labels=b01f_01io->b01f, feature_group_count=2",
    )
    assert total(text, "flops") == 2 * 2 * 8 * 8 * 3 * 4  # each of the 4 features sees the 3 channels of its group


@pytest.mark.parametrize("call", ["Forward", "BackwardInput", "BackwardFilter"])
def test_flops_of_a_convolution_that_is_a_call_of_cudnn(call):
    """A gradient's sides and window are those of the convolution that it is of, and it takes as many products."""
    outputs, pairs = products_by_brute_force(12, 3, 2, (1, 1), 1, 1)
    x, kernel, y = (f"bf16[{sizes}]{{3,2,1,0}}" for sizes in ("2,12,12,6", "5,3,3,6", f"2,{outputs},{outputs},5"))
    left, right, out = {
        "Forward": (x, kernel, y), "BackwardInput": (y, kernel, x), "BackwardFilter": (x, y, kernel),
    }[call]  # fmt: skip
    attributes = "window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, "
    attributes += f'custom_call_target="__cudnn$conv{call}"'
    text = program("custom-call", left, right, f"({out}, u8[4096]{{0}})", attributes)
    assert total(text, "flops") == 2 * 2 * 6 * 5 * pairs**2
    assert [one.kind for one in cost.of_module(hlo.parse(text))] == ["convolution"]


@pytest.mark.parametrize("call", ["__cublas$gemm", "__cublas$lt$matmul"])
def test_flops_of_a_product_that_is_a_call_of_cublas(call):
    dims = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}'
    attributes = f'custom_call_target="{call}", backend_config={{"gemm_backend_config":{{"alpha_real":1,{dims}}}}}'
    shapes = ("f32[64,96]{1,0}", "f32[96,48]{1,0}", "(f32[64,48]{1,0}, s8[1024]{0})")
    text = program("custom-call", *shapes, attributes)
    assert total(text, "flops") == 2 * 64 * 96 * 48
    assert [one.kind for one in cost.of_module(hlo.parse(text))] == ["product"]


def compiled(function, *shapes):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)).compile()


def test_flops_and_bytes_are_xlas_own_where_there_is_no_loop():
    found = compiled(lambda a, b: jnp.tanh(a @ b), (64, 96), (96, 48))
    counts = found.cost_analysis()
    works = cost.of_module(hlo.parse(found.as_text()))
    assert sum(one.flops for one in works) == 2 * 64 * 96 * 48
    assert sum(one.flops for one in works) == pytest.approx(counts["flops"], rel=0.03)  # it counts tanh's steps too
    assert sum(one.bytes for one in works) == pytest.approx(counts["bytes accessed"], rel=0.01)


def test_a_loop_counts_with_its_turns():
    def repeated(a, b):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ b), None), a, None, length=7)[0]

    text = compiled(repeated, (32, 32), (32, 32)).as_text()
    assert total(text, "flops") == 7 * 2 * 32**3


def test_what_lies_in_fast_memory_does_not_count():
    text = program("add", "f32[8,128]{1,0:T(8,128)S(1)}", "f32[8,128]{1,0:T(8,128)}", "f32[8,128]{1,0}", "x=1")
    assert total(text, "bytes") == 2 * 8 * 128 * 4


SLICED = """
%fused (p: f32[100,8], i: s32[], u: f32[1,8]) -> f32[100,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %u = f32[1,8]{1,0} parameter(2)
  ROOT %update = f32[100,8]{1,0} dynamic-update-slice(%p, %u, %i, %i)
}

ENTRY %main (a: f32[100,8], j: s32[], b: f32[1,8]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %b = f32[1,8]{1,0} parameter(2)
  ROOT %c = f32[100,8]{1,0} fusion(%a, %j, %b), kind=kLoop, calls=%fused
}
"""


def test_an_update_in_place_counts_what_it_changes():
    assert total(SLICED, "bytes") == 8 * 4 + 8 * 4 + 4  # the row read, the row written, the index


CHIP = chips.Chip("made", 100.0, 1000, 10.0, 5.0, 2.0)


def work(flops, moved, cycles=0.0):
    one = hlo.Instruction("x", "f32[]", "dot", (), "", "", False)
    return cost.Work(one, 1, True, flops, moved, cycles)


def test_bounds_of_a_step():
    sent = [collectives.Collective("all-reduce", 10, ("data",), size=4)]
    found = roofline.bound([work(200, 5), work(50, 30), work(0, 1, cycles=1)], sent, CHIP)
    assert found.compute == 2.5
    assert found.memory == pytest.approx(3.6)
    assert found.work == pytest.approx(2.0 + 3.0 + 0.1)  # 200 FLOP, 30 bytes, 1 byte
    assert found.network == 10 * 2 * 3 / 4 / 5
    assert found.step == found.work
    assert found.estimate == pytest.approx(2.0 + 3.0 + 0.5 + 3.0)  # one cycle takes longer than a byte
    assert found.binding == "memory"


def test_a_chip_of_which_nothing_is_published_has_no_bounds():
    assert roofline.bound([work(1, 1)], [], chips.CHIPS["cpu"]) == roofline.Bound(*[None] * 6)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_traffic_of_collectives_by_passing_blocks_round_a_ring(n):
    """Send an array of n blocks round a ring of n devices: n - 1 times a block for each half of an all-reduce."""
    block = 12
    sent = sum(block for _ in range(n - 1))
    whole = n * block

    def traffic(kind, size):
        return roofline.traffic(collectives.Collective(kind, size, (), size=n))

    assert traffic("all-gather", whole) == pytest.approx(sent)
    assert traffic("reduce-scatter", block) == sent
    assert traffic("all-reduce", whole) == pytest.approx(2 * sent)


TRANSFERS = """
%async_computation (p: bf16[64,128]) -> bf16[16,128] {
  %p = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %slice = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} slice(%p), slice={[0:16], [0:128]}
}

ENTRY %main (a: bf16[64,128]) -> bf16[64,128] {
  %a = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %slice-start = ((bf16[64,128]{1,0:T(8,128)(2,1)}), bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) async-start(%a), calls=%async_computation
  %copy-start = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %slice-done = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} async-done(%slice-start)
  %joined = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} custom-call(%slice-done), custom_call_target="ConcatBitcast"
  %copy-done = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %sorted = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} sort(%joined), dimensions={0}, to_apply=%less
  %product = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} dot(%copy-done, %sorted), lhs_contracting_dims={1}
  %out-start = (bf16[64,128]{1,0:T(8,128)(2,1)}, bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%product)
  ROOT %out = bf16[64,128]{1,0:T(8,128)(2,1)} copy-done(%out-start)
}
"""  # noqa: E501


def test_copies_between_memories_count_once_and_with_what_they_are_for():
    works = {one.instruction.name: one for one in cost.of_module(hlo.parse(TRANSFERS))}
    moved = {name: (one.bytes, one.kind, one.serves.name) for name, one in works.items() if one.bytes}
    assert moved == {
        "slice-start": (16 * 128 * 2, "sort", "sorted"),  # a quarter of the array, read
        "copy-start": (64 * 128 * 2, "product", "product"),
        "out-start": (64 * 128 * 2, "product", "product"),  # written
    }
    assert works["sorted"].serves is works["sorted"].instruction
