"""The known networks: those of the 2017 survey, in one canonical form each.

The survey's scripts defined some of them differently from engine to engine; these are the forms
that they were meant to have, and beside them AlexNet-S as three engines ran it (Shi et al.,
"Benchmarking State-of-the-Art Deep Learning Software Tools", arXiv:1608.07249, and its scripts).
Batches are those that the scripts have for CPUs.
"""

from __future__ import annotations

from typing import Callable

from .layers import Layer
from .network import Builder, Network, Padding
from .residual_networks import resnet_50, resnet_56
from .transformer_networks import transformer_encoder

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


def fcn_8() -> Network:
    """Like FCN-S, with six hidden layers."""
    return Network(
        "fcn-8",
        f"FCN-8, synthetic data; {SURVEY}",
        _perceptron(26752, (2048,) * 6, 26752),
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
    net, logits = _alexnet((2, 2, 1, 1, 1))
    net.softmax_loss(logits)
    return _alexnet_s("", net)


def _alexnet(
    padding: tuple[Padding, ...], pool_padding: Padding = 0, ceil: bool = False
) -> tuple[Builder, str]:
    """The layers up to the logits, padded like this."""
    net = Builder()

    def convolution(number: int, source: str, channels: int, kernel: int, stride: int = 1) -> str:
        x = net.convolution(
            f"conv{number}", source, channels, kernel, stride, padding=padding[number - 1]
        )
        return net.relu(f"relu{number}", x)

    def pool(number: int, source: str) -> str:
        return net.pool(
            f"pool{number}", source, "max", kernel=3, stride=2, padding=pool_padding, ceil=ceil
        )

    x = pool(1, convolution(1, net.input(3, 224, 224), 96, kernel=11, stride=4))
    x = pool(2, convolution(2, x, 256, kernel=5))
    x = convolution(4, convolution(3, x, 384, kernel=3), 384, kernel=3)
    x = pool(5, convolution(5, x, 256, kernel=3))
    x = net.relu("relu6", net.fully_connected("fc6", x, 4096))
    x = net.relu("relu7", net.fully_connected("fc7", x, 4096))
    return net, net.fully_connected("fc8", x, 1000)


def _alexnet_s(engine: str, net: Builder, momentum: float = 0.0) -> Network:
    """The synthetic AlexNet, as meant or as it was run in an engine."""
    as_run = f", as run in {engine}" if engine else ""
    return Network(
        f"alexnet-s@{engine}" if engine else "alexnet-s",
        f"AlexNet, synthetic data{as_run}; {SURVEY}",
        tuple(net.layers),
        batch=16,
        quick_batch=2,
        momentum=momentum,
    )


def alexnet_bvlc() -> Network:
    """AlexNet as BVLC's Caffe has it: grouped convolutions, normalisation, dropout.

    Crops of 224 x 224 without padding, as the survey's scripts feed it; pools count partial
    windows, as Caffe's do.
    """
    net = Builder()

    def convolution(number: int, source: str, channels: int, kernel: int, groups: int = 1) -> str:
        x = net.convolution(
            f"conv{number}", source, channels, kernel, padding=kernel // 2, groups=groups
        )
        return net.relu(f"relu{number}", x)

    def pool(number: int, source: str) -> str:
        return net.pool(f"pool{number}", source, "max", kernel=3, stride=2, ceil=True)

    x = net.relu("relu1", net.convolution("conv1", net.input(3, 224, 224), 96, 11, stride=4))
    x = pool(1, net.lrn("norm1", x))
    x = pool(2, net.lrn("norm2", convolution(2, x, 256, kernel=5, groups=2)))
    x = convolution(4, convolution(3, x, 384, kernel=3), 384, kernel=3, groups=2)
    x = pool(5, convolution(5, x, 256, kernel=3, groups=2))
    x = net.dropout("drop6", net.relu("relu6", net.fully_connected("fc6", x, 4096)))
    x = net.dropout("drop7", net.relu("relu7", net.fully_connected("fc7", x, 4096)))
    net.softmax_loss(net.fully_connected("fc8", x, 1000))
    return Network(
        "alexnet-bvlc",
        f"AlexNet of BVLC Caffe; {SURVEY}",
        tuple(net.layers),
        batch=16,
        quick_batch=2,
        momentum=0.9,
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


def alexnet_s_as_run_in_caffe() -> Network:
    """No padding anywhere, and pools that count partial windows: half of the work."""
    net, logits = _alexnet((0, 0, 0, 0, 0), ceil=True)
    net.softmax_loss(logits)
    return _alexnet_s("caffe", net)


def alexnet_s_as_run_in_mxnet() -> Network:
    """As it was wired: conv4, conv5, fc6 and fc7 were defined and never reached."""
    net = Builder()
    x = net.input(3, 224, 224)
    x = net.relu("relu1", net.convolution("conv1", x, 96, kernel=11, stride=4, padding=1))
    x = net.pool("pool1", x, "max", kernel=3, stride=2)
    x = net.relu("relu2", net.convolution("conv2", x, 256, kernel=5, padding=1))
    x = net.pool("pool2", x, "max", kernel=3, stride=2)
    x = net.relu("relu3", net.convolution("conv3", x, 384, kernel=3, padding=1))
    x = net.pool("pool5", x, "max", kernel=3, stride=2)
    net.softmax_loss(net.fully_connected("fc8", x, 1000))
    return _alexnet_s("mxnet", net, momentum=0.9)


def alexnet_s_as_run_in_tensorflow() -> Network:
    """``SAME`` padding everywhere, pools too, and a ReLU on the logits."""
    net, logits = _alexnet(((3, 4, 3, 4), 2, 1, 1, 1), pool_padding=(0, 1, 0, 1))
    net.softmax_loss(net.relu("relu8", logits))
    return _alexnet_s("tensorflow", net)


# What is run when no network is named.
CANONICAL: dict[str, Callable[[], Network]] = {
    "fcn-s": fcn_s,
    "fcn-r": fcn_r,
    "alexnet-s": alexnet_s,
    "alexnet-r": alexnet_r,
    "lstm": lstm,
}
# What else the survey ran, or has in its scripts.
FURTHER: dict[str, Callable[[], Network]] = {
    "fcn-8": fcn_8,
    "alexnet-bvlc": alexnet_bvlc,
    "resnet-50": resnet_50,
    "resnet-56": resnet_56,
}
# What the survey came too early for.
LATER: dict[str, Callable[[], Network]] = {"transformer-encoder": transformer_encoder}
# What the survey's scripts made of them in one engine; any engine can run them.
AS_RUN: dict[str, Callable[[], Network]] = {
    "alexnet-s@caffe": alexnet_s_as_run_in_caffe,
    "alexnet-s@mxnet": alexnet_s_as_run_in_mxnet,
    "alexnet-s@tensorflow": alexnet_s_as_run_in_tensorflow,
}
NETWORKS = {**CANONICAL, **FURTHER, **LATER, **AS_RUN}
