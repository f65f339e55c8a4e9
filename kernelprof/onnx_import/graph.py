"""An ONNX file as a graph of known shapes.  Nothing of it is executed, and no weight is read.

Shapes come from ONNX's own inference, operator by operator; what is computed of nothing but sizes
(where exporters have ``Shape``, ``Gather``, ``Concat`` before a ``Reshape``) is computed here, for
the inference needs it.  Everything else that does not depend on the input is a weight, of which
only the shape is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, TypeProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

STANDARD = ("", "ai.onnx")  # ONNX's own domain of operators
FEW = 2**10  # elements that sizes or axes have at most
SMALL = 2**16  # elements of what is computed: sizes, axes, zeros for a bias; not weights
INTEGERS = (TensorProto.INT32, TensorProto.INT64)
# Where the inputs of an operator are weights; of the others none is.
WEIGHTS = {
    "BatchNormalization": {1, 2, 3, 4},
    "Conv": {1, 2},
    "Gather": {0},
    "Gemm": {1, 2},
    "LSTM": {1, 2, 3, 5, 6, 7},
    "LayerNormalization": {1, 2},
    "MatMul": {1},
    "Add": {0, 1},
}
# What only moves or copies numbers: a weight stays one.
MOST_MOVES = 8
MOVES = (
    *("Cast", "Concat", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
)

KEPT = {"data_type", "data_location", "external_data"}  # fields of a tensor that hold no number

Shape = tuple[int, ...]


class GraphError(ValueError):
    """A graph that cannot be read; the message names the node or the input."""


@dataclass(frozen=True)
class Tensor:
    """An input that the user feeds, with the batch of one call."""

    name: str
    shape: Shape
    batch_axis: int
    batch_is_open: bool  # the file leaves it open
    is_integer: bool


@dataclass
class Graph:
    """Operators in their order, with the shapes of all tensors.

    ``depends`` are the tensors that depend on the input, ``values`` the small ones that are known.
    """

    proto: onnx.GraphProto
    opsets: Mapping[str, int]
    input: Tensor
    types: dict[str, TypeProto] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    depends: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for given in self.proto.input:
            self.types[given.name] = given.type
        declared = self.types[self.input.name].tensor_type.elem_type
        self.types[self.input.name] = _type(declared, self.input.shape)
        self.depends.add(self.input.name)
        self._yielded = {"", *self.types, *(t.name for t in self.proto.initializer)}
        for tensor in self.proto.initializer:
            self.types[tensor.name] = _type(tensor.data_type, tensor.dims)
            if int(np.prod(tensor.dims)) <= SMALL and _holds_data(tensor):
                self.values[tensor.name] = numpy_helper.to_array(tensor)

    def walk(self) -> Iterator[NodeProto]:
        """The operators that depend on the input, each once the shapes around it are known.

        Raises:
            GraphError: what one reads does not fit it.
        """
        for node in self.proto.node:
            self._require_inputs(node)
            if node.domain in STANDARD and self._knows_inputs(node):
                self._infer(node)
            self._yielded.update(node.output)
            if node.op_type in ("Shape", "Size"):
                self._measure(node)
            elif not self.depends.intersection(_numbers_of(node)) and not _has_graphs(node):
                self._compute(node)
            else:
                self.depends.update(node.output)
                yield node

    def shape(self, name: str) -> Shape:
        """The sizes of a tensor.

        Raises:
            GraphError: they are not known.
        """
        found = self.types.get(name)
        dims = [] if found is None else found.tensor_type.shape.dim
        if found is None or not all(dim.HasField("dim_value") for dim in dims):
            raise GraphError(f"the shape of {name!r} cannot be told from the file")
        return tuple(dim.dim_value for dim in dims)

    def is_filler(self, name: str) -> bool:
        """Whether a tensor is zeros that were computed, where an exporter had no bias."""
        stored = any(name == tensor.name for tensor in self.proto.initializer)
        return not stored and name in self.values and not self.values[name].any()

    def readers(self, name: str) -> list[NodeProto]:
        """The operators that read a tensor."""
        return [node for node in self.proto.node if name in node.input]

    def _require_inputs(self, node: NodeProto) -> None:
        for name in node.input:
            if name not in self._yielded:
                raise GraphError(
                    f"{title(node)} reads {name!r}, which no earlier operator yields "
                    "(a cycle, or a part is missing)"
                )

    def _knows_inputs(self, node: NodeProto) -> bool:
        return all(name in self.types for name in node.input if name)

    def _infer(self, node: NodeProto) -> None:
        """Learn the shapes of what an operator yields."""
        given = [name for name in node.input if name]
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets[""], "")
            values = {n: self.values[n] for n in given if n in self.values}
            values = {n: value for n, value in values.items() if value.size <= FEW}
            known = {name: numpy_helper.from_array(value, name) for name, value in values.items()}
            imports = [onnx.helper.make_opsetid("", self.opsets[""])]
            types = {name: self.types[name] for name in given}
            self.types.update(infer_node_outputs(schema, node, types, known, None, imports))
        except onnx.defs.SchemaError:
            return  # told as an operator that is not covered
        except InferenceError as error:
            reason = " ".join(str(error).split()).rpartition("] ")[2]
            raise GraphError(f"{title(node)} does not fit what it reads: {reason}") from error

    def _measure(self, node: NodeProto) -> None:
        """What ``Shape`` and ``Size`` yield."""
        options = attributes(node)
        shape = np.array(self.shape(node.input[0]), np.int64)
        wanted = slice(options.get("start", 0), options.get("end", len(shape)))
        found = np.array(shape.prod()) if node.op_type == "Size" else shape[wanted]
        self.values[node.output[0]] = found

    def _compute(self, node: NodeProto) -> None:
        """What follows from small known tensors; of others, weights, only the shape is known."""
        names = [name for name in _numbers_of(node) if name]
        sizes = [self._elements(name) for name in node.output if name]
        is_small = all(0 <= size <= SMALL for size in sizes)
        if node.domain not in STANDARD or not is_small or not all(n in self.values for n in names):
            return
        if node.op_type == "CastLike":
            element = self.types[node.output[0]].tensor_type.elem_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
            self.values[node.output[0]] = self.values[names[0]].astype(dtype)
            return
        graph = onnx.helper.make_graph(
            [node],
            "constant",
            [onnx.helper.make_value_info(name, self.types[name]) for name in names],
            [onnx.helper.make_value_info(name, self.types[name]) for name in node.output if name],
        )
        imports = [onnx.helper.make_opsetid("", self.opsets[""])]
        model = onnx.helper.make_model(graph, opset_imports=imports)
        try:
            found = ReferenceEvaluator(model).run(None, {name: self.values[name] for name in names})
        except Exception:  # of many kinds; what needs the numbers says that they are not known
            return
        outputs = [name for name in node.output if name]
        self.values.update(zip(outputs, map(np.asarray, found), strict=True))

    def _elements(self, name: str) -> int:
        """The number of elements of a tensor, -1 where it is not known."""
        try:
            return int(np.prod(self.shape(name)))
        except GraphError:
            return -1


def _numbers_of(node: NodeProto) -> list[str]:
    """The inputs whose numbers matter, not only their type."""
    return list(node.input[:1] if node.op_type == "CastLike" else node.input)


def _has_graphs(node: NodeProto) -> bool:
    """Whether it is a branch or a loop, which may read anything."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attribute)


