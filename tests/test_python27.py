"""The probes in Python 2.7: translated sources, held against the originals in this interpreter."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelprof.engines import Environment, environment, home
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.probes.boot import PACKAGE
from kernelprof.probes.clock import ClockFacts
from kernelprof.probes.compute_bound import Conv2d, Gemm, LstmCell
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.memory_bound import BatchNorm, Embedding, Pool2d, SgdUpdate, SoftmaxLoss
from kernelprof.probes.network import MODES
from kernelprof.python27 import BACKPORTS, ROOTS, TranslationError, translate, write_package
from tests.test_engine_contract import (
    HARNESS_SHARE,
    PATIENCE_S,
    TOLERANCE,
    UPDATE_TOLERANCE,
    branching_network,
    kernel_error,
    result_names,
)
from tests.test_rules import ROOT

PROBES = ROOT / "probes"
BATCH = 3

# Each ends with a ``result`` that JSON can say.
SNIPPETS = {
    "f-strings": """
width, name, number = 7, "a{b}", 0.1 + 0.2
result = [f"{name}: {number} {{}} {number:.3f}", f"{name!r:>{width}}|{number!s}|{1e-05}",
          f"{width:>{width}d}", f"{[number]} {1 / 3}", f"", f"{None} {True} {(1, 'x')}"]
""",
    "floats as text": """
result = [str(0.1 + 0.2), str(1e22), str(2.0), list(map(str, (1 / 3, 2, "x")))]
""",
    "division": """
