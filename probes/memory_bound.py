"""The memory-bound primitives: little arithmetic per byte, so bandwidth sets their time.

Their flop count adds, multiplications, comparisons and transcendental functions as one each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .compute_bound import window_extent
from .primitive import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    UPDATE,
    Operand,
    OperandTable,
    Primitive,
    product,
    short,
)

# The flop of an element, forward and backward.
ACTIVATIONS = {"relu": (1, 1), "sigmoid": (3, 3), "tanh": (3, 3), "gelu": (5, 11)}
POOLINGS = ("max", "average")


@dataclass(frozen=True)
class Bias(Primitive):
    """y[batch, channels, positions] = x + bias[channels]; its gradient for x is dy itself."""

    kind: ClassVar[str] = "bias"
    reads: ClassVar[OperandTable] = {FORWARD: ("x", "bias"), BACKWARD_WEIGHTS: ("dy",)}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_WEIGHTS: ("dbias",)}

    batch: int
    channels: int
    positions: int = 1
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        image = Operand(
            (self.batch, self.channels, self.positions), self.dtype, axes=("batch", "channels")
        )
        bias = Operand((self.channels,), self.dtype, scale=0.1, axes=("channels",))
        return {"x": image, "bias": bias, "y": image}

    @property
    def sizes(self) -> str:
        return f"{self.batch}x{self.channels}x{self.positions}"

    def flop(self, pass_: str) -> int:
        return self.batch * self.channels * self.positions


@dataclass(frozen=True)
class Activation(Primitive):
    """y = function(x), element by element; the gradient is taken from y, that of a GELU from x.

    gelu(x) = x (1 + erf(x / sqrt(2))) / 2 (Hendrycks & Gimpel 2016, arXiv:1606.08415), not its
    approximation by a tanh.
    """

    kind: ClassVar[str] = "activation"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("y", "dy")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_DATA: ("dx",)}

    function: str
    elements: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.function not in ACTIVATIONS:
            raise ValueError(
                f"activation: function must be one of {tuple(ACTIVATIONS)}, got {self.function!r}"
            )
        if self.function == "gelu":  # it falls and rises: one y has two slopes
            object.__setattr__(self, "reads", {FORWARD: ("x",), BACKWARD_DATA: ("x", "dy")})

    def operands(self) -> dict[str, Operand]:
        flat = Operand((self.elements,), self.dtype, axes=("elements",))
        return {"x": flat, "y": flat}

    @property
    def sizes(self) -> str:
        return f"{self.function} {self.elements}"

    def flop(self, pass_: str) -> int:
        forward, backward = ACTIVATIONS[self.function]
        return (forward if pass_ == FORWARD else backward) * self.elements


@dataclass(frozen=True)
class Pool2d(Primitive):
    """The maximum or the average of a sliding window over images.

    An average divides by the window's full size, padding included, but counts no position
    beyond the padded image (the rule of Caffe and PyTorch for partial windows).
    ``argmax`` is the winner's place in its flattened image.
    """

    kind: ClassVar[str] = "pool2d"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("argmax", "dy")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y", "argmax"), BACKWARD_DATA: ("dx",)}

    function: str
    batch: int
    channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.function not in POOLINGS:
            raise ValueError(f"pool2d: function must be one of {POOLINGS}, got {self.function!r}")
        if any(pad >= self.kernel[place // 2] for place, pad in enumerate(self.padding)):
            raise ValueError(
                f"pool2d: padding {self.padding} must be smaller than the kernel {self.kernel}, "
                "or windows hold no pixel"
            )
        self._extent()

    def _extent(self) -> tuple[int, int]:
        return window_extent(
            self.kind,
            (self.height, self.width),
            self.kernel,
            self.stride,
            self.padding,
            ceil=self.ceil,
        )

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self._extent()

    def operands(self) -> dict[str, Operand]:
        axes = ("batch", "channels")
        image = (self.batch, self.channels, self.height, self.width)
        output = (self.batch, self.channels, *self.extent)
        saved = output if self.function == "max" else (0,)
        return {
            "x": Operand(image, self.dtype, axes=axes),
            "y": Operand(output, self.dtype, axes=axes),
            "argmax": Operand(saved, "int64", saved=True, axes=axes),
        }

    @property
    def sizes(self) -> str:
        options = short({"pad": self.padding if any(self.padding) else 0, "ceil": self.ceil})
        image = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        kernel = "x".join(map(str, self.kernel))
        return f"{self.function} {image}, {kernel}{short({'stride': self.stride})}{options}"

    def flop(self, pass_: str) -> int:
        return self.batch * self.channels * product(self.extent) * product(self.kernel)


@dataclass(frozen=True)
class LocalResponseNorm(Primitive):
    """y = x / norm**beta, norm = k + alpha / size * (sum of x**2 over ``size`` channels).

    The window is centred on the channel (Krizhevsky et al. 2012, section 3.3, with alpha divided
    by the window's size as Caffe and PyTorch do).
    """

    kind: ClassVar[str] = "lrn"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("x", "norm", "dy")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y", "norm"), BACKWARD_DATA: ("dx",)}

    batch: int
    channels: int
    positions: int
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        shape = (self.batch, self.channels, self.positions)
        return {
            "x": Operand(shape, self.dtype),
            "y": Operand(shape, self.dtype),
            "norm": Operand(shape, self.dtype, saved=True),
        }

    @property
    def sizes(self) -> str:
        return f"{self.batch}x{self.channels}x{self.positions} size={self.size}"

    def flop(self, pass_: str) -> int:
        return self.batch * self.channels * self.positions * (self.size + 4)


@dataclass(frozen=True)
class BatchNorm(Primitive):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, per channel.

    Mean and (biased) variance are those of the batch when ``training`` (Ioffe & Szegedy 2015),
    else the running ones.  ``mean`` and ``deviation`` = sqrt(variance + epsilon) are saved.
    """

    kind: ClassVar[str] = "batch_norm"
    reads: ClassVar[OperandTable] = {
        FORWARD: ("x", "gamma", "beta", "running_mean", "running_variance"),
        BACKWARD_DATA: ("x", "gamma", "mean", "deviation", "dy"),
        BACKWARD_WEIGHTS: ("x", "mean", "deviation", "dy"),
    }
    writes: ClassVar[OperandTable] = {
        FORWARD: ("y", "mean", "deviation"),
        BACKWARD_DATA: ("dx",),
        BACKWARD_WEIGHTS: ("dgamma", "dbeta"),
    }

    batch: int
    channels: int
    positions: int
    training: bool = False
    epsilon: float = 1e-5
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        shape = (self.batch, self.channels, self.positions)
        channel = Operand((self.channels,), self.dtype)
        saved = Operand((self.channels,), self.dtype, saved=True)
        return {
            "x": Operand(shape, self.dtype),
            "gamma": channel,
            "beta": channel,
            "running_mean": channel,
            "running_variance": Operand((self.channels,), self.dtype, scale=0.0),
            "y": Operand(shape, self.dtype),
            "mean": saved,
            "deviation": saved,
        }

    @property
    def sizes(self) -> str:
        options = short({"training": self.training})
        return f"{self.batch}x{self.channels}x{self.positions}{options}"

    def flop(self, pass_: str) -> int:
        return 5 * self.batch * self.channels * self.positions


@dataclass(frozen=True)
class Dropout(Primitive):
    """y = x * mask / (1 - rate); ``mask`` keeps a random share of 1 - rate of the elements."""

    kind: ClassVar[str] = "dropout"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("mask", "dy")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y", "mask"), BACKWARD_DATA: ("dx",)}

    elements: int
    rate: float = 0.5
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout: rate must be at least 0 and below 1, got {self.rate!r}")

    def operands(self) -> dict[str, Operand]:
        flat = Operand((self.elements,), self.dtype, axes=("elements",))
        return {
            "x": flat,
            "y": flat,
            "mask": Operand((self.elements,), "bool", saved=True, axes=("elements",)),
        }

    @property
    def sizes(self) -> str:
        return f"{self.elements} rate={self.rate:g}"

    def flop(self, pass_: str) -> int:
        return 2 * self.elements


@dataclass(frozen=True)
class SoftmaxLoss(Primitive):
    """loss = mean over rows of -log softmax(x[rows, classes])[labels]."""

    kind: ClassVar[str] = "softmax_loss"
    output: ClassVar[str] = "loss"
    reads: ClassVar[OperandTable] = {
        FORWARD: ("x", "labels"),
        BACKWARD_DATA: ("probabilities", "labels"),
    }
    writes: ClassVar[OperandTable] = {FORWARD: ("loss", "probabilities"), BACKWARD_DATA: ("dx",)}

    rows: int
    classes: int
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        logits = (self.rows, self.classes)
        return {
            "x": Operand(logits, self.dtype),
            "labels": Operand((self.rows,), "int64", upper=self.classes),
            "loss": Operand((1,), self.dtype),
            "probabilities": Operand(logits, self.dtype, saved=True),
        }

    @property
    def sizes(self) -> str:
        return f"{self.rows}x{self.classes}"

    def flop(self, pass_: str) -> int:
        return 4 * self.rows * self.classes


@dataclass(frozen=True)
class Embedding(Primitive):
    """y[tokens, size] = rows ``ids`` of table[vocabulary, size]; its gradient is dense."""

    kind: ClassVar[str] = "embedding"
    input: ClassVar[str] = "ids"
    reads: ClassVar[OperandTable] = {FORWARD: ("ids", "table"), BACKWARD_WEIGHTS: ("ids", "dy")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_WEIGHTS: ("dtable",)}

    tokens: int
    vocabulary: int
    size: int
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        return {
            "ids": Operand((self.tokens,), "int64", upper=self.vocabulary, axes=("tokens",)),
            "table": Operand((self.vocabulary, self.size), self.dtype, axes=("", "size")),
            "y": Operand((self.tokens, self.size), self.dtype, axes=("tokens", "size")),
        }

    @property
    def sizes(self) -> str:
        return f"{self.tokens} of {self.vocabulary}x{self.size}"

    def flop(self, pass_: str) -> int:
        return 0 if pass_ == FORWARD else self.tokens * self.size

    def least_bytes(self, pass_: str) -> int:
        """Only the rows looked up are read; the dense gradient is written whole."""
        whole = super().least_bytes(pass_)
        if pass_ != FORWARD:
            return whole
        table, rows = self.operand("table").size_bytes, self.operand("y").size_bytes
        return whole - table + min(table, rows)


@dataclass(frozen=True)
class Add(Primitive):
    """y = x + other, where branches join or gradients of a fork meet."""

    kind: ClassVar[str] = "add"
    second_input: ClassVar[str] = "other"
    reads: ClassVar[OperandTable] = {FORWARD: ("x", "other")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",)}

    elements: int
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        flat = Operand((self.elements,), self.dtype, axes=("elements",))
        return {"x": flat, "other": flat, "y": flat}

    @property
    def sizes(self) -> str:
        return f"{self.elements}"

    def flop(self, pass_: str) -> int:
        return self.elements


@dataclass(frozen=True)
class PadChannels(Primitive):
    """y = x with channels of zeros after its own.

    A shortcut without parameters, where a residual network widens (He et al. 2015, section 3.3,
    option A).
    """

    kind: ClassVar[str] = "pad_channels"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("dy",)}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_DATA: ("dx",)}

    batch: int
    channels: int
    positions: int
    added: int
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        axes = ("batch", "", "positions")
        widened = (self.batch, self.channels + self.added, self.positions)
        return {
            "x": Operand((self.batch, self.channels, self.positions), self.dtype, axes=axes),
            "y": Operand(widened, self.dtype, axes=axes),
        }

    @property
    def sizes(self) -> str:
        return f"{self.batch}x{self.channels}x{self.positions} added={self.added}"

    def flop(self, pass_: str) -> int:
        return 0

    def least_bytes(self, pass_: str) -> int:
        """On the way back the gradients of the zeros are not read."""
        whole = super().least_bytes(pass_)
        unread = self.operand("y").size_bytes - self.operand("x").size_bytes
        return whole if pass_ == FORWARD else whole - unread