def title(node: NodeProto) -> str:
    """An operator and its node, for messages."""
    name = node.name or (node.output[0] if node.output else "")
    domain = "" if node.domain in STANDARD else f"{node.domain}."
    return f"{domain}{node.op_type} {name!r}"


def attributes(node: NodeProto) -> dict[str, Any]:
    """The options of an operator by name."""
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def graph_of(
    model: onnx.ModelProto, sizes: Mapping[str, int], batch: int, batch_axis: int
) -> Graph:
    """The graph of a model, with sizes for the dimensions that it leaves open.

    ``batch`` is the size of an open batch, ``batch_axis`` the axis that it lies on where the file
    leaves none open.

    Raises:
        GraphError: it has several inputs, or dimensions without a size.
    """
    opsets = {"" if o.domain in STANDARD else o.domain: o.version for o in model.opset_import}
    if "" not in opsets:
        raise GraphError("it does not say which version of ONNX's operators it uses")
    named = _input(model.graph)
    dims = named.type.tensor_type.shape.dim
    unsized = [
        axis
        for axis, dim in enumerate(dims)
        if not dim.HasField("dim_value") and dim.dim_param not in sizes
    ]
    axis = unsized[0] if unsized and (0 in unsized or len(unsized) == 1) else batch_axis
    for other in unsized:
        if other != axis:
            raise GraphError(_without_size(named.name, other, dims[other].dim_param))
    shape = tuple(
        batch if place in unsized else sizes.get(dim.dim_param, dim.dim_value)
        for place, dim in enumerate(dims)
    )
    if len(shape) < 2 or min(shape) < 1:
        raise GraphError(f"input {named.name!r} of shape {shape} is no batch of samples")
    is_integer = named.type.tensor_type.elem_type in INTEGERS
    return Graph(model.graph, opsets, Tensor(named.name, shape, axis, bool(unsized), is_integer))


def _without_size(name: str, axis: int, dim: str) -> str:
    if not dim:
        return (
            f"input {name!r}: dimension {axis} is dynamic, with neither value nor name; export it "
            "with a fixed size"
        )
    return (
        f"input {name!r}: dimension {axis} ({dim}) is dynamic and has no value; give it one with "
        f"--dim {dim}=VALUE"
    )


def _input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The one input that is no weight; files without weights declare these as inputs too."""
    stored = {tensor.name for tensor in graph.initializer}
    given: list[onnx.ValueInfoProto] = [one for one in graph.input if one.name not in stored]
    fed = [one for one in given if not _is_weight(graph, one.name)] or given[:1]
    if len(fed) != 1:
        names = ", ".join(one.name for one in fed) or "none"
        raise GraphError(f"one input is needed that is no weight, there are {len(fed)}: {names}")
    (found,) = fed
    if not found.type.tensor_type.HasField("shape"):
        raise GraphError(f"input {found.name!r} has no shape")
    return found


def _is_weight(graph: onnx.GraphProto, name: str, moved: int = 0) -> bool:
    """Whether a tensor is read as a weight wherever it is read, perhaps after it was moved."""
    return all(
        place in WEIGHTS.get(node.op_type, ())
        or (
            node.op_type in MOVES
            and moved < MOST_MOVES
            and all(_is_weight(graph, output, moved + 1) for output in node.output)
        )
        for node in graph.node
        for place, read in enumerate(node.input)
        if read == name
    )


def _type(element: int, sizes: Iterable[int]) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(element, [int(size) for size in sizes])


def _holds_data(tensor: TensorProto) -> bool:
    """Whether the numbers are in the file itself; a file without weights has none."""
    fields = {described.name for described, _ in tensor.ListFields()}
    return tensor.data_location != TensorProto.EXTERNAL and any("data" in f for f in fields - KEPT)
