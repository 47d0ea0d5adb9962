"""Plain data out of a pickle, without executing it.

A pickle is a program for a small stack machine, and two of its instructions import and call whatever they name. This
is another machine for the same instructions: it has no import, and the only calls it can make are to functions given
by the caller, under names that must match. What it builds is plain data, so nothing in a file can run.
"""

import io
import pickletools
import warnings
from collections.abc import Callable, Mapping, Sized
from typing import Any, NamedTuple

from mapjax.weights import budget
from mapjax.weights.budget import NotPlain


class Executable(NotPlain):
    """The pickle names something that it may not have."""


class Call(NamedTuple):
    """What a pickle may call under the name that it is known by."""

    make: Callable[..., Any]


def interpret(
    stream: bytes | io.BufferedIOBase, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read one pickle, of any protocol up to 4.

    Args:
      stream: the pickle, or an open file, which is left behind the pickle's end.
      known: what the names of a pickle stand for, besides plain containers: "module.name" → a `Call`, or a value.
      persistent: of an id that the writer gave out → the value that it stands for.

    Returns:
      None, bool, int, float, str, bytes, tuples, lists, dicts, and what `known` and `persistent` made. A set becomes a
      list. Entries of a dict whose key is not a str, a number (of 64 bits), bytes or None are dropped, and so is the
      state of objects: no hashing and no setting of attributes is left to the file.

    Raises:
      Executable: it names anything else.
      NotPlain: it is cut short, is no pickle, or takes more than `budget` allows.
    """
    machine = _Machine({**PLAIN, **known}, persistent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings that are badly written, which is damage like any other
            return machine.run(_Bounded(io.BytesIO(stream) if isinstance(stream, bytes) else stream))
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise NotPlain("is cut short or damaged: its list of tensors is not a whole pickle.") from error


class _Bounded:
    """A file of which only so many bytes can be read, whatever lengths a pickle gives."""

    def __init__(self, file: io.BufferedIOBase):
        self.file, self.limit = file, budget.allowed(budget.PICKLE)
        self.left = self.limit

    def read(self, count: int) -> bytes:
        return self._counted(self.file.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise budget.exceeded(self.limit, "bytes of a pickle")
        return data


class _Machine:
    """The state of a reading: values under construction, those set aside at each mark, and those remembered."""

    def __init__(self, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.aside: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.limit = self.left = budget.allowed(budget.ELEMENTS)

    def run(self, stream: Any) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                break
            self.spend(1)
            if opcode.name not in _INSTRUCTIONS:
                raise NotPlain(f"holds the pickle instruction {opcode.name}, which plain data does not need.")
            _INSTRUCTIONS[opcode.name](self, argument)
        return _without_makers(self.stack.pop())

    def spend(self, elements: int) -> None:
        self.left -= elements
        if self.left < 0:
            raise budget.exceeded(self.limit, "elements of a pickle")

    def mark(self, _) -> None:
        self.aside.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        values, self.stack = self.stack, self.aside.pop()
        return values

    def top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError(count)
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values


def _without_makers(value: Any) -> Any:
    """Give a value back, unless it holds what makes plain containers: then a call is missing, as by damage."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Call) and one in PLAIN.values():
            raise TypeError("a name that is not called")
        if type(one) in (list, tuple, dict) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.values() if type(one) is dict else one)
    return value


def _push(make: Callable[..., Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(make(argument))


def _push_marked(make: Callable[..., Any]) -> Callable[[_Machine, Any], None]:
    def push(machine, _):
        value = make(machine.marked())  # which puts another stack in place
        machine.stack.append(value)

    return push


def _push_top(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.top(count)))


def _extend(take: Callable[[_Machine], list[Any]]) -> Callable[[_Machine, Any], None]:
    def extend(machine, _):
        values = take(machine)
        _of(list, machine.stack[-1]).extend(values)

    return extend


def _set_items(take: Callable[[_Machine], list[Any]]) -> Callable[[_Machine, Any], None]:
    def set_items(machine, _):
        values = take(machine)
        _of(dict, machine.stack[-1]).update(_mapping(zip(values[::2], values[1::2], strict=True)))

    return set_items


def _mapping(pairs: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs) if _is_key(key)}


