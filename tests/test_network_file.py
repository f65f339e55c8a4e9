"""Network files: what they build, and the line that every mistake is told with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kernelprof.chains import chains
from kernelprof.errors import UsageError
from kernelprof.machine import usable_cpus
from kernelprof.network_file import read_network_file
from kernelprof.network_sources import CHAINS, network, networks
from kernelprof.probes.network import TRAIN
from kernelprof.probes.networks import NETWORKS
from kernelprof.runfile import RunFile
from kernelprof.runner import choose, open_run

from .test_cli import in_a_shell, make_home

GOOD = """\
from kernelprof import Builder, Network


def network():
    net = Builder()
    x = net.input(3, 8, 8)
    x = net.relu("relu1", net.convolution("conv1", x, 4, kernel=3))
    net.softmax_loss(net.fully_connected("fc2", x, 10))
    return Network("mine", "my own", tuple(net.layers), batch=6, quick_batch=2)
"""
START = """\
from kernelprof import Builder, Network


def network():
    net = Builder()
    x = net.input(3, 8, 8)
"""
END = '\n    return Network("mine", "my own", tuple(net.layers), batch=4, quick_batch=4)\n'
CONV = '    x = net.convolution("conv1", x, 4, kernel=3)\n'


def written(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_builds_a_network(tmp_path: Path) -> None:
    built = network(str(written(tmp_path, GOOD)))
    assert (built.name, built.batch, built.quick_batch) == ("mine", 6, 2)
    assert built.parameters() == 4 * 27 + 4 + 4 * 36 * 10 + 10
    assert [layer.kind for layer in built.layers] == [
        *("input", "convolution", "activation", "fully_connected", "loss")
    ]


def test_a_file_imports_what_lies_beside_it(tmp_path: Path) -> None:
    written(tmp_path, "WIDTH = 7\n", "sizes_beside.py")
    text = "import sizes_beside\n" + GOOD.replace("x, 10", "x, sizes_beside.WIDTH")
    assert network(str(written(tmp_path, text))).shapes["fc2"] == (7,)


# What stands in the file, its line that is told, and what is told of it.
BROKEN = {
    "a cycle": (
        START + CONV + '    x = net.add("join", x, "later")\n    net.relu("later", x)' + END,
        8,
        "layer 'join' reads 'later', which no earlier layer yields (a cycle, or a misspelt name)",
    ),
    "a shape that does not fit": (
        START + CONV + '    net.convolution("conv2", x, 4, kernel=9)' + END,
        8,
        "layer 'conv2': convolution: a window of 9 does not fit in 6 pixels",
    ),
    "an unknown layer": (
        START + '    net.convolve("conv1", x)' + END,
        7,
        "unknown layer 'convolve'; known: input, convolution, fully_connected",
    ),
    "an unknown activation": (
        START + '    net.pool("pool1", x, "median", 2, 2)' + END,
        7,
        "layer 'pool1': pool2d: function must be one of",
    ),
    "a negative size": (
        START + '    net.fully_connected("fc1", x, -10)' + END,
        7,
        "layer 'fc1': gemm: n must be a whole number from 1, got -10",
    ),
    "a negative input": (
        START.replace("3, 8, 8", "3, -8, 8") + CONV + END,
        6,
        "layer 'data': the sizes of a sample must be whole numbers from 1, got (3, -8, 8)",
    ),
    "a negative batch": (
        START + CONV + END.replace("quick_batch=4", "quick_batch=-4"),
        9,
        "mine: quick_batch must be a whole number from 1, got -4",
    ),
    "a name twice": (START + CONV + CONV + END, 8, "two layers are called 'conv1'"),
    "a missing argument": (
        START + '    net.convolution("conv1", x)' + END,
        7,
        "TypeError: Builder.convolution() missing 2 required",
    ),
    "a syntax error": (START + "    x = (\n" + END, 7, "SyntaxError: '(' was never closed"),
    "an exception": (START + "    1 / 0" + END, 7, "ZeroDivisionError: division by zero"),
    "an exit": (START + "    raise SystemExit(3)" + END, 7, "SystemExit: 3"),
    "a helper of its own": (
        "def stem(net, x):\n    return net.lrn('norm', net.fully_connected('fc', x, 2))\n\n\n"
        + START
        + "    stem(net, x)"
        + END,
        2,
        "layer 'norm': an image (channels, height, width) is needed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    text, line, message = BROKEN[name]
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as told:
        network(str(path))
    assert str(told.value).startswith(f"{path}, line {line}: {message}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "it defines no function `network()` that returns a kernelprof.Network"),
        ("network = 1\n", "it defines no function `network()`"),
        ("def network():\n    return 1\n", "network() returned int, not a kernelprof.Network"),
        ("def network():\n    pass\n", "network() returned NoneType"),
        ("\0", "null bytes"),
    ],
)
def test_a_file_without_a_network(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as told:
        read_network_file(path)
    assert str(told.value).startswith(f"{path}: ")
    assert message in str(told.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory; name a file"):
        network(str(tmp_path / "none.py"))
    folder = tmp_path / "folder.py"
    folder.mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        network(str(folder))


def test_an_unknown_word_is_told_what_is_known() -> None:
    with pytest.raises(UsageError) as told:
        network("vgg")
    assert ", ".join(NETWORKS) in str(told.value)
    assert "ends in .py or .onnx" in str(told.value)


def test_a_layer_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    text = START + CONV + '    net.relu("lost", x)\n    net.softmax_loss(x)' + END
    with pytest.raises(UsageError, match="nothing reads layer 'lost'"):
        network(str(written(tmp_path, text)))


def test_names_of_calibrations_are_taken(tmp_path: Path) -> None:
    assert all(chain.name.startswith(CHAINS) for chain in chains(choose().networks))
    with pytest.raises(UsageError, match="names that start with 'chain-' are kernelprof's own"):
        network(str(written(tmp_path, GOOD.replace("mine", "chain-calls-1"))))


def test_two_networks_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = written(tmp_path, GOOD), written(tmp_path, GOOD.replace("10)", "11)"), "b.py")
    same = written(tmp_path, GOOD, "c.py")
    assert len(networks([str(first), str(same), "lstm"])) == 2
    with pytest.raises(UsageError, match="another network is called 'mine' too"):
        networks([str(first), str(second)])
    with pytest.raises(UsageError, match="another network is called 'lstm' too"):
        networks(["lstm", str(written(tmp_path, GOOD.replace("mine", "lstm"), "d.py"))])


def test_what_has_no_loss_is_not_trained(tmp_path: Path) -> None:
    path = str(written(tmp_path, START + CONV + END))
    assert choose([path], engines="numpy", modes="infer").modes == ("infer",)
    with pytest.raises(UsageError, match=r"'mine' does not end with a loss.*--mode infer"):
        choose([path], engines="numpy", modes=TRAIN)


def test_a_run_is_carried_on_with_without_the_file(tmp_path: Path) -> None:
    """And with the file, but not with one that builds something else by now."""
    path, run = written(tmp_path, GOOD), tmp_path / "a.kprof"
    options = choose([str(path)], engines="numpy", threads="1", batches="2,4")
    open_run(run, options, "words")[0].close()
    path.write_text(GOOD.replace("10)", "11)"))
    with pytest.raises(UsageError, match="which measures something else"):
        open_run(run, choose([str(path)], engines="numpy", threads="1", batches="2,4"), "")
    path.unlink()
    file, stored = open_run(run, None, "")
    file.close()
    assert stored == options
    assert stored.batches == (2, 4)


def test_options_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They stored names of built-in networks, and one batch."""
    path = tmp_path / "a.kprof"
    options = choose(["lstm"], engines="numpy", threads="1", batches="3")
    run, _ = open_run(path, options, "words")
    earlier = {**run.meta("options"), "networks": ["lstm"], "batch": 3}
    del earlier["batches"]
    run.record("options", earlier)
    run.close()
    assert open_run(path, None, "")[1] == options
    run = RunFile.open(path)
    run.record("options", {**earlier, "batch": None})
    run.close()
    assert open_run(path, None, "")[1] == dataclasses.replace(options, batches=())


