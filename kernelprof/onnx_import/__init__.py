"""ONNX files as networks: their graph and shapes, never their weights; nothing is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.inliner import inline_local_functions

from kernelprof.errors import UsageError
from kernelprof.onnx_import.axes import RearrangedError
from kernelprof.onnx_import.graph import Graph, GraphError, graph_of, title
from kernelprof.onnx_import.operators import OPERATORS, translate
from kernelprof.onnx_import.translation import NotCoveredError, Translation
from kernelprof.probes.network import Network, NetworkError

MOST_BYTES = 2**31 - 1  # that a protobuf message may have
BATCH, QUICK_BATCH = 16, 4  # where the file leaves it open


def read_onnx(path: Path, sizes: Mapping[str, int] | None = None) -> Network:
    """The network of an ONNX file.

    ``sizes`` are those of dimensions that the file leaves open, by name; an open batch needs none.

    Raises:
        UsageError: it cannot be read, or holds what kernelprof has no layers for.
    """
    return network_of(_model(path), path.stem, str(path), sizes or {})


def _model(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UsageError(
                f"{path}: {size / 1e9:.1f} GB are more than the 2 GB that an ONNX file may have; "
                "export it with its weights in a file of their own (external data)"
            )
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that can be read") from error
    except DecodeError as error:
        raise UsageError(f"{path}: no ONNX file, or a truncated one: {error}") from error
    if not model.graph.node:
        raise UsageError(f"{path}: no ONNX file: it holds no operators")
    return model


def network_of(
    model: onnx.ModelProto,
    name: str,
    source: str,
    sizes: Mapping[str, int] | None = None,
) -> Network:
    """The network of a model in memory; ``source`` is how messages call it.

    The batch is what the file leaves open, or the first axis of the input; or the second one, where
    only that makes sense of it: recurrent layers of PyTorch have the steps first.

    Raises:
        UsageError: it is inconsistent, or holds what kernelprof has no layers for.
    """
    try:
        model = inline_local_functions(model)
        graph = graph_of(model, sizes or {}, BATCH, 0)
        translation, problems = _translated(graph)
        if problems and not graph.input.batch_is_open:
            steps_first, others = _translated(graph_of(model, sizes or {}, BATCH, 1))
            translation, problems = (steps_first, []) if not others else (translation, problems)
        if problems:
            raise UsageError(f"{source}: {_listed(problems)}")
        return _network(translation, name, source)
    except (GraphError, NetworkError) as error:
        raise UsageError(f"{source}: {error}") from error


def _translated(graph: Graph) -> tuple[Translation, list[str]]:
    """All that could be translated, and what could not, operator by operator."""
    translation, problems = Translation(graph), []
    for node in graph.walk():
        try:
            translate(translation, node)
        except (NotCoveredError, RearrangedError, NetworkError) as error:
            problems.append(f"{title(node)}{f' ({error})' if str(error) else ''}")
    return translation, problems


def _listed(problems: list[str]) -> str:
    what = "an operator is" if len(problems) == 1 else f"{len(problems)} operators are"
    return f"{what} not covered: {'; '.join(problems)}; covered are {', '.join(OPERATORS)}"


def _network(translation: Translation, name: str, source: str) -> Network:
    """What was translated, with the loss of a classifier where it is one."""
    net, graph = translation.net, translation.graph
    output = graph.proto.output[0].name
    if output not in translation.views:
        raise GraphError(f"its output {output!r} is not computed from its input")
    view = translation.settled(translation.views[output])
    shape = translation.shape(view)
    if view.is_sequence(shape) or (len(shape) == 1 and view.is_flat(shape)):
        net.softmax_loss(view.layer)
    batch = BATCH if graph.input.batch_is_open else translation.batch
    return Network(name, source, tuple(net.layers), batch, min(batch, QUICK_BATCH))
