"""Sizes of primitives as people write them.

::

    gemm          512x512x512:NT          M x N x K; which of A and B are stored transposed
                  512x512x512:bf16        after all that, fp16, bf16 or tf32
    batched_gemm  96x128x128x64:NT        batch x M x N x K, and the same
    conv2d        16x96x27x27:256k5s1p2   batch x channels x height x width : filters, kernel,
                                          then stride, padding, dilation (d), groups (g) if any
    lstm_cell     64x512x512x25           batch x input x hidden x steps
    every one     elements=4096,rate=0.1  the fields of the primitive; 3x5 is a pair

Any whole number may be a range: ``256..2048`` doubles, ``256..4096*4`` quadruples and
``100..500+100`` adds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from kernelprof.errors import UsageError
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.memory_bound import ACTIVATIONS, POOLINGS
from kernelprof.probes.primitive import Primitive
from kernelprof.probes.primitives import PRIMITIVES

MOST_SIZES = 1000  # that one range may stand for
MOST_DIGITS = 12  # of a number: what is larger fits no machine, and no error message
MOST_SHOWN = 60  # characters of a text that is refused
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)(?:([*+])([0-9]+))?")
DIMENSIONS = r"[0-9]+(?:x[0-9]+)*"
STORED = r"(?::([NT])([NT]))?"
SUFFIXES = {"fp16": "float16", "bf16": "bfloat16", "tf32": "tf32"}
GEMM = re.compile(r"([0-9]+)x([0-9]+)x([0-9]+)" + STORED + rf"(?::({'|'.join(SUFFIXES)}))?")
BATCHED_GEMM = re.compile(r"([0-9]+)x([0-9]+)x([0-9]+)x([0-9]+)" + STORED)
LSTM = re.compile(r"([0-9]+)x([0-9]+)x([0-9]+)x([0-9]+)")
CONVOLUTION = re.compile(
    rf"([0-9]+)x([0-9]+)x([0-9]+)x([0-9]+):([0-9]+)k({DIMENSIONS})"
    rf"(?:s({DIMENSIONS}))?(?:p({DIMENSIONS}))?(?:d({DIMENSIONS}))?(?:g([0-9]+))?"
)


@dataclass(frozen=True)
class ShortForm:
    """How a primitive's size is written without the names of its fields."""

    pattern: str  # for people
    example: str
    read: Callable[[str], Primitive | None]  # None where the text does not look like it
    write: Callable[[Any], str]


def _read_gemm(text: str) -> Primitive | None:
    found = GEMM.fullmatch(text)
    if not found:
        return None
    m, n, k = map(int, found.groups()[:3])
    dtype = SUFFIXES.get(found[6], "float32")
    return Gemm(m, n, k, trans_a=found[4] == "T", trans_b=found[5] == "T", dtype=dtype)


def _write_gemm(gemm: Gemm | BatchedGemm) -> str:
    stored = "".join("NT"[transposed] for transposed in (gemm.trans_a, gemm.trans_b))
    options = [stored] if stored != "NN" else []
    options += [suffix for suffix, dtype in SUFFIXES.items() if dtype == gemm.dtype]
    return ":".join([f"{gemm.m}x{gemm.n}x{gemm.k}", *options])


def _read_batched_gemm(text: str) -> Primitive | None:
    found = BATCHED_GEMM.fullmatch(text)
    if not found:
        return None
    batch, m, n, k = map(int, found.groups()[:4])
    return BatchedGemm(batch, m, n, k, trans_a=found[5] == "T", trans_b=found[6] == "T")


def _write_batched_gemm(gemm: BatchedGemm) -> str:
    return f"{gemm.batch}x{_write_gemm(gemm)}"


def _read_lstm(text: str) -> Primitive | None:
    found = LSTM.fullmatch(text)
    if not found:
        return None
    batch, input_size, hidden, steps = map(int, found.groups())
    return LstmCell(batch, input_size, hidden, steps)


def _write_lstm(cell: LstmCell) -> str:
    return f"{cell.batch}x{cell.input_size}x{cell.hidden_size}x{cell.steps}"


def _read_convolution(text: str) -> Primitive | None:
    found = CONVOLUTION.fullmatch(text)
    if not found:
        return None
    batch, channels, height, width, filters = map(int, found.groups()[:5])
    kernel, stride, padding, dilation, groups = found.groups()[5:]
    return Conv2d(
        *(batch, channels, height, width, filters),
        kernel=_pair(kernel),
        stride=_pair(stride or "1"),
        padding=_frame(padding or "0"),
        dilation=_pair(dilation or "1"),
        groups=int(groups or "1"),
    )