def _is_key(value: Any) -> bool:
    """Tell what is hashed quickly and differently: nested tuples are not, and long integers may all have one hash."""
    return isinstance(value, str | float | bytes | None) or (isinstance(value, int) and abs(value) < 2**63)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value)} where a {kind} belongs")
    return value


def _text(argument: str) -> str:
    """Decode the strings of Python 2, which pickletools gives as Latin-1."""
    try:
        return argument.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return argument


def _remember(machine: _Machine, index: int | None) -> None:
    index = len(machine.memo) if index is None else index
    machine.memo[index] = machine.stack[-1]


def _recall(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _name(machine: _Machine, argument: str) -> None:
    _push_known(machine, argument.replace(" ", ".", 1))


def _name_on_stack(machine: _Machine, _) -> None:
    _push_known(machine, ".".join(_of(str, part) for part in machine.top(2)))


def _push_known(machine: _Machine, name: str) -> None:
    if name not in machine.known:
        raise Executable(
            f"holds executable pickle, which is not run: it asks for {name[:80]!r}; save only the tensors, with "
            "torch.save(model.state_dict(), FILE), or as .safetensors."
        )
    machine.stack.append(machine.known[name])


def _call(machine: _Machine, _) -> None:
    function, arguments = machine.top(2)
    machine.spend(sum(len(one) for one in _of(tuple, arguments) if isinstance(one, Sized)))  # it may copy them
    machine.stack.append(_of(Call, function).make(*arguments))


def _drop_state(machine: _Machine, _) -> None:
    machine.top(1)


def _persistent(machine: _Machine, _) -> None:
    if machine.persistent is None:
        raise NotPlain("holds a persistent id where none belongs.")
    machine.stack.append(machine.persistent(machine.stack.pop()))


def _nothing(machine: _Machine, argument: Any) -> None:
    del machine, argument


_NOTHING = Call(lambda *_: None)
PLAIN = {  # what plain containers call in the older protocols, and what checkpoints note of a training
    "collections.OrderedDict": Call(_mapping),
    "collections.Counter": Call(_mapping),
    "collections.defaultdict": Call(lambda *_: {}),
    **{f"{module}.{kind}": None for module in ("builtins", "__builtin__") for kind in ("dict", "float", "int", "list")},
    "builtins.set": Call(lambda items=(): list(items)),
    "__builtin__.set": Call(lambda items=(): list(items)),
    "builtins.bytes": Call(lambda: b""),
    "__builtin__.bytes": Call(lambda: b""),
    "_codecs.encode": Call(lambda text, _: _of(str, text).encode("latin-1")),
    "argparse.Namespace": Call(lambda: {}),
    **{
        f"numpy.{core}.multiarray.{name}": _NOTHING for core in ("core", "_core") for name in ("scalar", "_reconstruct")
    },
    **{
        f"{module}.{kind}Path": _NOTHING
        for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
        for kind in ("Posix", "Windows")
    },
    **dict.fromkeys(("numpy.dtype", "torch.device"), _NOTHING),
    "numpy.ndarray": None,
}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys((*_NUMBERS, *_TEXTS), _push(lambda value: value)),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push(_text)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _recall),
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    "NONE": _push(lambda _: None),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "EMPTY_LIST": _push(lambda _: []),
    "EMPTY_SET": _push(lambda _: []),
    "EMPTY_DICT": _push(lambda _: {}),
    "MARK": _Machine.mark,
    "TUPLE": _push_marked(tuple),
    "TUPLE1": _push_top(1),
    "TUPLE2": _push_top(2),
    "TUPLE3": _push_top(3),
    "LIST": _push_marked(list),
    "FROZENSET": _push_marked(list),
    "DICT": _push_marked(lambda values: _mapping(zip(values[::2], values[1::2], strict=True))),
    "APPEND": _extend(lambda machine: machine.top(1)),
    "APPENDS": _extend(_Machine.marked),
    "ADDITEMS": _extend(_Machine.marked),
    "SETITEM": _set_items(lambda machine: machine.top(2)),
    "SETITEMS": _set_items(_Machine.marked),
    "GLOBAL": _name,
    "STACK_GLOBAL": _name_on_stack,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _drop_state,
    "BINPERSID": _persistent,
}
