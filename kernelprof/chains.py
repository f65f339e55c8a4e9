"""Small networks that tell what an engine does beyond its kernels: the chains of a calibration.

Tiny ones have little but the cost of calling.  Larger ones show what an engine saves by fusing
layers, or adds by copying.  The last are there to be predicted: how far off that is, is how far
off a prediction may be.  None of them is a network that somebody wants to have predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from kernelprof.probes.network import Builder, Network

CALLS = "chain-calls"
DEPTHS = (1, 2, 4)
WIDTH = 16
PLAIN, ACTIVATED, NORMALISED = "chain-plain", "chain-activated", "chain-normalised"
PRODUCTS, IMAGES, SEQUENCE = "chain-products", "chain-images", "chain-sequence"
RESIDUAL = "chain-residual"


@dataclass(frozen=True)
class Chain:
    """A chain, and the kind of layer without which a run does not need it."""

    make: Callable[[], Network]
    kind: str = ""


def chains(networks: Iterable[Network]) -> Iterator[Network]:
    """The chains that the predictions of these networks rest on."""
    kinds = {layer.kind for network in networks for layer in network.layers}
    for chain in CHAINS:
        if not chain.kind or chain.kind in kinds:
            yield chain.make()


def calls(depth: int) -> Network:
    """A network so small that little but the cost of calling is left."""
    net = Builder()
    x = net.input(WIDTH)
    for number in range(1, depth + 1):
        x = net.fully_connected(f"fc{number}", x, WIDTH)
        x = net.sigmoid(f"sigmoid{number}", x)
    return _finished(f"{CALLS}-{depth}", net, x, batch=WIDTH)


def image_calls(depth: int, more: str = "") -> Network:
    """The same with convolutions, and perhaps what stands behind each; see ``_has_bias``."""
    net = Builder()
    x = net.input(4, 4, 4)
    for number in range(1, depth + 1):
        x = net.convolution(f"conv{number}", x, 4, kernel=1, bias=_has_bias(more))
        if more:
            x = getattr(net, more)(f"{more}{number}", x)
        x = net.relu(f"relu{number}", x)
    name = f"{CALLS}-convolution-{more}-{depth}" if more else f"{CALLS}-convolution-{depth}"
    return _finished(name, net, x, batch=4)


def pointwise(name: str, more: str = "") -> Network:
    """Convolutions of single pixels, so light that the ``more`` behind each weighs as much."""
    net = Builder()
    x = net.input(3, 112, 112)
    for number in range(1, 4):
        x = net.convolution(f"conv{number}", x, 16, kernel=1, bias=_has_bias(more))
        if more:
            x = getattr(net, more)(f"{more}{number}", x)
    x = net.pool("pool", x, "max", kernel=4, stride=4)
    return _finished(name, net, x, batch=4)


def products() -> Network:
    """Fully connected layers whose weights no cache holds."""
    net = Builder()
    x = net.input(2048)
    for number in range(1, 4):
        x = net.fully_connected(f"fc{number}", x, 2048)
        x = net.sigmoid(f"sigmoid{number}", x)
    return _finished(PRODUCTS, net, x, batch=32)


def images() -> Network:
    """Convolutions and pools, as they follow each other in most networks."""
    net = Builder()
    x = net.input(3, 56, 56)
    for number in range(1, 4):
        x = net.convolution(f"conv{number}", x, 64, kernel=3, padding=1)
        x = net.relu(f"relu{number}", x)
        x = net.pool(f"pool{number}", x, "max", kernel=2, stride=2)
    x = net.relu("relu", net.fully_connected("fc", x, 256))
    return _finished(IMAGES, net, x, batch=8)


def residual() -> Network:
    """Blocks of two convolutions around which their input passes by (He et al. 2016)."""
    net = Builder()
    x = net.input(3, 28, 28)
    x = net.convolution("conv", x, 32, kernel=3, padding=1, bias=False)
    x = net.relu("relu", net.batch_norm("norm", x))
    for block in range(1, 4):
        y = net.convolution(f"conv{block}a", x, 32, kernel=3, padding=1, bias=False)
        y = net.relu(f"relu{block}a", net.batch_norm(f"norm{block}a", y))
        y = net.convolution(f"conv{block}b", y, 32, kernel=3, padding=1, bias=False)
        x = net.relu(f"relu{block}", net.add(f"add{block}", net.batch_norm(f"norm{block}b", y), x))
    x = net.pool("pool", x, "average", kernel=28, stride=28)
    return _finished(RESIDUAL, net, x, batch=8)


def sequence() -> Network:
    """LSTM cells between an embedding and an output layer."""
    net = Builder()
    x = net.embedding("embedding", net.input(16, vocabulary=2000), 2000, 192)
    x = net.lstm("lstm", x, 192)
    return _finished(SEQUENCE, net, x, batch=32, classes=2000)


def _has_bias(more: str) -> bool:
    """A batch norm takes any bias away again, so convolutions before one have none."""
    return more != "batch_norm"


def _finished(name: str, net: Builder, source: str, batch: int, classes: int = WIDTH) -> Network:
    net.softmax_loss(net.fully_connected("output", source, classes))
    return Network(
        name,
        "kernelprof, calibration of predictions",
        tuple(net.layers),
        batch=batch,
        quick_batch=batch,
    )


CHAINS = (
    *(Chain(partial(calls, depth)) for depth in DEPTHS),
    *(Chain(partial(image_calls, depth), "convolution") for depth in (1, 4)),
    *(Chain(partial(image_calls, depth, "batch_norm"), "batch_norm") for depth in (1, 4)),
    Chain(partial(pointwise, PLAIN), "convolution"),
    Chain(partial(pointwise, ACTIVATED, "relu"), "convolution"),
    Chain(partial(pointwise, NORMALISED, "batch_norm"), "batch_norm"),
    Chain(images, "convolution"),
    Chain(residual, "add"),
    Chain(sequence, "lstm"),
    Chain(products),
)
TO_BE_PREDICTED = (IMAGES, SEQUENCE, PRODUCTS, RESIDUAL)
