"""Read the text of a compiled program (XLA's HLO): computations, instructions, shapes, and how often each runs.

The text is what `compiled.as_text()` gives after partitioning, so all shapes are those of one device.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {
    "pred": 8, "s2": 2, "s4": 4, "s8": 8, "s16": 16, "s32": 32, "s64": 64, "u2": 2, "u4": 4, "u8": 8, "u16": 16,
    "u32": 32, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "f4e2m1fn": 4,
}  # fmt: skip

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.~-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.~-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w-]*)\(")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation|called_computations)=%?([\w.~-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Array(NamedTuple):
    """One array of a shape: element type, sizes, how it is stored.

    space: the memory of its layout (0: the chip's main memory).
    order: its axes from the one that varies fastest on.
    tile: sizes to multiples of which the fastest axes are padded, the fastest last; () where there is no padding.
    """

    dtype: str
    sizes: tuple[int, ...]
    space: int
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of its elements, without padding."""
        return self._bytes(math.prod(self.sizes))

    @property
    def stored(self) -> int:
        """Bytes that it takes in memory: whole tiles."""
        sizes = [self.sizes[axis] for axis in reversed(self.order)] if self.order else list(self.sizes)
        sizes = [1] * (len(self.tile) - len(sizes)) + sizes
        for place, unit in enumerate(reversed(self.tile), 1):
            sizes[-place] = -(-sizes[-place] // unit) * unit
        return self._bytes(math.prod(sizes))

    def _bytes(self, count: int) -> int:
        bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return -(-count * bits // 8)


class Instruction(NamedTuple):
    """One line of a computation.

    shape: text of its result's shape.
    operands: names of the instructions it reads.
    arguments: the text between its parentheses.
    attributes: the text after them.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    @property
    def op_name(self) -> str:
        """The path of JAX's operation that it was made for; "" where the compiler does not say."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs or applies."""
        names = _CALLED.findall(self.attributes)
        for listed in _BRANCHES.findall(self.attributes):
            names += [name.strip().lstrip("%") for name in listed.split(",")]
        return tuple(dict.fromkeys(names))


class Computation(NamedTuple):
    """A named list of instructions, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(one for one in reversed(self.instructions.values()) if one.root)


class Module(NamedTuple):
    """A compiled program: its computations by name, and the name of the one that begins."""

    computations: dict[str, Computation]
    entry: str


def arrays(shape: str) -> list[Array]:
    """List the arrays of a shape's text, tuples flattened: "(f32[2,3]{1,0}, s32[])" has two."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(shape):
        if dtype in BITS or dtype.startswith("f8") or dtype == "token":
            space = re.search(r"S\((\d+)\)", layout)
            tile = re.search(r":T\(([\d,]+)\)", layout)
            order = re.match(r"\{([\d,]+)", layout)
            numbers = tuple(int(size.removeprefix("<=")) for size in sizes.split(",") if size)
            found.append(Array(dtype, numbers, int(space[1]) if space else 0, _numbers(order), _numbers(tile)))
    return found


def parts(shape: str) -> list[str]:
    """Split the text of a tuple's shape into its elements' shapes, one level deep; any other shape is its only part."""
    shape = shape.strip()
    if not shape.startswith("("):
        return [shape]
    return [part.strip() for part in _split(shape[1 : _closing(shape, 0)])]


def parse(text: str) -> Module:
    """Read a program's text.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = Computation(head[2], {})
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif (found := _LINE.match(line)) and (one := _instruction(found[2], found[3], bool(found[1]))):
            current.instructions[one.name] = one
    if not entry:
        raise ValueError("the text is no compiled program: it has no ENTRY computation")
    return Module(computations, entry)


def runs(module: Module) -> dict[str, tuple[int, bool]]:
    """Say how often each computation runs in one run of the program: (times, whether all loops around it are known).

    A loop whose number of turns the program does not state counts as one turn, and marks what is in it as not known.
    A branch of a conditional counts as taken. Fused and applied computations run as often as what calls them.
    """
    found: dict[str, tuple[int, bool]] = {}

    def visit(name: str, times: int, known: bool) -> None:
        before, sure = found.get(name, (0, True))
        found[name] = (before + times, sure and known)
        for one in module.computations[name].instructions.values():
            trips = trip_count(module, module.computations[name], one) if one.opcode == "while" else 1
            for called in one.called:
                if called in module.computations:
                    visit(called, times * (1 if trips is None else trips), known and trips is not None)

    visit(module.entry, 1, True)
    return found


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """Give the turns of a `while`; None where they depend on data.

    XLA states them where it has found them out; else they are read from a counter that is compared with a constant.
    """
    if stated := _TRIPS.search(loop.attributes):
        return int(stated[1])
    condition = module.computations.get(_attribute(loop, "condition"))
    body = module.computations.get(_attribute(loop, "body"))
    if condition is None or body is None:
        return None
    compared = _comparison(module, condition)
    if compared is None:
        return None
    index, limit, inclusive = compared
    step = _increment(module, body, index)
    start = _initial(computation, loop, index)
    if step is None or start is None or step <= 0:
        return None
    return max(0, -(-(limit + inclusive - start) // step))


def _numbers(found: re.Match[str] | None) -> tuple[int, ...]:
    return tuple(int(number) for number in found[1].split(",") if number) if found else ()


def _instruction(name: str, rest: str, root: bool) -> Instruction | None:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end)
    if end <= 0 or opcode is None:
        return None
    close = _closing(rest, opcode.end() - 1)
    arguments = rest[opcode.end() : close]
    operands = tuple(
        part.split()[-1].lstrip("%") for part in _split(re.sub(r"/\*.*?\*/", "", arguments)) if part.strip()
    )
    return Instruction(name, rest[:end], opcode[1], operands, arguments, rest[close + 1 :], root)


def _closing(text: str, start: int) -> int:
    """Find the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _split(text: str) -> Iterator[str]:
    """Split at the commas that stand in no bracket."""
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield text[begin:place]
            begin = place + 1
    if text[begin:].strip():
        yield text[begin:]


def _attribute(one: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.~-]+)", one.attributes)
    return found[1] if found else ""


def _constant(one: Instruction | None) -> int | None:
    if one is None or one.opcode != "constant":
        return None
    return int(one.arguments) if re.fullmatch(r"-?\d+", one.arguments.strip()) else None


def _source(computation: Computation, name: str) -> Instruction | None:
    """Follow copies and casts back to what makes a value."""
    one = computation.instructions.get(name)
    while one is not None and one.opcode in ("copy", "bitcast", "convert") and one.operands:
        one = computation.instructions.get(one.operands[0])
    return one


def _index(one: Instruction | None) -> int | None:
    """Which element of the loop's state a value is."""
    found = re.search(r"\bindex=(\d+)", one.attributes) if one is not None and "get-tuple" in one.opcode else None
    return int(found[1]) if found else None


def _inlined(module: Module, computation: Computation, one: Instruction) -> tuple[str, list[Instruction | None], str]:
    """Give opcode, what the operands are made of outside, and attributes; a fusion of one operation is that one."""
    if one.opcode == "fusion" and one.called and one.called[0] in module.computations:
        fused = module.computations[one.called[0]]
        outside = []
        for name in fused.root.operands:
            inner = _source(fused, name)
            if inner is not None and inner.opcode == "parameter":
                inner = _source(computation, one.operands[int(inner.arguments)])
            outside.append(inner)
        return fused.root.opcode, outside, fused.root.attributes
    return one.opcode, [_source(computation, name) for name in one.operands], one.attributes


def _comparison(module: Module, condition: Computation) -> tuple[int, int, int] | None:
    """Read `state[index] < limit` (or <=) from a loop's condition: index, limit, 1 where the limit is included."""
    opcode, operands, attributes = _inlined(module, condition, condition.root)
    direction = re.search(r"direction=(\w+)", attributes)
    if opcode != "compare" or direction is None or direction[1] not in ("LT", "LE") or len(operands) != 2:
        return None
    index, limit = _index(operands[0]), _constant(operands[1])
    return None if index is None or limit is None else (index, limit, int(direction[1] == "LE"))


def _increment(module: Module, body: Computation, index: int) -> int | None:
    if body.root.opcode != "tuple" or index >= len(body.root.operands):
        return None
    one = _source(body, body.root.operands[index])
    if one is None:
        return None
    opcode, operands, _ = _inlined(module, body, one)
    values = [_constant(operand) for operand in operands]
    steps = [
        value for value, operand in zip(values, reversed(operands)) if value is not None and _index(operand) == index
    ]
    return steps[0] if opcode == "add" and steps else None


def _initial(computation: Computation, loop: Instruction, index: int) -> int | None:
    state = _source(computation, loop.operands[0])
    if state is None or state.opcode != "tuple" or index >= len(state.operands):
        return None
    return _constant(_source(computation, state.operands[index]))
