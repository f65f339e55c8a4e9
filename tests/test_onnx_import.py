"""ONNX files: what PyTorch exports comes back, and every operator that is not covered is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kernelprof import onnx_import
from kernelprof.engines import environment
from kernelprof.errors import UsageError
from kernelprof.network_sources import network
from kernelprof.onnx_import.operators import OPERATORS
from kernelprof.probes.network import INFER, MODES, Network

from .conftest import engine_worker
from .test_cli import in_a_shell, make_home, plant_ceilings

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120.0
TOLERANCE = 1e-3
FLOAT = TensorProto.FLOAT


def in_torch(*words: str, home: Path | None = None) -> Any:
    """What a script prints that the interpreter of the engine torch runs."""
    found = environment("torch")
    if found is None:
        pytest.skip("engine torch is not installed: `kernelprof engines install torch`")
    ours = {str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    moved = {"KERNELPROF_HOME": str(home), "TMPDIR": str(home)} if home else {}
    ended = subprocess.run(
        [found.python, str(ROOT / "tests" / "torch_modules.py"), *words, *sorted(ours)],
        env={**os.environ, **moved},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


class Exported:
    """Files that PyTorch's exporter wrote, and what PyTorch counts of the modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = in_torch("export", str(folder))

    def network(self, name: str) -> Network:
        return network(str(self.folder / f"{name}.onnx"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"))


def test_resnet_18_has_the_flop_and_the_parameters_of_torch(exported: Exported) -> None:
    """And those of the literature: 11,689,512 parameters."""
    found, counted = exported.network("resnet-18"), exported.counts["resnet-18"]
    assert found.parameters() == counted["parameters"] == 11_689_512
    assert found.flop(2, INFER) == counted["flop"]
    assert (found.batch, found.quick_batch) == (2, 2)
    assert found.layers[-1].kind == "loss"
    names = [layer.name for layer in found.layers]
    assert {"0", "1", "4.conv1", "6.shortcut.0", "14"} <= set(names)


@pytest.mark.parametrize("name", ["recurrent", "steps-first"])
def test_recurrent_modules_have_steps_and_batch_wherever_they_are(
    name: str, exported: Exported
) -> None:
    """Cells of torch have two biases each, of which one is enough; it counts no flop of theirs."""
    found, counted = exported.network(name), exported.counts[name]
    assert found.shapes["data"] == (5,)
    assert found.batch == 2
    second_biases = 2 * 4 * 24
    assert found.parameters() == counted["parameters"] - second_biases
    kinds = ["input", "embedding", "lstm", "lstm", "fully_connected", "loss"]
    assert [layer.kind for layer in found.layers] == kinds


def test_an_encoder_has_its_heads(exported: Exported) -> None:
    found, counted = exported.network("encoder"), exported.counts["encoder"]
    assert found.parameters() == counted["parameters"]
    assert found.flop(2, INFER) == counted["flop"]
    kinds = [layer.kind for layer in found.layers]
    assert [kinds.count(kind) for kind in ("split_heads", "matmul", "merge_heads")] == [3, 2, 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["torch", "tensorflow", "mxnet"])
def test_resnet_18_computes_in_an_engine_what_the_oracle_does(
    engine: str, mode: str, exported: Exported
) -> None:
    running = engine_worker(engine)
    try:
        asked = {"network": exported.network("resnet-18").to_json(), "batch": 2, "seed": 5}
        errors = running.ask("check_network", PATIENCE_S, mode=mode, **asked)["errors"]
    finally:
        running.close()
    assert max(errors.values()) < TOLERANCE, errors


def test_a_torch_module_is_profiled(exported: Exported, tmp_path: Path) -> None:
    """In the interpreter that has it, by the same machinery; its weights are left alone."""
    plant_ceilings(tmp_path)
    printed = in_torch("profile", str(tmp_path), home=tmp_path)
    assert printed["failures"] == []
    assert printed["cases"] == [
        ["Sequential", "torch", batch, mode, 3 * 8 * 9 + 2 * 8 + 8 * 10 + 10]
        for batch in (2, 4)
        for mode in MODES
    ]
    assert printed["layers"] == [
        *("convolution", "batch_norm", "activation", "pooling", "dropout"),
        *("fully_connected", "loss"),
    ]
    assert printed["unchanged"]
    for name, counted in printed["networks"].items():
        read = exported.network(name)
        assert counted == {"flop": read.flop(2, INFER), "parameters": read.parameters()}
    assert printed["refused"].startswith("torch module Halved: ")
    assert "CumSum" in printed["refused"]
    assert "Slice" in printed["refused"]
    shown = in_a_shell(make_home(tmp_path / "home"), "report", str(tmp_path / "a.kprof"))
    assert "Sequential" in shown.stdout


def model(
    *nodes: Any, shape: tuple[Any, ...] = (2, 3, 8, 8), element: int = FLOAT, **weights: Any
) -> onnx.ModelProto:
    """A model that reads ``x`` and yields ``y``; weights are given by their shapes or numbers."""
    tensors = [
        helper.make_tensor(name, FLOAT, value, np.zeros(value))
        if isinstance(value, tuple)
        else onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in weights.items()
    ]
    given = [helper.make_tensor_value_info("x", element, shape)]
    yielded = [helper.make_tensor_value_info("y", FLOAT, None)]
    graph = helper.make_graph(nodes, "test", given, yielded, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def node(kind: str, *inputs: str, to: str = "y", **options: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [to], name=f"a_{kind}", **options)


def read(made: onnx.ModelProto, **sizes: int) -> Network:
    return onnx_import.network_of(made, "test", "test.onnx", sizes)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"pads": [1, 2, 3, 4]}, (4, 10, 12)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 3]}, (4, 4, 3)),
        ({"auto_pad": "SAME_LOWER", "strides": [3, 1]}, (4, 3, 8)),
        ({"auto_pad": "VALID"}, (4, 6, 6)),
        ({"dilations": [2, 3]}, (4, 4, 2)),
    ],
)
def test_windows_of_convolutions(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """The shape is checked against that of ONNX's own inference as the file is read."""
    found = read(model(node("Conv", "x", "w", **options), w=(4, 3, 3, 3)))
    assert found.shapes["a_Conv"] == shape
    assert found.parameters() == 4 * 27


def test_uneven_padding_is_where_it_belongs() -> None:
    (_, layer) = read(model(node("Conv", "x", "w", pads=[1, 2, 3, 4]), w=(4, 3, 3, 3))).layers
    assert layer.padding == (1, 3, 2, 4)  # type: ignore[attr-defined]  top, bottom, left, right


def test_grouped_convolutions_and_biases() -> None:
    made = model(node("Conv", "x", "w", "b", group=3), w=(6, 1, 3, 3), b=(6,))
    assert read(made).parameters() == 6 * 9 + 6


@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    [
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2]}, (3, 3, 4)),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (3, 8, 8)),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, (3, 4, 4)),
        ("GlobalAveragePool", {}, (3, 1, 1)),
        ("LRN", {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}, (3, 8, 8)),
        ("Relu", {}, (3, 8, 8)),
        ("Sigmoid", {}, (3, 8, 8)),
        ("Identity", {}, (3, 8, 8)),
    ],
)
def test_operators_on_images(kind: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    found = read(model(node(kind, "x", **options)))
    assert list(found.shapes.values())[-1] == shape


def test_a_mean_over_the_image_is_a_pool() -> None:
    made = model(node("ReduceMean", "x", "axes", keepdims=0), axes=np.array([3, 2]))
    assert read(made).shapes["a_ReduceMean"] == (3, 1, 1)
    refused(model(node("ReduceMean", "x", "axes"), axes=np.array([1])), "height and width")


@pytest.mark.parametrize("stored", [(5, 192), (192, 5)])
def test_products_flatten_images_and_take_their_bias(stored: tuple[int, int]) -> None:
    """A Gemm with either layout of its weights; a MatMul whose Add brings the bias."""
    flat = node("Flatten", "x", to="flat")
    gemm = node("Gemm", "flat", "w", "b", transB=int(stored[0] == 5))
    assert read(model(flat, gemm, w=stored, b=(5,))).parameters() == 5 * 192 + 5
    if stored[0] == 192:
        product = node("MatMul", "flat", "w", to="p")
        biased = model(flat, product, node("Add", "b", "p"), w=stored, b=(5,))
        assert read(biased).parameters() == 5 * 192 + 5
        assert read(model(flat, node("MatMul", "flat", "w"), w=stored)).parameters() == 5 * 192


def test_branches_join_and_a_last_softmax_is_the_loss() -> None:
    made = model(
        node("Relu", "x", to="left"),
        node("Sigmoid", "x", to="right"),
        node("Add", "left", "right", to="sum"),
        node("Flatten", "sum", to="flat"),
        node("Gemm", "flat", "w", to="logits"),
        node("Softmax", "logits", axis=-1),
        w=(192, 7),
    )
    kinds = [layer.kind for layer in read(made).layers]
    assert kinds == ["input", "activation", "activation", "add", "fully_connected", "loss"]


def test_dropout_has_its_rate() -> None:
    made = model(node("Dropout", "x", "rate"), rate=np.float32(0.3))
    assert read(made).layers[-1].rate == 0.3  # type: ignore[attr-defined]


def test_an_open_batch_needs_no_size() -> None:
    made = model(node("Relu", "x"), shape=("N", 3, 8, 8))
    assert (read(made).batch, read(made).quick_batch) == (16, 4)
    assert read(made).shapes["data"] == (3, 8, 8)


def test_other_open_dimensions_need_a_size(tmp_path: Path) -> None:
    made = model(node("Relu", "x"), shape=("N", 3, "height", 8))
    refused(made, "input 'x': dimension 2 (height) is dynamic and has no value; give it one with")
    assert read(made, height=12).shapes["data"] == (3, 12, 8)
    refused(model(node("Relu", "x"), shape=("N", 3, None, 8)), "neither value nor name")
    path = tmp_path / "open.onnx"
    onnx.save(made, path)
    shown = in_a_shell(tmp_path, "show", str(path), "--dim", "height=12", "--mode", "infer")
    assert "12" in shown.stdout, shown.stderr
    wrong = in_a_shell(tmp_path, "show", str(path), "--dim", "height=tall")
    assert wrong.returncode == 2
    assert "--dim height=tall: NAME=VALUE is needed" in wrong.stderr


def refused(made: onnx.ModelProto, *messages: str) -> str:
    with pytest.raises(UsageError) as told:
        read(made)
    text = str(told.value)
    assert text.startswith("test.onnx: ")
    assert "\n" not in text
    for message in messages:
        assert message in text
    return text


def test_every_operator_that_is_not_covered_is_named() -> None:
    """In one message: also those after one, and uses of covered ones that are not."""
    text = refused(
        model(
            node("Erf", "x", to="a"),
            node("Relu", "a", to="b"),
            helper.make_node("Einsum", ["b"], ["c"], name="second", equation="abcd->abcd"),
            node("MaxPool", "x", to="d", kernel_shape=[3, 3], dilations=[2, 2]),
            node("Conv", "d", "w", to="e"),
            helper.make_node("Winograd", ["e"], ["y"], name="own", domain="my.domain"),
            w=(4, 3, 3, 3),
        ),
        "4 operators are not covered: Erf 'a_Erf'; Einsum 'second'; "
        "MaxPool 'a_MaxPool' (its window is dilated); my.domain.Winograd 'own'; covered are ",
    )
    assert all(kind in text for kind in OPERATORS)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            model(node("Conv", "x", "w"), w=(4, 5, 3, 3)),
            "Conv 'a_Conv': its weights are for 5 channels, there are 3",
        ),
        (
            model(node("Flatten", "x", to="f"), node("Gemm", "f", "w"), w=(9, 4)),
            "Gemm 'a_Gemm' does not fit what it reads: Dimension mismatch",
        ),
        (model(node("Add", "x", "w"), w=(3, 8, 8)), "Add 'a_Add' (its input 2 is a constant)"),
        (model(node("Relu", "later")), "reads 'later', which no earlier operator yields (a cycle"),
        (model(node("Relu", "x"), shape=(2,)), "input 'x' of shape (2,) is no batch of samples"),
        (model(node("Reshape", "x", "to"), to=np.array([7, -1])), "Reshape 'a_Reshape'"),
        (model(node("Relu", "x", to="z")), "its output 'y' is not computed from its input"),
    ],
)
def test_what_does_not_fit_is_told(made: onnx.ModelProto, message: str) -> None:
    refused(made, message)


def test_files_that_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there, a folder, a text, cut short, empty, too large; one line each."""
    whole = model(node("Conv", "x", "w"), w=(4, 3, 3, 3)).SerializeToString()
    files = {"text": b"no model\n" * 9, "short": whole[: len(whole) // 2], "empty": b""}
    for name, content in files.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"{path}: no ONNX file") as told:
            network(str(path))
        assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="No such file"):
        network(str(tmp_path / "none.onnx"))
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(2**31)  # sparse: it takes no room
    with pytest.raises(UsageError, match=r"2\.1 GB are more than the 2 GB that an ONNX file may"):
        network(str(huge))


def test_nothing_outside_of_the_file_is_read(tmp_path: Path) -> None:
    """Weights that lie in another file need not be there."""
    made = model(node("Conv", "x", "w"), w=(4, 3, 3, 3))
    (tensor,) = made.graph.initializer
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = tmp_path / "external.onnx"
    path.write_bytes(made.SerializeToString())
    assert network(str(path)).parameters() == 4 * 27


def test_the_command_line_does_not_load_onnx() -> None:
    code = "import sys, kernelprof.cli; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
