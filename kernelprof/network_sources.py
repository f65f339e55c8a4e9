"""Where a network comes from: a built-in's name, a Python file of the user's own, an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kernelprof.errors import UsageError
from kernelprof.network_file import read_network_file
from kernelprof.probes.network import Network
from kernelprof.probes.networks import NETWORKS

PYTHON, ONNX = ".py", ".onnx"
CHAINS = "chain-"  # so start the names of the networks that calibrate a run
UNPRINTABLE = set("\"'\\")  # in the files that engines read their networks from


def networks(words: Iterable[str], dims: Iterable[str] = ()) -> tuple[Network, ...]:
    """The networks that words of the command line mean, each once.

    ``dims`` are NAME=VALUE, for the dimensions that an ONNX file leaves open.

    Raises:
        UsageError: a word means none, or two of them mean different networks of one name.
    """
    found: dict[str, Network] = {}
    for word in words:
        one = network(word, dims)
        if found.setdefault(one.name, one) != one:
            raise UsageError(
                f"{word}: another network is called {one.name!r} too, and results go by name; "
                "rename one of them"
            )
    return tuple(found.values())


def network(word: str, dims: Iterable[str] = ()) -> Network:
    """The network that a word means.

    Raises:
        UsageError: it means none, or its file holds none that can be built.
    """
    if word in NETWORKS:
        return NETWORKS[word]()
    path = Path(word)
    if path.suffix == PYTHON:
        return whole(read_network_file(path), word)
    if path.suffix == ONNX:
        from kernelprof.onnx_import import read_onnx  # slow to import, and rarely needed

        return whole(read_onnx(path, _sizes(dims)), word)
    raise UsageError(
        f"unknown network {word!r}; known: {', '.join(NETWORKS)}; the path of a network file ends "
        f"in {PYTHON} or {ONNX}"
    )


def whole(network: Network, source: str) -> Network:
    """The same network, if engines all compute it to the same end.

    Raises:
        UsageError: its name is taken, it has no input, or layers that nothing reads, which some
            engines would leave out; ``source`` is how the message calls it.
    """
    layers = network.layers
    if network.name.startswith(CHAINS):
        raise UsageError(f"{source}: names that start with {CHAINS!r} are kernelprof's own")
    if not layers or layers[0].kind != "input":
        raise UsageError(f"{source}: the first layer of {network.name!r} must be its input")
    read = {name for layer in layers for name in layer.inputs}
    for layer in layers[:-1]:
        if layer.name not in read:
            raise UsageError(
                f"{source}: nothing reads layer {layer.name!r}; leave it out, or let the network "
                "end with it"
            )
    for layer in layers:
        if not layer.name.isprintable() or UNPRINTABLE & set(layer.name):
            raise UsageError(f"{source}: layer {layer.name!r}: a name has no quotes or backslashes")
    return network


def _sizes(dims: Iterable[str]) -> Mapping[str, int]:
    """Sizes by the name of the dimension."""
    sizes = {}
    for text in dims:
        name, _, value = text.partition("=")
        if not name or not value.isdecimal() or int(value) < 1:
            raise UsageError(f"--dim {text}: NAME=VALUE is needed, a size from 1")
        sizes[name] = int(value)
    return sizes
