"""What the operations of a layer are called in an engine's graph."""

from __future__ import annotations

import re

from .network import Network


def scope_of(network: Network, layer: str) -> str:
    """What names of operations hold that are a layer's: legal there, and the layer's alone."""
    place = [each.name for each in network.layers].index(layer)
    return f"{place}.{re.sub('[^A-Za-z0-9_.-]', '_', layer)}"