def _write_convolution(conv: Conv2d) -> str:
    options = {
        "k": _dimensions(conv.kernel),
        "s": _dimensions(conv.stride) if conv.stride != (1, 1) else "",
        "p": _dimensions(conv.padding) if any(conv.padding) else "",
        "d": _dimensions(conv.dilation) if conv.dilation != (1, 1) else "",
        "g": str(conv.groups) if conv.groups > 1 else "",
    }
    image = f"{conv.batch}x{conv.in_channels}x{conv.height}x{conv.width}"
    written = "".join(letter + value for letter, value in options.items() if value)
    return f"{image}:{conv.out_channels}{written}"


SHORT_FORMS = {
    "gemm": ShortForm("MxNxK, MxNxK:NT, MxNxK:bf16", "512x512x512", _read_gemm, _write_gemm),
    "batched_gemm": ShortForm(
        "BATCHxMxNxK, BATCHxMxNxK:NT",
        "96x128x128x64:NT",
        _read_batched_gemm,
        _write_batched_gemm,
    ),
    "conv2d": ShortForm(
        "BATCHxCHANNELSxHEIGHTxWIDTH:FILTERSkKERNELsSTRIDEpPADDING",
        "16x96x27x27:256k5s1p2",
        _read_convolution,
        _write_convolution,
    ),
    "lstm_cell": ShortForm("BATCHxINPUTxHIDDENxSTEPS", "64x512x512x25", _read_lstm, _write_lstm),
}


def primitives(kind: str, text: str) -> list[Primitive]:
    """The primitives of a kind that a text stands for; more than one if it holds ranges.

    >>> [written(one) for one in primitives("gemm", "256..1024x8x8:NT")]
    ['256x8x8:NT', '512x8x8:NT', '1024x8x8:NT']

    Raises:
        UsageError: no such kind, or it is no size of it.
    """
    known_kind(kind)
    try:
        return [_primitive(kind, size) for size in _expanded(text.strip())]
    except ValueError as error:
        raise UsageError(f"{kind} size {_shown(text)}: {_reason(kind, error)}") from error


def known_kind(kind: str) -> str:
    """The kind itself.

    Raises:
        UsageError: no primitive is of this kind.
    """
    if kind not in PRIMITIVES:
        near = get_close_matches(kind.lower(), PRIMITIVES, n=1)
        meant = f"; did you mean {near[0]}?" if near else ";"
        raise UsageError(f"unknown primitive {kind!r}{meant} known: {', '.join(PRIMITIVES)}")
    return kind


def sorted_out(
    kind: str, texts: Iterable[tuple[str, str]]
) -> tuple[list[Primitive], list[UsageError]]:
    """The primitives of those texts that are sizes, and what is wrong with the others.

    Before each text comes where it stands, for the message.
    """
    found: list[Primitive] = []
    mistakes: list[UsageError] = []
    for where, text in texts:
        try:
            found += primitives(kind, text)
        except UsageError as error:
            mistakes.append(UsageError(f"{where}{error}"))
    return found, mistakes


