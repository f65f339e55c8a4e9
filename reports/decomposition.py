"""Networks and how they come apart, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from kernelprof.probes.layers import Layer
from kernelprof.probes.network import INFER, TRAIN, Network
from kernelprof.units import count, significant, size

from .text_table import add_number_columns, text_table


@dataclass(frozen=True)
class LayerRow:
    """A layer at a batch: what it computes in one call of the network."""

    name: str
    kind: str
    output: str
    primitives: tuple[str, ...]
    passes: tuple[str, ...]
    parameters: int
    flop: int
    least_bytes: int


@dataclass(frozen=True)
class Decomposition:
    """All layers of a network at a batch and mode."""

    network: str
    source: str
    batch: int
    mode: str
    parameters: int
    flop: int
    layers: tuple[LayerRow, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    def table(self) -> Table:
        """A table with the totals below."""
        table = text_table("layer", "output", "primitives")
        add_number_columns(table, "parameters", "Gflop", "least bytes")
        table.title = f"{self.network}, {self.mode}, batch {self.batch}"
        table.caption = self.source
        for row in self.layers:
            table.add_row(
                *(row.name, row.output, "\n".join(row.primitives)),
                *(count(row.parameters), _gflop(row.flop), size(row.least_bytes)),
            )
        table.add_section()
        table.add_row("all", "", "", count(self.parameters), _gflop(self.flop), "")
        return table


def decompose(network: Network, batch: int, mode: str) -> Decomposition:
    """The layers of a network; those that the mode skips are left out."""
    rows = [_row(network, layer, batch, mode) for layer in network.layers]
    return Decomposition(
        network=network.name,
        source=network.source,
        batch=batch,
        mode=mode,
        parameters=network.parameters(),
        flop=network.flop(batch, mode),
        layers=tuple(row for row in rows if row.primitives),
    )


def _row(network: Network, layer: Layer, batch: int, mode: str) -> LayerRow:
    work = [
        (primitive, pass_)
        for primitive in network.primitives(layer, batch, mode)
        for pass_ in network.passes(layer, primitive, mode)
    ]
    return LayerRow(
        name=layer.name,
        kind=layer.kind,
        output=" x ".join(map(str, network.shapes[layer.name])) or "1",
        primitives=tuple(dict.fromkeys(primitive.label for primitive, _ in work)),
        passes=tuple(dict.fromkeys(pass_ for _, pass_ in work)),
        parameters=network.parameters(layer),
        flop=sum(p.flop(pass_) for p, pass_ in work if p.compute_bound),
        least_bytes=sum(p.least_bytes(pass_) for p, pass_ in work),
    )


def networks_table(networks: Iterable[Network]) -> Table:
    """The networks with their CPU batch and what one call at that batch takes."""
    table = text_table("network")
    add_number_columns(table, "parameters", "batch", "quick", "Gflop infer", "Gflop train")
    table.add_column("source")
    for network in networks:
        table.add_row(
            *(network.name, count(network.parameters())),
            *(count(network.batch), count(network.quick_batch)),
            *(_gflop(network.flop(network.batch, mode)) for mode in (INFER, TRAIN)),
            network.source,
        )
    return table


def _gflop(flop: int) -> str:
    return significant(flop * 1e-9) if flop else ""
