"""Modules of PyTorch, exported or profiled by it; run in an interpreter that has it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class BasicBlock(nn.Module):  # type: ignore[misc]
    """Two convolutions and a shortcut (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != filters:
            projection = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(filters))

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet_18() -> Any:
    """ResNet-18 of the same paper, 1000 classes."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(channels, filters, stride), BasicBlock(filters, filters, 1)]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class Recurrent(nn.Module):  # type: ignore[misc]
    """Token ids through two layers of cells, to classes at every step."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.cells = nn.LSTM(16, 24, num_layers=2, batch_first=batch_first)
        self.output = nn.Linear(24, 50)

    def forward(self, ids: Any) -> Any:
        return self.output(self.cells(self.table(ids))[0])


class Encoder(nn.Module):  # type: ignore[misc]
    """A transformer's encoder layer with four heads; one product is without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)

    def forward(self, x: Any) -> Any:
        batch, steps, features = x.shape
        query, key, value = (
            product(x).view(batch, steps, 4, 4).transpose(1, 2)
            for product in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-2, -1) / 2.0, dim=-1)
        merged = (weights @ value).transpose(1, 2).reshape(batch, steps, features)
        x = self.norm(x + self.mix(merged))
        return x + self.narrow(nn.functional.gelu(self.wide(x)))


class Halved(nn.Module):  # type: ignore[misc]
    """What kernelprof has no layers for."""

    def forward(self, x: Any) -> Any:
        return torch.cumsum(x[:, ::2], dim=1)


MODULES = {
    "resnet-18": (resnet_18, lambda: torch.randn(2, 3, 64, 64)),
    "recurrent": (lambda: Recurrent(True), lambda: torch.randint(0, 50, (2, 5))),
    "steps-first": (lambda: Recurrent(False), lambda: torch.randint(0, 50, (5, 2))),
    "encoder": (Encoder, lambda: torch.randn(2, 5, 16)),
}


def export(folder: Path) -> None:
    """Every module as an ONNX file without weights; prints what torch itself counts."""
    counts = {}
    for name, (make, inputs) in MODULES.items():
        module, example = make(), inputs()
        with FlopCounterMode(display=False) as counter:
            module(example)
        counts[name] = {
            "flop": counter.get_total_flops(),
            "parameters": sum(each.numel() for each in module.parameters()),
        }
        torch.onnx.export(
            *(module, (example,), folder / f"{name}.onnx"),
            dynamo=False,  # the exporter that needs nothing beside torch and onnx
            export_params=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    sys.stdout.write(json.dumps(counts))


def profile(folder: Path) -> None:
    """Small modules through ``kernelprof.profile``; prints what came of it."""
    import kernelprof
    from kernelprof.torch_module import read_module

    convolution, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 10)]
    module = nn.Sequential(convolution, norm, *head).eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found = kernelprof.profile(
        *(module, torch.randn(4, 3, 9, 9)),
        batches=[2, 4],
        threads=[1],
        processes=1,
        budget_s=1,
        output=folder / "a.kprof",
        force=True,
    )
    networks = {}
    for name, (make, inputs) in MODULES.items():
        network = read_module(make(), inputs())
        networks[name] = {"flop": network.flop(2, "infer"), "parameters": network.parameters()}
    try:
        read_module(Halved(), torch.randn(2, 8))
        refused = ""
    except kernelprof.KernelprofError as error:
        refused = str(error)
    printed = {
        "cases": [[c.network, c.engine, c.batch, c.mode, c.parameters] for c in found.cases],
        "failures": [failure.reason for failure in found.failures],
        "layers": [layer.kind for layer in found.cases[-1].layers] if found.cases else [],
        "unchanged": not module.training
        and all(torch.equal(state[name], value) for name, value in module.state_dict().items()),
        "networks": networks,
        "refused": refused,
    }
    sys.stdout.write(json.dumps(printed))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.path += sys.argv[3:]  # after torch's own packages: those that kernelprof needs
    {"export": export, "profile": profile}[sys.argv[1]](Path(sys.argv[2]))
