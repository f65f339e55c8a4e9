"""Networks drawn at random: what predictions are tried on that nothing was tuned on.

Convolutional networks, perceptrons, LSTMs and residual networks, made of layers that every engine
has, in sizes that are usual for them.  A step of training is 0.5 to 3 Gflop: some tens of
milliseconds on two cores, more in a slow engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TypeVar

from kernelprof.probes.network import TRAIN, Builder, Network
from kernelprof.probes.residual_networks import basic_block, bottleneck

T = TypeVar("T")

STEP_FLOP = (0.5e9, 3e9)  # of a step of training
BATCHES = (4, 512)
MOST_PARAMETERS = 12_000_000  # or a step would be little else than the update of its weights


def random_networks(seed: int, count: int = 5) -> list[Network]:
    """Networks of this seed: two convolutional ones, a perceptron, an LSTM and a residual one.

    Beyond five they begin anew.  A network depends on the seed and on its place alone.
    """
    return [_network(seed, place) for place in range(count)]


class Draw:
    """Numbers that follow from a seed and a place.

    Of Python's generators only ``random()`` is promised to yield the same in every version.
    """

    def __init__(self, seed: int, place: int) -> None:
        self._random = Random(f"{seed} {place}")

    def whole(self, low: int, high: int, step: int = 1) -> int:
        """Any of low, low + step, ... up to high."""
        return low + step * int(self._random.random() * ((high - low) // step + 1))

    def one_of(self, *choices: T) -> T:
        """Any of these."""
        return choices[self.whole(0, len(choices) - 1)]

    def chance(self, share: float) -> bool:
        """True in this share of all draws."""
        return self._random.random() < share

    def between(self, low: float, high: float) -> float:
        """Any number in between, evenly by its logarithm."""
        return float(low * (high / low) ** self._random.random())


def _network(seed: int, place: int) -> Network:
    """The first network drawn that is neither too large nor too small for a step."""
    draw = Draw(seed, place)
    kind, make = KINDS[place % len(KINDS)]
    while True:
        net = Builder()
        net.softmax_loss(make(net, draw))
        network = Network(
            f"random-{kind}-{seed}-{place + 1}",
            f"drawn at random, seed {seed}",
            tuple(net.layers),
            batch=1,
            quick_batch=1,
            momentum=draw.one_of(0.0, 0.9),
        )
        batch = round(draw.between(*STEP_FLOP) / network.flop(1, TRAIN))
        if BATCHES[0] <= batch <= BATCHES[1] and network.parameters() <= MOST_PARAMETERS:
            return replace(network, batch=batch, quick_batch=batch)


def _convolutional(net: Builder, draw: Draw) -> str:
    """Stages of convolutions, each ended by a pool, and a perceptron on what is left."""
    x = net.input(draw.one_of(1, 3), *(draw.whole(32, 80, 4),) * 2)
    activate = net.relu if draw.chance(0.8) else net.sigmoid
    for stage in range(1, draw.whole(2, 3) + 1):
        for number in range(1, draw.whole(1, 2) + 1):
            place = f"{stage}_{number}"
            first = place == "1_1"
            kernel = draw.one_of(5, 7) if first else draw.one_of(1, 3, 3, 3, 5)
            x = net.convolution(
                f"conv{place}",
                x,
                draw.whole(16, 128, 8),
                kernel,
                stride=2 if first and draw.chance(0.3) else 1,
                padding=kernel // 2,
                groups=2 if not first and draw.chance(0.25) else 1,
            )
            x = activate(f"activation{place}", x)
        if draw.chance(0.25):
            x = net.lrn(f"lrn{stage}", x)
        x = net.pool(f"pool{stage}", x, draw.one_of("max", "average"), draw.one_of(2, 3), 2)
    return _classifier(net, draw, x, layers=draw.whole(0, 2), widths=(128, 1024))


def _perceptron(net: Builder, draw: Draw) -> str:
    """Fully connected layers on a vector."""
    x = net.input(draw.whole(100, 3000))
    return _classifier(net, draw, x, layers=draw.whole(2, 5), widths=(200, 2000))


def _classifier(net: Builder, draw: Draw, source: str, layers: int, widths: tuple[int, int]) -> str:
    """Hidden layers, with a dropout or without, and logits."""
    x = source
    activate = draw.one_of(net.relu, net.sigmoid)
    drops = draw.chance(0.3)
    for layer in range(1, layers + 1):
        x = activate(f"hidden{layer}", net.fully_connected(f"fc{layer}", x, draw.whole(*widths)))
        if drops:
            x = net.dropout(f"drop{layer}", x)
    return net.fully_connected("logits", x, draw.one_of(10, 100, draw.whole(2, 1000)))


def _recurrent(net: Builder, draw: Draw) -> str:
    """A language model: an embedding, layers of LSTM cells, and logits at every step."""
    vocabulary = draw.whole(1000, 8000)
    x = net.input(draw.whole(8, 40), vocabulary=vocabulary)
    x = net.embedding("embedding", x, vocabulary, draw.whole(64, 320, 16))
    for layer in range(1, draw.whole(1, 3) + 1):
        x = net.lstm(f"lstm{layer}", x, draw.whole(64, 320, 16))
    return net.fully_connected("logits", x, vocabulary)


def _residual(net: Builder, draw: Draw) -> str:
    """A stem and stages of blocks; all but the first stage halve the image and double its width."""
    size, width = draw.whole(24, 64, 4), draw.whole(12, 48, 4)
    makes_bottlenecks = draw.chance(0.5)
    x = net.input(3, size, size)
    x = net.convolution("stem", x, width, kernel=3, padding=1, bias=False)
    x = net.relu("stem_relu", net.batch_norm("stem_norm", x))
    for stage in range(1, draw.whole(2, 3) + 1):
        halves = stage > 1
        size, width = (size // 2, 2 * width) if halves else (size, width)
        for block in range(1, draw.whole(1, 3) + 1):
            place, first = f"{stage}_{block}", block == 1
            if makes_bottlenecks:
                stride = 2 if halves and first else 1
                x = bottleneck(net, place, x, width, stride, projects=first)
            else:
                x = basic_block(net, place, x, width, halves=halves and first, bias=False)
    x = net.pool("pool", x, "average", kernel=size, stride=1)
    return _classifier(net, draw, x, layers=0, widths=(0, 0))


KINDS: tuple[tuple[str, Callable[[Builder, Draw], str]], ...] = (
    ("cnn", _convolutional),
    ("cnn", _convolutional),
    ("mlp", _perceptron),
    ("lstm", _recurrent),
    ("resnet", _residual),
)