result = [7 / 2, 7 // 2, -7 // 2, 1 / 4, 2**-2, 3**0.5]
""",
    "stars": """
def names(*values, sep="-", end="."):
    return sep.join(map(str, values)) + end
a, b = [1, 2], (3, 4)
result = [[*a, 0, *b], (*b, *a), sorted({*a, *b}), names(*a, 0, *b), names(0, *a, sep="+"),
          names(*a, **{"end": "!", "sep": ","})]
""",
    "unpacking": """
first, *rest = "abc"
*init, last = range(3)
one, *none = [1]
result = [first, rest, init, last, one, none]
""",
    "too little to unpack": """
try:
    a, *b, c = [1]
    result = "no error"
except ValueError as error:
    result = "error"
""",
    "keyword-only arguments": """
def f(a, *, b=2):
    "docstring"
    return [a, b]
def g(*values, b):
    return [values, b]
def refused(call):
    try:
        return call()
    except (TypeError, KeyError):
        return "refused"
result = [f(1), f(1, b=3), g(1, b=2), refused(lambda: f(1, c=2)), refused(lambda: f(1, 2)),
          refused(lambda: g(1))]
""",
    "order of dictionaries": """
def put(d, key):
    d[key] = 1
    return d
letters = "zyxwvutsrqponmlkjihgfedcba"
d = {letter: place for place, letter in enumerate(letters)}
e = {"z": 1, "a": 2, **d, "m": 3}
f = dict(zip(letters, letters))
f.pop("y")
f["y"] = 1
f.update({"b": 2, "new": 3})
result = [list(d), list(e.items()), list(f), list(dict.fromkeys(letters)), list(dict(e).values()),
          list(f.copy()), d == dict(reversed(list(d.items()))), list(put({}, "k")), "a" in d,
          d.get("none"), f.setdefault("a", 0), len(e), e != d]
""",
    "dictionaries show their items": """
result = [repr({"b": 1, "a": [2]}), f"{ {'b': 1} }"]
""",
    "comprehensions keep their variables": """
x = "outer"
squares = [x * x for x in range(3)]
nested = [(x, y) for x in range(3) if x for y in range(x)]
result = [x, squares, nested, sorted({x % 2 for x in range(5)})]
""",
    "iterators": """
def pairs():
    yield from zip("ab", range(5))
    yield next(iter("x"))
def stopped():
    try:
        return [next(iter(())) for _ in range(3)]
    except Exception:
        return "stopped"
result = [list(pairs()), stopped(), list(filter(None, [0, 1])), max([], default=7),
          max((1, 3), default=0), min(4, 2), max("ab", "b", key=len), next(iter([]), "none"),
          list(reversed(range(3))), sum(range(4))]
""",
    "classes": """
class Base:
    kind: str = "base"
    def __init__(self, x):
        self.x = x
    def show(self):
        return f"{self.kind} {self.x}"
class Derived(Base):
    kind = "derived"
    def __init__(self):
        super().__init__(3)
    def show(self):
        return super().show() + "!"
    @property
    def twice(self):
        return 2 * self.x
    @classmethod
    def make(cls):
        return cls()
result = [Derived.make().show(), Derived().twice, isinstance(Derived(), Base)]
""",
    "dataclasses": """
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar

@dataclass(frozen=True)
class Size:
    kind: ClassVar[str] = "size"
    width: int
    height: int = 1
    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError("negative")

@dataclass(frozen=True)
class Box(Size):
    shape: tuple[int, ...] = ()
    names: dict[str, int] = field(default_factory=dict)
    inner: Size = Size(1)

def refused(call):
    try:
        call()
        return "accepted"
    except (AttributeError, TypeError, ValueError) as error:
        return type(error).__name__ if not isinstance(error, AttributeError) else "AttributeError"

def change():
    Size(1).width = 2

box = Box(2, shape=(1, 2))
result = [asdict(box), [[f.name, f.type] for f in fields(box)], box == Box(2, 1, (1, 2)),
          box != Box(2, 1, (1, 2)), Size(1) == Box(1), hash(Size(1)) == hash(Size(1)),
          len({Size(1), Size(1), Size(2)}), repr(Size(1)), asdict(replace(box, width=5)),
          Box(1).names is Box(1).names, Box.kind, refused(change), refused(lambda: Size(-1)),
          refused(lambda: Size()), refused(lambda: Size(1, 2, 3)), refused(lambda: Size(1, x=2)),
          refused(lambda: Size(1, width=2)), refused(lambda: replace(box, width=-1))]
""",
    "named tuples": """
from typing import NamedTuple

class Timed(NamedTuple):
    \"\"\"A call.\"\"\"
    calls: int
    place: int = 7
    @classmethod
    def make(cls) -> Timed:
        return cls(1)
    def since(self, before: Timed) -> Timed:
        return Timed(*(later - earlier for later, earlier in zip(self, before)))

timed = Timed.make()
calls, place = timed
result = [timed, timed._replace(calls=3), list(timed._asdict().items()), place, timed.place,
          timed.since(Timed(1, 2)), repr(timed), timed == (1, 7)]
""",
    "remembered results": """
from functools import cached_property, lru_cache
asked = []
class Owner:
    @cached_property
    def value(self):
        asked.append("value")
        return 5
@lru_cache
def double(x):
    asked.append(x)
    return 2 * x
@lru_cache(maxsize=1)
def triple(x):
    asked.append(x)
    return 3 * x
owner = Owner()
result = [owner.value, owner.value, double(1), double(1), triple(2), triple(3), triple(2), asked]
""",
    "contexts": """
import contextlib
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
@contextmanager
def noted(name):
    seen.append(name)
    try:
        yield name
    finally:
        seen.append("-" + name)
def scope() -> AbstractContextManager[object]:
    return nullcontext()
seen = []
with noted("a") as a, noted("b"), scope():
    seen.append(a)
with contextlib.suppress(KeyError), suppress(ValueError):
    {}["missing"]
result = seen
""",
    "errors": """
class Mine(ValueError):
    pass
def f():
    try:
        raise KeyError("x")
    except KeyError as error:
        raise Mine(f"because of {error}") from error
try:
    f()
except Mine as error:
    result = [str(error), type(error).__name__]
""",
    "files": """
from pathlib import Path
def lines(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError as error:
        return isinstance(error, OSError)
tasks = sorted(p.parent.name for p in Path("/proc/self/task").glob("*/stat"))
result = [lines("/nonexistent"), len(lines("/proc/self/stat")), bool(tasks), Path("/a/b.py").stem]
""",
    "types asked for": """
result = [isinstance("x", str), isinstance({}, dict), isinstance([], (dict, str)),
          isinstance({}, (str, dict)), type(1) is int, isinstance(True, int), isinstance(1.0, int)]
""",
    "clock and processors": """
import gc
import os
import time
before = time.perf_counter_ns()
cpus = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(cpus)})
alone = os.sched_getaffinity(0)
os.sched_setaffinity(0, cpus)
try:
    os.sched_setaffinity(2**22 + 1, cpus)
    gone = False
except ProcessLookupError:
    gone = True
gc.freeze()
gc.unfreeze()
result = [isinstance(before, int), time.perf_counter_ns() > before, alone == {min(cpus)}, gone,
          cpus == os.sched_getaffinity(0), abs(time.monotonic() - before / 1e9) < 10]
""",
    "messages": """