def test_a_file_is_measured_at_several_batches(tmp_path: Path) -> None:
    """By a fake engine, as a command; what the file prints is not taken for the answer."""
    home = make_home(tmp_path / "home")
    path = written(tmp_path, "print('read')\n" + GOOD)
    run = str(tmp_path / "a.kprof")
    words = ("--engine", "fake", "--threads", "1", "--batch", "1,4", "--budget", "2s", "-o", run)
    ended = in_a_shell(home, "run", str(path), *words)
    assert ended.returncode == 0, ended.stderr
    assert "4 of 4 cases measured." in ended.stdout
    assert "read" in ended.stderr.splitlines()
    path.unlink()
    again = in_a_shell(home, "run", "-o", run)
    assert again.returncode == 0, again.stderr
    report = json.loads(in_a_shell(home, "report", run, "--format", "json").stdout)
    assert sorted((case["batch"], case["mode"]) for case in report["cases"]) == [
        *((1, "infer"), (1, "train"), (4, "infer"), (4, "train"))
    ]
    assert {case["network"] for case in report["cases"]} == {"mine"}
    # Each group prints its own cases, and no other's.
    lines = [line.split() for line in ended.stdout.splitlines() if line.startswith("mine ")]
    seen = [(line[2], line[1]) for line in lines if line[3:4] == ["fake"]]
    assert sorted(seen) == sorted({("1", "infer"), ("1", "train"), ("4", "infer"), ("4", "train")})


def test_show_and_networks_take_files(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    path = str(written(tmp_path, "print('read')\n" + GOOD))
    shown = json.loads(in_a_shell(home, "show", path, "--json").stdout)
    assert (shown["network"], shown["batch"]) == ("mine", 6)
    (listed,) = json.loads(in_a_shell(home, "networks", path, "--json").stdout)
    assert listed["name"] == "mine"


def test_threads_are_those_of_this_machine() -> None:
    """What is not said of a network's run is as ever."""
    options = choose(["lstm"], engines="numpy")
    assert {len(cpus) for cpus in options.placements} == {1, len(usable_cpus())}
