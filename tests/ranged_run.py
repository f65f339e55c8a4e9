"""A run of every engine that there is, on two small networks, for tests of what tools make of it.

``python -m tests.ranged_run FILE`` makes one, to be run under a tool.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

from kernelprof import measure
from kernelprof.engines import environment, installed
from kernelprof.machine import usable_cpus
from kernelprof.measure import Measurement
from kernelprof.plan import Options, StopRule, groups
from kernelprof.probes.network import MODES, Builder, Network
from kernelprof.runfile import RunFile


def recurrent_network() -> Network:
    net = Builder()
    x = net.embedding("embedding", net.input(3, vocabulary=11), 11, 5)
    x = net.lstm("lstm", x, 6)
    net.softmax_loss(net.fully_connected("words", x, 11))
    return Network("recurrent", "tests", tuple(net.layers), batch=4, quick_batch=4)


def convolutional_network() -> Network:
    net = Builder()
    x = net.convolution("conv1", net.input(3, 13, 11), 8, kernel=3, padding=1)
    x = net.pool("pool1", net.relu("relu1", x), "max", kernel=3, stride=2)
    net.softmax_loss(net.fully_connected("classes", x, 7))
    return Network("convolutional", "tests", tuple(net.layers), batch=4, quick_batch=4)


def measure_all(path: Path) -> RunFile:
    """Whole networks and kernels, inference and training, on one CPU, two rounds of each."""
    options = Options(
        networks=(recurrent_network(), convolutional_network()),
        engines=tuple(installed()),
        placements=(usable_cpus()[:1],),
        modes=MODES,
        batches=(),
        quick=False,
        budget_s=5.0,
        stop=StopRule(least=2, most=2),
        processes=1,
    )
    meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}}
    run = RunFile.create(path, {**meta, "options": options.to_json()})
    environments = {name: environment(name) for name in options.engines}
    planned = [group for group in groups(options) if not group.calibration]
    with patch.object(measure, "WARM_UP_S", 0.02):
        Measurement(run, options, environments).measure(planned)
    return run


if __name__ == "__main__":
    measure_all(Path(sys.argv[1])).close()
