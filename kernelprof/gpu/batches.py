"""How many samples a network takes at once on a GPU, where the source deck says so."""

from __future__ import annotations

from collections.abc import Mapping

from kernelprof.probes.network import Network

# From the deck's scripts and arXiv:1608.07249.  342, 86 and 11 are twelfths of a larger batch.
BATCHES: Mapping[str, tuple[int, ...]] = {
    "fcn-s": (32, 64, 128, 256, 512, 1024),
    "fcn-r": (342, 512, 1024, 2048, 4096),
    "alexnet-s": (16, 32, 64, 128),
    "alexnet-r": (86, 128, 256, 512, 1024, 2048),
    "lstm": (64, 128, 256, 512, 1024),
    "resnet-50": (8, 16, 32, 64),
    "resnet-56": (11, 16, 32, 64, 128),
}


def gpu_batch(network: Network) -> int:
    """The deck's largest, which keeps a card of today busiest; of other networks their own."""
    return max(BATCHES.get(network.name, (network.batch,)))
