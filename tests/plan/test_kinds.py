import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.plan import cost, hlo, kinds

PROGRAM = """
%fused_convolution (p: bf16[2,8,8,4], k: bf16[3,3,4,4]) -> f32[4] {
  %p = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %k = bf16[3,3,4,4]{3,2,1,0} parameter(1)
  %c = bf16[2,8,8,4]{3,2,1,0} convolution(%p, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/conv_general_dilated"}
  ROOT %r = f32[4]{0} reduce(%c), dimensions={0,1,2}, to_apply=%add
}

%fused_batched (p: bf16[6,8,4], k: bf16[6,4,5]) -> bf16[6,8,5] {
  %p = bf16[6,8,4]{2,1,0} parameter(0)
  %k = bf16[6,4,5]{2,1,0} parameter(1)
  ROOT %c = bf16[6,8,5]{2,1,0} convolution(%p, %k), window={size=6 stride=5 pad=0_0 lhs_dilate=6}, \
dim_labels=0bf_0io->0bf, metadata={op_name="jit(step)/bij,bjk->bik/dot_general"}
}

%fused_moves (p: f32[8,4]) -> f32[4,8] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %t = f32[4,8]{1,0} transpose(%p), dimensions={1,0}
}

%fused_gather (p: f32[8,4], i: s32[3,1]) -> f32[3,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %i = s32[3,1]{1,0} parameter(1)
  %g = f32[3,4]{1,0} gather(%p, %i), offset_dims={1}
  ROOT %n = f32[3,4]{1,0} negate(%g)
}

%fused_keys (p: f32[8]) -> s32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %b = s32[8]{0} bitcast-convert(%p)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %convolution = f32[4]{0} fusion(%x, %x), kind=kOutput, calls=%fused_convolution
  %batched = bf16[6,8,5]{2,1,0} fusion(%x, %x), kind=kOutput, calls=%fused_batched
  %flat = f32[2,5]{1,0} convolution(%x, %x), dim_labels=bf_io->bf
  %sorted = f32[8]{0} sort(%x), dimensions={0}, to_apply=%less
  %best = f32[8]{0} custom-call(%x), custom_call_target="TopK"
  %keys = s32[8]{0} fusion(%x), kind=kLoop, calls=%fused_keys, metadata={op_name="jit(step)/vmap(jit(propose))/top_k"}
  %picked = f32[3,4]{1,0} fusion(%x, %x), kind=kLoop, calls=%fused_gather
  %moved = f32[4,8]{1,0} fusion(%x), kind=kLoop, calls=%fused_moves
  %summed = f32[8]{0} all-reduce-start(%x), to_apply=%add
  %copied = (f32[8]{0}, f32[8]{0}, u32[]) copy-start(%x)
  ROOT %last = f32[8]{0} add(%x, %x)
}
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("convolution", "convolution"),  # though it ends in a reduction
        ("batched", "product"),  # a TPU writes batched products as convolutions with windows
        ("flat", "product"),
        ("sorted", "sort"),
        ("best", "sort"),
        ("keys", "sort"),
        ("picked", "gather"),
        ("moved", "copy"),
        ("summed", "collective"),
        ("copied", "copy"),
        ("last", "elementwise"),
    ],
)
def test_kinds_of_instructions(name, kind):
    module = hlo.parse(PROGRAM)
    assert kinds.kind_of(module, module.computations[module.entry].instructions[name]) == kind


def test_kinds_of_a_real_program():
    def mixed(a, b, image, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=layout)
        return a @ b, jnp.sort(a, axis=0), convolved

    shapes = [(32, 48), (48, 16), (2, 8, 8, 3), (5, 5, 3, 4)]
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    works = cost.of_module(hlo.parse(jax.jit(mixed).lower(*structs).compile().as_text()))
    assert {"product", "sort", "convolution"} <= {one.kind for one in works}
    assert sum(one.flops for one in works if one.kind == "product") == 2 * 32 * 48 * 16
    assert all(one.flops == 0 for one in works if one.kind not in ("product", "convolution"))
