"""Checks the pickle in a checkpoint, before anything is built from it.

torch's weights-only loader runs no foreign code, but trusts a pickle's sizes: 400 bytes can ask for gigabytes, or for nested
lists that take forever. Here every instruction first runs on stand-ins. A pickle passes if it names only weights, numbers, text
and containers, and costs no more than its length.
"""

import pickletools
from collections.abc import Collection
from typing import Any, BinaryIO

MOST_BYTES = 1 << 25
"""Most bytes of one pickle; 1,500 weights and their optimizer have half a million."""
MOST_PARTS = 1 << 18
"""Most instructions of one pickle, and most values in its result; 1,500 weights and their optimizer have 70,000."""

STORAGES = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
"""Kinds of numbers that weights may have, and the bytes of each."""
_TENSOR = "torch._utils._rebuild_tensor_v2"
_TORCH = {_TENSOR, "torch._utils._rebuild_parameter", "collections.OrderedDict", "_codecs.encode"}
_SMALL = ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):
    """A file holds what no checkpoint needs; the message says what."""


class _Name(str):
    """A class or function that a pickle names."""


class _Made:
    """Stands in for what a pickle builds.

    Attributes:
        kind: the name of the class or function that built it, or "list", "dict", "storage".
        size: what a copy of it costs.
    """

    __slots__ = ("kind", "size")

    def __init__(self, kind: str, size: int = 1):
        self.kind, self.size = kind, size


class Walk:
    """Runs one pickle on stand-ins.

    Args:
        allowed: names that may be called besides torch's own, as `module.name`.

    Attributes:
        storages: bytes of each block of numbers that the pickle refers to, by its key.
    """

    def __init__(self, allowed: Collection[str] = ()):
        self.storages: dict[str, int] = {}
        self._allowed = _TORCH | set(allowed)
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._budget = MOST_BYTES

    def run(self, file: BinaryIO) -> Any:
        """Reads one pickle from the position of `file`, and leaves the position behind it.

        Returns:
            Its value: a number, text, or a stand-in.

        Raises:
            Refused: it holds something forbidden.
            Exception: any other: it is not a pickle, or damaged.
        """
        for parts, (opcode, value, _) in enumerate(pickletools.genops(file)):
            if parts >= MOST_PARTS:
                raise Refused("it has more parts than any checkpoint")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, value)
        raise EOFError

    def _step(self, name: str, value: Any) -> None:
        stack = self._stack
        if name in _SMALL:
            stack.append(value)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[value])
        elif name == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            items = self._to_mark()
            self._stack.append(tuple(items))
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "EMPTY_LIST":
            stack.append(_Made("list"))
        elif name == "EMPTY_DICT":
            stack.append(_Made("dict"))
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            self._add("list", len(items))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            self._add(("dict", "collections.OrderedDict"), len(items) // 2)
            # nested tuples may take forever to hash
            if any(isinstance(key, (tuple, _Made)) for key in items[::2]):
                raise Refused("it holds keys that are neither text nor numbers")
        elif name == "GLOBAL":
            stack.append(self._named(value.replace(" ", ".", 1)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(self._made(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            self._spend(state)
            if stack[-1].kind in STORAGES or stack[-1].kind in (_TENSOR, "list", "dict", "storage"):
                raise Refused("it holds more than weights and settings")
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name != "PROTO" or value != 2:
            raise ValueError(name)  # torch writes protocol 2

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _add(self, kinds: str | tuple[str, ...], count: int) -> None:
        container = self._stack[-1]
        if container.kind not in kinds:
            raise ValueError(container.kind)
        container.size += count

    def _named(self, name: str) -> _Name:
        plain = name.removeprefix("__builtin__.").removeprefix("builtins.")
        plain = "int" if plain == "long" else plain  # Python 2's, for which protocol 2 was made
        if name not in self._allowed and name not in STORAGES and f"builtins.{plain}" not in self._allowed:
            raise Refused(f"it holds {plain}, which is no weight or setting")
        return _Name(name)

    def _made(self, called: Any, arguments: Any) -> _Made:
        if not isinstance(called, _Name) or called in STORAGES or not isinstance(arguments, tuple):
            raise Refused("it holds more than weights and settings")
        self._spend(arguments)
        if called == "collections.OrderedDict" and arguments:
            raise Refused("it holds an OrderedDict that is made of others")
        if called == "_codecs.encode":
            text, code = arguments
            if not isinstance(text, str) or code != "latin1":
                raise Refused("it holds bytes in an odd code")
            return _Made(called, len(text))
        if called == _TENSOR and getattr(arguments[0], "kind", None) != "storage":
            raise Refused("it holds a tensor without numbers")
        return _Made(called)

    def _spend(self, value: Any) -> None:
        """Counts what a call copies: a value costs again each time that it is referred to."""
        self._budget -= _cost(value) + (sum(map(_cost, value)) if isinstance(value, tuple) else 0)
        if self._budget < 0:
            raise Refused("it copies more than its length")

    def _storage(self, reference: Any) -> _Made:
        """A block of numbers: `("storage", kind, key, device, count)`, in old files followed by None."""
        word, kind, key, _, count, *view = reference
        if word != "storage" or kind not in STORAGES or not isinstance(key, str) or type(count) is not int or any(view):
            kind = f"it holds {kind}, which is no weight or setting" if isinstance(kind, _Name) else "odd references"
            raise Refused(kind)
        size = count * STORAGES[kind]
        if size < 0 or self.storages.setdefault(key, size) != size:
            raise Refused("it gives a block of numbers two sizes")
        return _Made("storage")


def _cost(value: Any) -> int:
    return value.size if isinstance(value, _Made) else len(value) if isinstance(value, (str, bytes, tuple)) else 1
