"""The known networks: those of the 2017 survey, in one canonical form each.

The survey's scripts defined some of them differently from engine to engine; these are the forms
that they were meant to have (Shi et al., "Benchmarking State-of-the-Art Deep Learning Software
Tools", arXiv:1608.07249, and its scripts).
"""

from __future__ import annotations

from typing import Callable

from .layers import Layer
from .network import Builder, Network

SURVEY = "arXiv:1608.07249"


def fcn_s() -> Network:
    """Synthetic data, 26752 features in and out, three hidden layers of 2048."""
    return Network(
        "fcn-s",
        f"FCN-5, synthetic data; {SURVEY}",
        _perceptron(26752, (2048, 2048, 2048), 26752),
        batch=64,
        quick_batch=16,
    )


def fcn_r() -> Network:
    """MNIST: 784 features, hidden layers of 2048, 4096 and 1024, ten classes."""
    return Network(
        "fcn-r",
        f"FCN-5, MNIST; {SURVEY}",
        _perceptron(784, (2048, 4096, 1024), 10),
        batch=1024,
        quick_batch=128,
        momentum=0.9,
    )


def _perceptron(features: int, hidden: tuple[int, ...], classes: int) -> tuple[Layer, ...]:
    net = Builder()
    x = net.input(features)
    for number, width in enumerate(hidden, start=1):
        x = net.fully_connected(f"fc{number}", x, width)
        x = net.sigmoid(f"sigmoid{number}", x)
    x = net.fully_connected(f"fc{len(hidden) + 1}", x, classes)
    net.softmax_loss(x)
    return tuple(net.layers)


def alexnet_s() -> Network:
    """224 x 224 images, 1000 classes; one tower, no normalisation, no dropout."""
    net = Builder()
    x = net.input(3, 224, 224)
    x = net.relu("relu1", net.convolution("conv1", x, 96, kernel=11, stride=4, padding=2))
    x = net.pool("pool1", x, "max", kernel=3, stride=2)
    x = net.relu("relu2", net.convolution("conv2", x, 256, kernel=5, padding=2))
    x = net.pool("pool2", x, "max", kernel=3, stride=2)
    x = net.relu("relu3", net.convolution("conv3", x, 384, kernel=3, padding=1))
    x = net.relu("relu4", net.convolution("conv4", x, 384, kernel=3, padding=1))
    x = net.relu("relu5", net.convolution("conv5", x, 256, kernel=3, padding=1))
    x = net.pool("pool5", x, "max", kernel=3, stride=2)
    x = net.relu("relu6", net.fully_connected("fc6", x, 4096))
    x = net.relu("relu7", net.fully_connected("fc7", x, 4096))
    net.softmax_loss(net.fully_connected("fc8", x, 1000))
    return Network(
        "alexnet-s",
        f"AlexNet, synthetic data; {SURVEY}",
        tuple(net.layers),
        batch=16,
        quick_batch=2,
    )


def alexnet_r() -> Network:
    """CIFAR-10: the cuda-convnet "layers-18pct" network without normalisation."""
    net = Builder()
    x = net.input(3, 32, 32)
    x = net.pool("pool1", net.convolution("conv1", x, 32, kernel=5, padding=2), "max", 3, 2)
    x = net.relu("relu1", x)
    x = net.relu("relu2", net.convolution("conv2", x, 32, kernel=5, padding=2))
    x = net.pool("pool2", x, "max", 3, 2)
    x = net.relu("relu3", net.convolution("conv3", x, 64, kernel=5, padding=2))
    x = net.pool("pool3", x, "average", 3, 2)
    net.softmax_loss(net.fully_connected("fc4", x, 10))
    return Network(
        "alexnet-r",
        f"AlexNet, CIFAR-10; {SURVEY}",
        tuple(net.layers),
        batch=1024,
        quick_batch=64,
        momentum=0.9,
    )


def lstm() -> Network:
    """Penn Treebank: two layers of 256 cells, 32 steps, a vocabulary of 10,000."""
    net = Builder()
    x = net.input(32, vocabulary=10_000)
    x = net.embedding("embedding", x, 10_000, 256)
    x = net.lstm("lstm1", x, 256)
    x = net.lstm("lstm2", x, 256)
    net.softmax_loss(net.fully_connected("output", x, 10_000))
    return Network(
        "lstm",
        f"LSTM-32, PTB; {SURVEY}",
        tuple(net.layers),
        batch=256,
        quick_batch=16,
    )


NETWORKS: dict[str, Callable[[], Network]] = {
    "fcn-s": fcn_s,
    "fcn-r": fcn_r,
    "alexnet-s": alexnet_s,
    "alexnet-r": alexnet_r,
    "lstm": lstm,
}