import json
text = '{"z": [1, 2.5, null, "\\\\u00fc"], "a": {"name": "x", "flag": true}}'
message = json.loads(text)
result = [json.dumps(message), list(message), isinstance(message["a"]["name"], str),
          getattr([], "append") is not None, json.dumps({"b": (1, 2), "a": 0.1})]
""",
    "types": """
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Union
if TYPE_CHECKING:
    from nowhere import Nothing
Shape = tuple[int, ...]
Call = Callable[[], Any]
Pair = Union[int, tuple[int, int]]
TABLE: dict[str, type[Any]] = {"int": int}
def f(x: Nothing | None = None) -> Iterator[Shape]:
    y: Nothing
    z: Any = x
    yield z
result = [list(f()), TABLE["int"](3)]
""",
    "text beyond ASCII": """
'''A docstring may: \u00fc.'''
import json
name = json.loads('"\\\\u00fc"')
result = [f"{name}", str(name), json.dumps({name: name})]
""",
}

RUN = """
import importlib, json, sys, types
package = types.ModuleType("probes")
package.__path__ = [sys.path.pop(0)]
sys.modules["probes"] = package
results = []
for number in range(%d):
    results.append(importlib.import_module("probes.snippet%%d" %% number).result)
sys.stdout.write(json.dumps(results))
"""


def environment27() -> Environment:
    """Where Python 2.7 is; the test is skipped by name where it is not installed."""
    found = environment("cntk")
    if found is None:
        pytest.skip("engine cntk is not installed: `kernelprof engines install cntk`")
    return found


def run27(script: Path) -> Any:
    """What a script prints as JSON."""
    ran = subprocess.run(
        environment27().command(script), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def results27(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of every snippet in Python 2.7."""
    folder = tmp_path_factory.mktemp("snippets")
    for number, code in enumerate(SNIPPETS.values()):
        (folder / f"snippet{number}.py").write_text(translate(code, "snippet.py"))
    (folder / "backports.py").write_text((PROBES / "backports.py").read_text())
    (folder / "run.py").write_text(RUN % len(SNIPPETS))
    return dict(zip(SNIPPETS, run27(folder / "run.py"), strict=True))


@pytest.mark.parametrize("name", SNIPPETS)
def test_it_means_the_same_there(name: str, results27: dict[str, Any], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text("from __future__ import annotations\n" + SNIPPETS[name])
    here = runpy.run_path(str(snippet), run_name="snippet")["result"]
    assert results27[name] == json.loads(json.dumps(here))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("if (n := 1): pass", "NamedExpr"),
        ("match 1:\n  case 1: pass", "Match"),
        ("async def f(): pass", "AsyncFunctionDef"),
        ("def f():\n  x = 1\n  def g():\n    nonlocal x", "Nonlocal"),
        ("a @ b", "MatMult"),
        ("try: pass\nexcept* OSError: pass", "TryStar"),
        ("def f(a, /): pass", "argument of this kind"),
        ("lambda *, a: a", "argument of this kind"),
        ("def f(**options): pass", "order"),
        ("def f(*a, b=[]): pass", "keyword-only"),
        ("f(**a, **b)", r"two \*\*"),
        ("for a, *b in c: pass", "star"),
        ("x = yield from f()", "YieldFrom"),
        ("class A(metaclass=M): pass", "metaclass"),
        ("class A:\n  def __bool__(self): return True", "__bool__"),
        ("class A:\n  def __eq__(self, other): return True", "__eq__"),
        ("def f():\n  super()", "super"),
        ("x = 'm\u00fc'", "ASCII"),
        ("x = f'm\u00fc{1}'", "ASCII"),
        ("f'{x!a}'", "!a"),
        ("round(2.5)", "round"),
        ("open('x')", "open"),
        ("x = bytes", "bytes"),
        ("range = 3", "range"),
        ("def f(str): pass", "str"),
        ("backports = 3", "backports"),
        ("def map(x): pass", "the name map"),
        ("from x import y as zip", "the name zip"),
        ("try: pass\nexcept KeyError as next: pass", "the name next"),
        ("dict(b=1, a=2)", "order"),
        ("x.update(b=1, a=2)", "order"),
        ("import statistics", "statistics"),
        ("import math\nmath.floor(x)", "math"),
        ("type(x) is dict", "comparison with dict"),
        ("a.keys() == b.keys()", "comparison"),
        ("import pathlib\npathlib.PurePath", "pathlib"),
        ("import importlib.util\nimportlib.util.find_spec('x')", "importlib.util"),
        ("import asyncio", "asyncio"),
        ("from pathlib import PurePath", "pathlib"),
        ("from typing import cast\nx = cast(int, 3)", "cast"),
    ],
)
def test_what_is_unknown_is_refused(code: str, reason: str) -> None:
    """With its file and line, never translated to something else."""
    with pytest.raises(TranslationError, match=reason) as refused:
        translate("x = 1\n" + code, "module.py")
    assert str(refused.value).startswith("probes/module.py:")
    assert "probes/module.py:?" not in str(refused.value)


