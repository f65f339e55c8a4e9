"""A graph of ONNX as layers: what each tensor is, while the operators are gone through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import NodeProto

from kernelprof.onnx_import.axes import Piece, View, whole
from kernelprof.onnx_import.graph import Graph, Shape
from kernelprof.probes.network import Builder


class NotCoveredError(ValueError):
    """An operator, or a use of one, that kernelprof has no layer for."""


class Translation:
    """A graph being translated into layers, operator by operator."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.net = Builder()
        self.views: dict[str, View] = {}
        self.done: set[str] = set()  # tensors that an earlier operator's layer yields already
        self._names: set[str] = set()
        self._made: dict[tuple[str, str], str] = {}  # layers beside the operators, by source
        given = graph.input
        shape = tuple(s for axis, s in enumerate(given.shape) if axis != given.batch_axis)
        vocabulary = self._vocabulary() if given.is_integer else 0
        data = self.net.input(*shape, vocabulary=vocabulary)
        self._names.add(data)
        self.views[given.name] = View.of(data, shape, self.batch, given.batch_axis)

    @property
    def batch(self) -> int:
        """Samples of a call, as the shapes of the graph have them."""
        return self.graph.input.shape[self.graph.input.batch_axis]

    def name(self, node: NodeProto) -> str:
        """A layer's name: its weights' if they have one, its node's, or its kind."""
        weights = [name for name in node.input[1:2] if name in self.graph.types and "." in name]
        found = weights[0].rpartition(".")[0] if weights else node.name.removeprefix("node_")
        return self._free(
            "".join(c if c.isalnum() or c in "_.-" else "_" for c in found).strip("_")
            or node.op_type.lower()
        )

    def _free(self, name: str) -> str:
        number, free = 1, name
        while free in self._names or free == "loss":
            number += 1
            free = f"{name}_{number}"
        self._names.add(free)
        return free

    def view(self, node: NodeProto, place: int = 0) -> View:
        """What an operator reads, merged heads as a sequence.

        Raises:
            NotCoveredError: it is a constant.
        """
        if node.input[place] not in self.views:
            raise NotCoveredError(f"its input {place + 1} is a constant")
        return self.settled(self.views[node.input[place]])

    def settled(self, view: View) -> View:
        """The same with merged heads as a sequence."""
        shape = self.shape(view)
        if not view.are_merged_heads(shape) or view.are_heads(shape):
            return view
        merged = self.beside("merged", view.layer, self.net.merge_heads)
        heads, steps, size = shape
        renamed = {Piece(1, steps): Piece(0, steps)}  # the steps, second of a head's axes
        leading = [tuple(renamed.get(piece, piece) for piece in axis) for axis in view.axes[:-1]]
        return View(merged, (*leading, whole(1, heads * size)))

    def beside(self, what: str, source: str, add: Callable[..., str], *options: Any) -> str:
        """A layer that no operator stands for, one for each source."""
        key = (what, source)
        if key not in self._made:
            self._made[key] = add(self._free(f"{source}_{what}"), source, *options)
        return self._made[key]

    def shape(self, view: View) -> Shape:
        """The shape of one sample of a layer."""
        return self.net.shapes[view.layer]

    def weight(self, node: NodeProto, place: int) -> Shape:
        """The shape of a weight."""
        name = node.input[place]
        if name in self.graph.depends:
            raise NotCoveredError(f"its input {place + 1} is computed, no weight")
        return self.graph.shape(name)

    def has(self, node: NodeProto, place: int) -> bool:
        """Whether an optional input is given, and holds something."""
        is_given = len(node.input) > place and bool(node.input[place])
        return is_given and not self.graph.is_filler(node.input[place])

    def _vocabulary(self) -> int:
        """The rows of the table that the token ids are looked up in."""
        name = self.graph.input.name
        for node in self.graph.readers(name):
            if node.op_type == "Gather" and node.input[1] == name:
                return self.graph.shape(node.input[0])[0]
            if node.op_type in ("Cast", "Identity"):
                name = node.output[0]
        return 0
