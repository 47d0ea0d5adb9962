"""What kind of work each instruction of a compiled step is: convolution, sort, gather, …, whichever file it is from."""

import re
from collections.abc import Iterator

from mapjax.plan import hlo

# What is found first, in an instruction or in the fusion that it is, names it: what most likely takes its time.
_ORDER = {
    "convolution": ("convolution",),
    "product": ("dot",),
    "sort": ("sort", "topk"),
    "scatter": ("scatter", "select-and-scatter"),
    "gather": ("gather",),
    "collective": ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"),
    "reduction": ("reduce", "reduce-window"),
    "slice": ("dynamic-slice", "dynamic-update-slice"),
}
# These only bring what there is to another place.
_MOVES = {
    "copy", "transpose", "reshape", "bitcast", "broadcast", "pad", "concatenate", "slice", "reverse", "convert",
    "parameter", "constant", "tuple", "get-tuple-element", "iota", "fusion", "async-start",
}  # fmt: skip
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LIBRARIES = {"sort": "top_?k|sort", "convolution": r"^__cudnn\$conv", "product": r"^__cublas\$"}
_SORTS = re.compile(r"^(?:approx_)?(?:top_k|sort)\b", re.IGNORECASE)


def kind_of(module: hlo.Module, one: hlo.Instruction) -> str:
    """Name the kind of an instruction; that of a fusion is by what is in it.

    "convolution" "product" "sort" (top-k too) "scatter" "gather" "collective" "reduction" "slice", "copy" where nothing
    is computed, else "elementwise".
    """
    inside = list(_inside(module, one))
    kinds = {_plain(part) for part in inside}
    found = next((kind for kind in _ORDER if kind in kinds), "")
    # A compiler makes several instructions of a sort, among them calls of its own code.
    if found not in ("convolution", "product") and _SORTS.match(one.op_name.rpartition("/")[2]):
        return "sort"
    return found or ("copy" if all(_opcode(part) in _MOVES for part in inside) else "elementwise")


def _inside(module: hlo.Module, one: hlo.Instruction) -> Iterator[hlo.Instruction]:
    """Yield an instruction, or those that it fuses."""
    yield one
    if one.opcode in ("fusion", "async-start"):
        for name in one.called:
            if name in module.computations:
                for inner in module.computations[name].instructions.values():
                    yield from _inside(module, inner)


def _plain(one: hlo.Instruction) -> str:
    """Name the kind of an instruction by itself; "" where its opcode names none.

    A TPU writes matrix products as convolutions; which of them it was, JAX's own operation tells.
    """
    opcode = _opcode(one)
    if opcode == "convolution" and (_is_flat(one) or "dot_general" in one.op_name.rpartition("/")[2]):
        return "product"
    if opcode == "custom-call" and (target := _TARGET.search(one.attributes)):
        return next((kind for kind, pattern in _LIBRARIES.items() if re.search(pattern, target[1], re.IGNORECASE)), "")
    return next((kind for kind, opcodes in _ORDER.items() if opcode in opcodes), "")


def _is_flat(one: hlo.Instruction) -> bool:
    """Say whether a convolution has no sides that a window could slide along."""
    labels = re.search(r"dim_labels=(\w+)_", one.attributes)
    return labels is not None and not re.search(r"\d", labels[1])


def _opcode(one: hlo.Instruction) -> str:
    return one.opcode.removesuffix("-start") if one.opcode != "async-start" else one.opcode