def names_used(text: str) -> set[tuple[str, str]]:
    """The module and the name of everything that a source takes from the standard library."""
    tree = ast.parse(text)
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            used |= {(node.module, each.name) for each in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in {*modules, BACKPORTS}:
            used.add((ast.unparse(node.value), node.attr))
    return {(m, n) for m, n in used if m.partition(".")[0] in (*sys.stdlib_module_names, BACKPORTS)}


def test_every_probe_is_translated(tmp_path: Path) -> None:
    """All that a worker imports compiles there, and finds every name in the standard library."""
    boot = write_package(PROBES, tmp_path)
    sources = sorted(boot.parent.glob("*.py"))
    assert {f"{root}.py" for root in ROOTS} <= {source.name for source in sources}
    assert "on_torch.py" not in {source.name for source in sources}
    translated = [source.read_text() for source in sources if source.stem != BACKPORTS]
    used = set().union(*map(names_used, translated))
    code = f"""
import importlib, json, os, sys
folder = os.path.dirname(os.path.abspath(__file__))
for name in os.listdir(folder):
    with open(os.path.join(folder, name)) as file:
        compile(file.read(), name, "exec", 0, True)
lacking = []
for module, name in {sorted(used)!r}:
    if not hasattr(importlib.import_module(module), name):
        lacking.append([module, name])
sys.stdout.write(json.dumps(lacking))
"""
    (boot.parent / "check.py").write_text(code)
    assert run27(boot.parent / "check.py") == []


def test_a_package_is_written_once(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.mkdir()
    for probe in PROBES.glob("*.py"):
        (source / probe.name).write_text(probe.read_text())
    boot = write_package(source, target)
    written = boot.stat().st_mtime_ns
    assert write_package(source, target) == boot
    assert boot.stat().st_mtime_ns == written
    (source / "data.py").write_text((source / "data.py").read_text() + "\n# changed\n")
    assert write_package(source, target) != boot
    (source / "data.py").write_text("x = 1 @ 2\n")
    with pytest.raises(TranslationError, match=r"probes/data\.py:1:.*MatMult"):
        write_package(source, target)
    assert len(list(target.iterdir())) == 2


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """The numpy engine in Python 2.7."""
    running = Worker(replace(environment27(), adapter="numpy"), usable_cpus()[:1])
    yield running
    running.close()


def test_a_worker_says_where_it_lives(worker: Worker) -> None:
    facts = worker.ask("facts", PATIENCE_S)
    assert facts["python"].startswith("2.7.")
    assert facts["threads"] == 1
    assert set(map(tuple, facts["thread_cpus"].values())) == {worker.cpus}
    assert 0 < facts["clock_resolution_ns"] < 100_000
    assert 0 < facts["clock_loop_ns"] < facts["clock_block_ns"] < 100_000


@pytest.mark.parametrize(
    "primitive",
    [
        Gemm(37, 41, 43, trans_a=True, trans_b=True),
        Conv2d(3, 6, 7, 11, 9, (2, 3), (1, 2), (0, 1, 1, 1), (2, 1), groups=3),
        LstmCell(7, 13, 11, steps=5),
        Pool2d("average", 1, 2, 7, 6, (3, 3), (2, 3), padding=(1, 0, 1, 2), ceil=True),
        BatchNorm(5, 3, 7, training=True),
        SoftmaxLoss(17, 13),
        Embedding(31, 7, 5),
        SgdUpdate(1009, momentum=0.9, learning_rate=0.1),
    ],
    ids=lambda primitive: primitive.label,
)
def test_kernels_agree_with_the_oracle(worker: Worker, primitive: Any) -> None:
    for pass_ in primitive.passes:
        assert kernel_error(worker, (primitive,), pass_) < TOLERANCE


@pytest.mark.parametrize("mode", MODES)
def test_a_network_agrees_with_the_oracle(worker: Worker, mode: str) -> None:
    network = branching_network()
    asked = {"network": network.to_json(), "batch": BATCH, "mode": mode, "seed": 5}
    errors = worker.ask("check_network", PATIENCE_S, **asked)["errors"]
    assert list(errors)[:1] == ["output" if mode == "infer" else "loss"]
    assert errors.keys() == result_names(network, mode)
    assert max(errors.values()) < TOLERANCE


def test_training_moves_the_weights(worker: Worker) -> None:
    asked = {"network": branching_network().to_json(), "batch": BATCH, "seed": 7}
    errors = worker.ask("check_update", PATIENCE_S, **asked)["errors"]
    assert max(errors.values()) < UPDATE_TOLERANCE


@pytest.mark.parametrize("mode", MODES)
def test_a_network_is_built_and_timed(worker: Worker, mode: str) -> None:
    """Into the kernels into which it comes apart here, and with the harness below its share."""
    network = branching_network()
    asked = {"network": network.to_json(), "batch": BATCH, "seed": 0, "warm_up_s": 0.2}
    subjects = {mode: {"mode": mode, "whole": True}}
    built = worker.ask("build", PATIENCE_S, subjects=subjects, **asked)[mode]["kernels"]
    here = kernels(network, BATCH, mode, Fusion())
    assert [each["layer"] for each in built] == [kernel.layer for kernel in here]
    sizes = [[p.to_json() for p in kernel.primitives] for kernel in here]
    assert [each["primitives"] for each in built] == json.loads(json.dumps(sizes))
    assert [each["passes"] for each in built] == [list(kernel.passes) for kernel in here]
    assert [each["least_bytes"] for each in built] == [kernel.least_bytes for kernel in here]
    assert all(each["failure"] is None and each["error"] < TOLERANCE for each in built)
    facts = worker.ask("facts", PATIENCE_S)
    turn = worker.ask("turn", PATIENCE_S, subject=mode, rounds=[0, 1, 2])
    assert [round_["round"] for round_ in turn["rounds"]] == [0, 1, 2]
    for round_ in turn["rounds"]:
        assert list(round_["kernels"]) == [str(place) for place in range(len(here))]
        for calls, _, duration, *_ in [round_["whole"], *round_["kernels"].values()]:
            clock = ClockFacts(1, facts["clock_block_ns"], facts["clock_loop_ns"])
            assert clock.harness_ns(calls) < HARNESS_SHARE * duration
    assert worker.ask("drop", PATIENCE_S, subjects=[mode]) == {}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"primitives": [{"kind": "gem"}]}, "unknown primitive 'gem'; known: gemm, conv2d"),
        ({"primitives": [{**Gemm(2, 3, 5).to_json(), "m": 2.5}]}, "gemm: m must be a whole number"),
        ({"primitives": [{**Gemm(2, 3, 5).to_json(), "depth": 1}]}, "depth"),
        ({"primitives": [{**Gemm(2, 3, 5).to_json(), "dtype": "m\u00fc"}]}, "dtype must be one of"),
    ],
)
def test_a_wrong_request_is_answered(worker: Worker, asked: Any, reason: str) -> None:
    with pytest.raises(WorkerError, match=reason) as refused:
        worker.ask("check_kernel", PATIENCE_S, passes=["forward"], seed=0, **asked)
    assert refused.value.kind == "error"
    assert worker.alive


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(WorkerError, match="on_torch") as missing:
        Worker(replace(environment27(), adapter="torch"), usable_cpus()[:1])
    assert missing.value.kind == "no_engine"


ADAPTER = """
import sys
from .on_numpy import NumpyEngine

class Own(NumpyEngine):
    def facts(self):
        return dict(NumpyEngine.facts(self), path=sys.path, package=__package__, file=__file__)

def start(device):
    return Own()
"""


def test_an_adapter_of_the_users_own() -> None:
    """In Python 2.7's own words; and no module of the probes shadows one of its engine's."""
    found = environment27()
    boot = write_package(ROOT / "probes", home() / "probes-2.7")
    seen = Path(found.command(boot)[-1]).with_name("own.py")  # in a root of its own another path
    boot.with_name("own.py").write_text(ADAPTER)
    try:
        own = Worker(replace(found, adapter=str(seen)), usable_cpus()[:1])
        facts = own.ask("facts", PATIENCE_S)
        own.close()
    finally:
        boot.with_name("own.py").unlink()
    assert (facts["layout"], facts["package"]) == ("NCHW", PACKAGE)
    assert facts["file"] == str(seen)
    assert not [folder for folder in facts["path"] if (Path(folder) / "decompose.py").exists()]