@dataclass(frozen=True)
class SgdUpdate(Primitive):
    """v = momentum v + dw;  w = w - learning_rate v  (Polyak 1964); without momentum v is dw."""

    kind: ClassVar[str] = "sgd_update"
    input: ClassVar[str] = "w"
    output: ClassVar[str] = "w"
    reads: ClassVar[OperandTable] = {UPDATE: ("w", "dw", "v")}
    writes: ClassVar[OperandTable] = {UPDATE: ("w", "v")}

    elements: int
    momentum: float = 0.0
    learning_rate: float = 1e-4
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        velocity = self.elements if self.momentum else 0
        return {
            "w": Operand((self.elements,), self.dtype, axes=("elements",)),
            "v": Operand((velocity,), self.dtype, axes=("elements",)),
        }

    @property
    def sizes(self) -> str:
        return f"{self.elements}{short({'momentum': self.momentum})}"

    def flop(self, pass_: str) -> int:
        return (4 if self.momentum else 2) * self.elements


@dataclass(frozen=True)
class Copy(Primitive):
    """y = x into other memory."""

    kind: ClassVar[str] = "copy"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",)}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",)}

    elements: int
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        flat = Operand((self.elements,), self.dtype, axes=("elements",))
        return {"x": flat, "y": flat}

    @property
    def sizes(self) -> str:
        return f"{self.elements}"

    def flop(self, pass_: str) -> int:
        return 0
