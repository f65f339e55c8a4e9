"""What is timed: a primitive, its passes, and the arrays that each pass reads and writes.

A primitive declares its operands once; gradients, bytes, random data and checks follow from
that.  The gradient of operand ``w`` is operand ``dw`` and has the same shape.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

FORWARD = "forward"
BACKWARD_DATA = "backward_data"
BACKWARD_WEIGHTS = "backward_weights"
UPDATE = "update"
PASSES = (FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS, UPDATE)

# What lies in memory, and not in a cache, when a primitive is called.
WARM = "warm"  # nothing
WEIGHTS_COLD = "weights-cold"
COLD = "cold"  # all that is read
CACHES = (WARM, WEIGHTS_COLD, COLD)

ITEM_BYTES = {"float32": 4, "float64": 8, "int64": 8, "bool": 1}
ITEM_BYTES.update({"float16": 2, "bfloat16": 2, "tf32": 4})

FLOATS = ("float32", "float64")
# In which matrix products are computed besides.  tf32 is a float32 that holds no more than the 11
# significant bits which products in TF32 keep of their factors.
SHORTER_FLOATS = ("float16", "bfloat16", "tf32")

Shape = tuple[int, ...]
OperandTable = dict[str, tuple[str, ...]]  # pass -> names of operands


@dataclass(frozen=True)
class Operand:
    """An array of a primitive.

    ``scale`` is the standard deviation of its random data.  Integer operands are drawn from
    ``range(upper)``.  A ``saved`` operand is left by one pass for a later one (the positions of
    the maxima, the activated gates); engines keep it in a form of their own.  ``axes`` names the
    size along each leading axis that can be cut: a part of the operands along a size that every
    result of a pass has is a smaller primitive of its own.
    """

    shape: Shape
    dtype: str
    scale: float = 1.0
    upper: int = 0
    saved: bool = False
    axes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return product(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Primitive:
    """One kind of arithmetic at one size; subclasses add the sizes as fields.

    ``reads`` and ``writes`` name the operands of each pass.  ``input`` and ``output`` are the
    operands that tie a primitive to the one before and the one after it; ``second_input`` is what
    another branch of a network feeds where two meet.
    """

    kind: ClassVar[str] = ""
    compute_bound: ClassVar[bool] = False
    dtypes: ClassVar[tuple[str, ...]] = FLOATS
    input: ClassVar[str] = "x"
    second_input: ClassVar[str] = ""
    output: ClassVar[str] = "y"
    reads: ClassVar[OperandTable] = {}
    writes: ClassVar[OperandTable] = {}

    def __post_init__(self) -> None:
        """Refuse what no array can have.

        Raises:
            ValueError: a size that is not a positive integer, or an unknown dtype.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                self._require_integers(field.name, (value,), 1, least=1)
            elif str(field.type).startswith("tuple"):
                count = str(field.type).count("int")
                self._require_integers(field.name, value, count, least=0)
        dtype = getattr(self, "dtype", None)
        if dtype not in self.dtypes:
            raise ValueError(f"{self.kind}: dtype must be one of {self.dtypes}, got {dtype!r}")

    def _require_integers(self, name: str, values: object, count: int, least: int) -> None:
        valid = (
            isinstance(values, tuple)
            and len(values) == count
            and all(type(value) is int and value >= least for value in values)
        )
        if not valid:
            got = values[0] if isinstance(values, tuple) and count == 1 else values
            needed = "a whole number" if count == 1 else f"{count} whole numbers"
            raise ValueError(f"{self.kind}: {name} must be {needed} from {least}, got {got!r}")

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that do work; a bias, for one, hands its gradient on untouched."""
        return tuple(self.reads)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The operands that other layers of a network compute."""
        return (self.input, self.second_input) if self.second_input else (self.input,)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The operands that training changes: those with a gradient from the weights pass."""
        return tuple(name[1:] for name in self.writes.get(BACKWARD_WEIGHTS, ()))

    def operands(self) -> dict[str, Operand]:
        """Every operand but the gradients, by name."""
        raise NotImplementedError

    def operand(self, name: str) -> Operand:
        """The operand or gradient called ``name``."""
        known = self.operands()
        if name not in known and name.startswith("d") and name[1:] in known:
            primal = known[name[1:]]
            return Operand(primal.shape, primal.dtype, saved=primal.saved, axes=primal.axes)
        return known[name]

    def flop(self, pass_: str) -> int:
        """Floating-point operations of one pass; a multiply-add is 2."""
        raise NotImplementedError

    def least_flop(self, pass_: str) -> int:
        """Those that cannot be left out; a convolution's products with its padding can."""
        return self.flop(pass_)

    def least_bytes(self, pass_: str) -> int:
        """Bytes that must move if every operand is read or written once.

        Saved operands do not count: an engine may keep them smaller, or compute them again.
        """
        touched = [self.operand(name) for name in self.reads[pass_] + self.writes[pass_]]
        return sum(operand.size_bytes for operand in touched if not operand.saved)

    @property
    def sizes(self) -> str:
        """The sizes as short as they can be said."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Kind and sizes on one line, as ranges and tables show them."""
        return f"{self.kind} {self.sizes}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` of the registry turns back."""
        return {"kind": self.kind, **asdict(self)}


def short(options: dict[str, object]) -> str:
    """Options that are set, as they stand in labels; pairs of equal numbers are said once."""
    words = []
    for name, value in options.items():
        if isinstance(value, tuple):
            value = value[0] if len(set(value)) == 1 else "x".join(map(str, value))
        if value is True:
            words.append(name)
        elif value:
            words.append(f"{name}={value}")
    return "".join(f" {word}" for word in words)


def product(sizes: tuple[int, ...]) -> int:
    """The number of elements of a shape."""
    result = 1
    for size in sizes:
        result *= size
    return result
