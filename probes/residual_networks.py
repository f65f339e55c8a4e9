"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385).

A block adds its input to what its convolutions make of it.  Where a block halves the image or has
more channels than its input, the shortcut follows: by a projection (option B), or by leaving
pixels out and adding channels of zeros (option A).
"""

from __future__ import annotations

from .network import Builder, Network

SURVEY = "arXiv:1608.07249"


def resnet_50() -> Network:
    """224 x 224 images, 1000 classes; bottlenecks that halve the image in their 3 x 3 convolution.

    That is where fb.resnet.torch, which the survey ran in Torch, and torchvision put the stride;
    the paper's own is in the 1 x 1 convolution before.
    """
    net = Builder()
    x = _normalised(net, "conv1", net.input(3, 224, 224), 64, kernel=7, stride=2, bias=False)
    x = net.pool("pool1", net.relu("relu1", x), "max", kernel=3, stride=2, padding=1)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=2):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            x = bottleneck(net, f"{stage}_{block}", x, width, stride, projects=block == 1)
    x = net.pool("pool5", x, "average", kernel=7, stride=1)
    net.softmax_loss(net.fully_connected("fc", x, 1000))
    return Network(
        "resnet-50",
        f"ResNet-50, synthetic data; {SURVEY}",
        tuple(net.layers),
        batch=16,
        quick_batch=1,
        momentum=0.9,
    )


def bottleneck(
    net: Builder, place: str, source: str, width: int, stride: int, projects: bool
) -> str:
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the last one to four times the width.

    ``place`` ends the names of all layers.  The shortcut must be a projection where the image is
    halved or its channels are not four times the width.
    """
    x = _normalised(net, f"reduce{place}", source, width, kernel=1, bias=False)
    x = net.relu(f"relu{place}a", x)
    x = _normalised(net, f"conv{place}", x, width, kernel=3, stride=stride, bias=False)
    x = net.relu(f"relu{place}b", x)
    x = _normalised(net, f"expand{place}", x, 4 * width, kernel=1, bias=False)
    if projects:
        source = _normalised(
            net, f"project{place}", source, 4 * width, kernel=1, stride=stride, bias=False
        )
    return net.relu(f"relu{place}", net.add(f"add{place}", x, source))


def resnet_56() -> Network:
    """CIFAR-10: three stages of nine blocks of two convolutions; shortcuts without parameters.

    The survey counts a bias in every convolution, though its normalisation takes it away again.
    """
    net = Builder()
    x = net.relu("relu1", _normalised(net, "conv1", net.input(3, 32, 32), 16, kernel=3))
    for stage, width in enumerate((16, 32, 64), start=2):
        for block in range(1, 10):
            x = basic_block(net, f"{stage}_{block}", x, width, halves=stage > 2 and block == 1)
    x = net.pool("pool", x, "average", kernel=8, stride=1)
    net.softmax_loss(net.fully_connected("fc", x, 10))
    return Network(
        "resnet-56",
        f"ResNet-56, CIFAR-10; {SURVEY}",
        tuple(net.layers),
        batch=128,
        quick_batch=8,
        momentum=0.9,
    )


def basic_block(
    net: Builder, place: str, source: str, width: int, halves: bool, bias: bool = True
) -> str:
    """Two 3 x 3 convolutions; where they halve the image the shortcut skips every other pixel.

    ``place`` ends the names of all layers.  A block that halves the image must widen it too.
    """
    stride = 2 if halves else 1
    x = _normalised(net, f"conv{place}a", source, width, kernel=3, stride=stride, bias=bias)
    x = net.relu(f"relu{place}a", x)
    x = _normalised(net, f"conv{place}b", x, width, kernel=3, bias=bias)
    if halves:
        source = net.pool(f"pool{place}", source, "average", kernel=1, stride=2)
        source = net.pad_channels(f"pad{place}", source, width)
    return net.relu(f"relu{place}", net.add(f"add{place}", x, source))


def _normalised(
    net: Builder,
    name: str,
    source: str,
    channels: int,
    kernel: int,
    stride: int = 1,
    bias: bool = True,
) -> str:
    """A convolution that keeps the size of the image but for its stride, and its normalisation."""
    x = net.convolution(
        name, source, channels, kernel, stride, padding=(kernel - 1) // 2, bias=bias
    )
    return net.batch_norm(f"{name}_norm", x)