def read_file(kind: str, path: Path) -> list[tuple[str, str]]:
    """The texts of a file with a size a line, each after the line that it stands in.

    What follows a ``#`` is a comment.

    Raises:
        UsageError: it cannot be read, or no line holds anything.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read {path}: {reason}") from error
    texts = [line.partition("#")[0].strip() for line in lines]
    if not any(texts):
        raise UsageError(f"{path} holds no size; write one a line, such as {example(kind)}")
    return [(f"{path}, line {number}: ", text) for number, text in enumerate(texts, 1) if text]


def written(primitive: Primitive) -> str:
    """The size as ``primitives`` reads it: in its short form if that says everything.

    >>> written(Conv2d(16, 96, 27, 27, 256, (5, 5), padding=(2, 2, 2, 2)))
    '16x96x27x27:256k5p2'
    """
    short = SHORT_FORMS.get(primitive.kind)
    if short is not None and short.read(short.write(primitive)) == primitive:
        return short.write(primitive)
    return ",".join(
        f"{field.name}={_text(getattr(primitive, field.name))}"
        for field in fields(primitive)
        if getattr(primitive, field.name) != field.default
    )


def example(kind: str) -> str:
    """A size of this kind."""
    if kind in SHORT_FORMS:
        return SHORT_FORMS[kind].example
    functions = {"activation": next(iter(ACTIVATIONS)), "pool2d": POOLINGS[0]}
    values = {"int": "64", "str": functions.get(kind), "tuple[int, int]": "3x3"}
    needed = [field for field in fields(PRIMITIVES[kind]) if field.default is MISSING]
    return ",".join(f"{field.name}={values[str(field.type)]}" for field in needed)


def _primitive(kind: str, text: str) -> Primitive:
    if "=" not in text and kind in SHORT_FORMS:
        found = SHORT_FORMS[kind].read(text)
        if found is None:
            raise ValueError(f"{SHORT_FORMS[kind].pattern} is needed, such as {example(kind)}")
        return found
    return PRIMITIVES[kind](**_fields(kind, text))


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "...")


def _reason(kind: str, error: ValueError) -> str:
    return str(error).removeprefix(f"{kind}: ")  # the sentence names it already


def _fields(kind: str, text: str) -> dict[str, Any]:
    """The values of a primitive's fields.

    Raises:
        ValueError: a field that the primitive has not, one too few, or no value of its type.
    """
    known = {field.name: field for field in fields(PRIMITIVES[kind])}
    found = {}
    for word in text.split(","):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or name not in known:
            raise ValueError(f"FIELD=VALUE,... is needed, of the fields {', '.join(known)}")
        found[name] = _value(name, value, str(known[name].type))
    missing = [n for n, field in known.items() if field.default is MISSING and n not in found]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be said too, such as {example(kind)}")
    return found


def _value(name: str, text: str, type_: str) -> Any:
    """The value of a field; what is no number stays text, which the primitive then refuses."""
    if type_ == "bool":
        if text not in ("true", "false"):
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return text == "true"
    if type_ == "float":
        return _finite(name, text)
    if type_.startswith("tuple"):
        return _frame(text) if type_.count("int") == 4 else _pair(text)
    return _whole(text) if type_ == "int" else text


def _finite(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {text!r}")
    return number


def _whole(text: str) -> Any:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _pair(text: str) -> Any:
    """Vertical and horizontal; one number stands for both."""
    numbers = tuple(map(_whole, text.split("x")))
    return numbers * 2 if len(numbers) == 1 else numbers


def _frame(text: str) -> Any:
    """Top, bottom, left, right; one number stands for all, a pair is vertical x horizontal."""
    numbers = _pair(text)
    return (numbers[0],) * 2 + (numbers[1],) * 2 if len(numbers) == 2 else numbers


def _dimensions(numbers: tuple[int, ...]) -> str:
    """The shortest text that ``_pair`` or ``_frame`` reads as these."""
    if len(set(numbers)) == 1:
        return str(numbers[0])
    if len(numbers) == 4 and numbers[0] == numbers[1] and numbers[2] == numbers[3]:
        numbers = numbers[::2]
    return "x".join(map(str, numbers))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return _dimensions(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _expanded(text: str) -> list[str]:
    """The text with each number of each range in its place.

    Raises:
        ValueError: a range that holds nothing, or more than is sensible.
    """
    if re.search(rf"[0-9]{{{MOST_DIGITS + 1}}}", text):
        raise ValueError(f"a number has at most {MOST_DIGITS} digits")
    found = RANGE.search(text)
    if found is None:
        return [text]
    rests = _expanded(text[found.end() :])
    numbers = list(islice(_numbers(found), MOST_SIZES + 1))
    if len(numbers) * len(rests) > MOST_SIZES:
        raise ValueError(f"it stands for more than {MOST_SIZES} sizes")
    return [text[: found.start()] + str(number) + rest for number in numbers for rest in rests]


def _numbers(found: re.Match[str]) -> Iterator[int]:
    low, high, step = int(found[1]), int(found[2]), int(found[4] or 2)
    adds = found[3] == "+"
    if not 1 <= low <= high or step < (1 if adds else 2):
        raise ValueError(
            f"{found[0]} is no range: it starts from 1, ends above, and doubles (256..2048), "
            "multiplies (256..4096*4) or adds (100..500+100)"
        )
    return takewhile(lambda number: number <= high, _grow(low, step, adds))


def _grow(number: int, step: int, adds: bool) -> Iterator[int]:
    while True:
        yield number
        number = number + step if adds else number * step
