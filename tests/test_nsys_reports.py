"""What nsys saw, in every form of the report: as it is, and nothing of it lost."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kernelprof import cli
from kernelprof.analysis import results as results_of_run
from kernelprof.chains import calls
from kernelprof.nsys_times import NsysTime, nsys_times, of_layers
from kernelprof.plan import Case, Options
from kernelprof.reports import to_html, to_json_text, to_text
from kernelprof.reports.nsys import trace_lines
from kernelprof.reports.text_layers import layers_table
from kernelprof.reports.trace_rows import MOST_ROWS, WHOLE, trace_table, unassigned_rows
from kernelprof.reports.traces import trace_sentences
from kernelprof.results import GpuTime, WorkerProcess
from kernelprof.runfile import RunFile
from kernelprof.trace import Activity, Sampled, Trace, TracedRange, Unassigned, Work
from kernelprof.trace_store import StoredOperation, StoredRange, TraceStore

from .sample_results import LAYERS, results_of, sample_results
from .test_bench import MEASURED
from .test_runfile import KERNEL

HOSTILE = "<script>alert(1)</script>\x1b[2J[bold]{{ 7 * 7 }}"
PROCESSES = {11: WorkerProcess("torch", 2), 12: WorkerProcess("numpy", 1)}
EMPTY = Trace("a.sqlite", "2024.6.2.225", "3.16.1", 100, 4200, (), ())


def sampled(case_id, place, ns, excess_ns=0, calls=10, gpu=None):
    return Sampled(case_id, place, 2, calls, ns, ns + excess_ns, gpu or Activity())


def run_trace(network="fcn-r", gpu=True):
    """Ranges of a run: whole network, layers, and a primitive in each."""
    title = f"{network} infer batch=1024"
    ranges = []
    for pid in PROCESSES:
        works = [Work("kernel", f"gemm_{n}x{n}_tn", 10, 900_000 * n) for n in (16, 32)]
        busy = Activity(20, 3_000_000, 2_500_000, 1_000_000) if gpu else Activity()
        for place, layer in enumerate(LAYERS[network]):
            own = sampled(1, place, 40_000_000 + place, 9_000, gpu=busy)
            path = (title, layer)
            ranges += [
                TracedRange(pid, "kernelprof", path, 2, 50_000_000, busy, ()),
                TracedRange(
                    *(pid, "kernelprof", (*path, f"gemm {layer}"), 2, 40_000_000, busy),
                    tuple(works) if gpu else (),
                    own,
                ),
            ]
        whole = sampled(1, -1, 300_000_000, 400_000, gpu=busy)
        ranges.append(
            TracedRange(
                *(pid, "kernelprof", (title,), 18, 900_000_000, busy),
                tuple(works[:1]) if gpu else (),
                whole,
            )
        )
    return replace(EMPTY, ranges=tuple(ranges))


def foreign_trace(paths=50):
    """Ranges of another program: one in the other, the deepest the shortest."""
    ranges = [
        TracedRange(
            *(77, "NVTX", ("step", f"{HOSTILE} {n}"), 5, 1_000_000 * (n + 1)),
            Activity(5, 900 * n, 900 * n, 50),
            tuple(Work("kernel", f"kernel {k}", 1, 100 * n + k) for k in range(5)),
        )
        for n in range(paths)
    ]
    step = TracedRange(
        *(77, "NVTX", ("step",), 5, 10**10, Activity(5 * paths, 10**9, 10**8, 0)),
        (Work("memcpy", "HtoD", 3, 500, 4096),),
    )
    lost = (
        Unassigned("it was launched outside of ranges", Work("memset", "memset", 2, 3_000)),
        Unassigned("its launch is not in the trace", Work("kernel", HOSTILE, 1, 9_000)),
    )
    return replace(
        EMPTY,
        ranges=(step, *ranges),
        unassigned=lost,
        left_out={"still open at the end of the trace": 3},
    )


def printed(trace, width=80, processes=PROCESSES):
    console = Console(file=StringIO(), width=width, color_system=None)
    for line in trace_lines(trace, processes, width):
        console.print(line)
    return console.file.getvalue()


def nsys_results(*traces):
    """The sample results with what nsys saw of the first case."""
    results = sample_results()
    layers = tuple(
        replace(layer, nsys_s=1.01 * layer.engine_s) for layer in results.cases[0].layers
    )
    case = replace(results.cases[0], nsys_s=1.002 * results.cases[0].measured.value_s)
    cases = (replace(case, layers=layers), *results.cases[1:])
    return replace(results, cases=cases, traces=traces, processes=PROCESSES)


class TestVerdict:
    """The first sentence."""

    def test_of_a_run(self):
        (first, *more) = trace_sentences(run_trace(gpu=False), PROCESSES)
        assert first == (
            "nsys 2024.6.2.225: 100 ranges of 2 engines; its times and kernelprof's own differ by "
            "0.022 % in the median, 0.13 % at worst (torch, 2 threads, fcn-r infer batch=1024); "
            "ranges cost up to 4.20 µs a sample."
        )
        assert more == []

    def test_what_ranges_cost_explains_no_more_than_that(self):
        path = ("net infer batch=1", "fc1", "gemm")
        for excess_ns, is_said in ((10_000 + 2 * 4200, False), (10_000 + 2 * 4200 + 1, True)):
            own = sampled(1, 0, 1_000_000, excess_ns)
            trace = replace(
                EMPTY, ranges=(TracedRange(11, "kernelprof", path, 2, 1, Activity(), (), own),)
            )
            said = " ".join(trace_sentences(trace, PROCESSES))
            assert ("For 1 of 1 path they differ by more than 1 %" in said) == is_said

    def test_of_another_program(self):
        assert trace_sentences(foreign_trace(3), {}) == [
            "nsys 2024.6.2.225: 20 ranges of 1 domain in 1 process.",
            "GPU work: 18 operations of ranges, busy for 100 ms; 3 of none.",
            "Left out: 3 ranges (still open at the end of the trace).",
        ]

    def test_of_nothing(self):
        assert trace_sentences(EMPTY, {}) == [
            "nsys 2024.6.2.225: 0 ranges of 0 domains in 0 processes."
        ]


class TestRows:
    """The tables' rows."""

    def test_a_run_without_gpu_work_has_its_layers_elsewhere(self):
        assert trace_table(run_trace(gpu=False), PROCESSES) is None

    def test_layers_stand_in_their_order_under_engine_and_network(self):
        table = trace_table(run_trace(), PROCESSES)
        assert [part.heading for part in table.parts] == [
            "fcn-r infer batch=1024, torch, 2 threads",
            "fcn-r infer batch=1024, numpy, 1 thread",
        ]
        for part in table.parts:
            *layers, whole = part.rows
            assert [row.name for row in layers] == list(LAYERS["fcn-r"])
            assert (whole.name, whole.count, whole.host_s) == (WHOLE, 2, 0.3004)
            assert [work.name for work in whole.work] == ["gemm_16x16_tn"]
            assert [work.name for work in layers[0].work] == ["gemm_32x32_tn", "gemm_16x16_tn"]
            assert layers[0].gpu == Activity(20, 3_000_000, 2_500_000, 1_000_000)

    def test_chains_of_a_calibration_have_no_rows(self):
        title = f"{calls(1).name} infer batch=16"
        chain = TracedRange(
            *(11, "kernelprof", (title, "fc1"), 1, 10**9, Activity(1, 1, 1, 0)),
            (Work("kernel", "k", 1, 1),),
        )
        trace = run_trace()
        with_chain = replace(trace, ranges=(chain, *trace.ranges))
        assert trace_table(with_chain, PROCESSES) == trace_table(trace, PROCESSES)

    def test_the_largest_paths_of_another_program_and_how_many_there_are(self):
        table = trace_table(foreign_trace(50), {})
        (part,) = table.parts
        assert part.heading == "process 77"
        sizes = [row.host_s for row in part.rows]
        assert (len(sizes), table.folded) == (MOST_ROWS, 31)
        assert sizes == sorted(sizes, reverse=True)
        assert part.rows[1].name == f"step > {HOSTILE} 49"

    def test_work_in_ranges_of_another_domain_is_with_those_around_them(self):
        many = foreign_trace(40)
        library = tuple(replace(traced, domain="library") for traced in many.ranges[1:])
        trace = replace(many, ranges=(many.ranges[0], *library))
        assert trace_table(trace, {}) == trace_table(many, {})

    @given(st.integers(1, 40), st.integers(0, 30))
    @settings(max_examples=30, deadline=None)
    def test_all_work_is_in_the_rows_or_below_the_last(self, paths, lost):
        trace = foreign_trace(paths)
        unassigned = tuple(
            Unassigned(f"reason {n % 3}", Work("kernel", f"k{n}", 1 + n, 10 * n, n))
            for n in range(lost)
        )
        trace = replace(trace, unassigned=unassigned)
        (part,) = trace_table(trace, {}).parts
        for what in ("count", "total_ns", "bytes"):
            shown = sum(getattr(work, what) for row in part.rows for work in row.work)
            assert shown == sum(getattr(w, what) for one in trace.ranges for w in one.work)
            rows = unassigned_rows(trace)
            shown = sum(getattr(one.work, what) for one in rows)
            assert shown == sum(getattr(one.work, what) for one in unassigned)
            by_reason = {one.why for one in rows}
            assert by_reason == {one.why for one in unassigned}


class TestTerminal:
    """After an import, and in the text of a report."""

    @pytest.mark.parametrize("width", [60, 80, 100, 200])
    @pytest.mark.parametrize("trace", [run_trace(), foreign_trace()], ids=["run", "foreign"])
    def test_it_fits(self, trace, width):
        assert max(map(len, printed(trace, width).splitlines())) <= width

    def test_figures_are_not_cut(self):
        text = printed(run_trace(), 80)
        assert re.search(r"^  fc1 +2 +50\.0 +2\.50 +1\.00 +0\.500$", text, re.MULTILINE)
        assert re.search(r"^    gemm_32x32_tn +10 +28\.8", text, re.MULTILINE)
        assert "…" not in text

    def test_what_is_folded_is_counted(self):
        text = printed(foreign_trace(50))
        assert "31 smaller paths beside these" in text
        assert re.search(r"^ +2 others +2 +0\.00980 *$", text, re.MULTILINE)
        assert re.search(r"its launch is not in the trace +1 +9\.00", text)

    def test_names_are_neither_markup_nor_control_sequences(self):
        text = printed(foreign_trace(3), 200)
        assert "\x1b" not in text
        assert "<script>alert(1)</script> [2J[bold]{{ 7 * 7 }} 2" in text

    def test_a_report_has_the_section_once(self):
        text = to_text(nsys_results(run_trace(), foreign_trace(3)))
        assert text.count("Under nsys: a.sqlite") == 2
        assert to_text(sample_results()).count("nsys") == 0

    @pytest.mark.parametrize("width", [80, 100, 160])
    def test_layers_have_a_column_where_nsys_saw_them(self, width):
        results = nsys_results(run_trace())
        text = layers_text(results.cases[0], width)
        assert re.search(r"engine ms +nsys ms +share", text)
        assert max(map(len, text.splitlines())) <= width
        assert "nsys" not in layers_text(results.cases[1], width)
        without = replace(results.cases[0], layers=sample_results().cases[0].layers)
        rows = layers_text(without, width).splitlines()
        measured = next(row for row in rows if row.startswith("measured"))
        predicted = next(row for row in rows if row.startswith("predicted"))
        assert len(measured.split()) == len(predicted.split())


def layers_text(case, width):
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(layers_table(case, width))
    return console.file.getvalue()


class TestContract:
    """What scripts read."""

    def test_a_trace_says_all_that_was_imported(self):
        read = json.loads(to_json_text(nsys_results(run_trace(), foreign_trace())))
        own, foreign = read["traces"]
        assert (own["source"], own["product"], own["schema"]) == (
            "a.sqlite",
            "2024.6.2.225",
            "3.16.1",
        )
        first, kernel = own["ranges"][:2]
        assert (first["engine"], first["threads"], first["sampled"]) == ("torch", 2, None)
        assert kernel["path"] == ["fcn-r infer batch=1024", "fc1", "gemm fc1"]
        assert kernel["gpu"]["busy_s"] == pytest.approx(2.5e-3)
        assert kernel["gpu"]["overlap_s"] == pytest.approx(5e-4)
        assert kernel["sampled"]["nsys_s"] == pytest.approx(0.040009)
        assert kernel["work"][0] == {
            "kind": "kernel",
            "name": "gemm_16x16_tn",
            "count": 10,
            "total_s": pytest.approx(14.4e-3),
            "bytes": 0,
        }
        assert len(foreign["ranges"]) == 51
        assert foreign["ranges"][0]["engine"] is None
        assert [one["why"] for one in foreign["unassigned"]] == [
            one.why for one in foreign_trace().unassigned
        ]
        assert foreign["left_out"] == {"still open at the end of the trace": 3}

    def test_times_of_nsys_stand_beside_kernelprofs_own(self):
        with_nsys, without = json.loads(to_json_text(nsys_results(run_trace())))["cases"][:2]
        assert with_nsys["nsys_s"] == pytest.approx(1.002 * with_nsys["measured_s"])
        assert with_nsys["layers"][0]["nsys_s"] == pytest.approx(
            1.01 * with_nsys["layers"][0]["engine_s"]
        )
        assert without["nsys_s"] is without["layers"][0]["nsys_s"] is None
        assert without["layers"][0]["gpu"] is without["layers"][0]["kernels"][0]["nsys_s"] is None


class TestPage:
    """The section of the page."""

    def test_it_is_there_with_names_as_text(self):
        page = to_html(nsys_results(run_trace(), foreign_trace()))
        section = page[page.index('<section id="nsys"') :]
        section = section[: section.index("</section>")]
        assert '<a href="#nsys">' in page
        assert "<script" not in section
        assert HOSTILE in unescape(section)
        assert "31 smaller paths beside these" in section
        for sentence in trace_sentences(foreign_trace(), PROCESSES):
            assert sentence in unescape(section)

    def test_a_run_without_an_import_says_nothing_of_nsys(self):
        assert "nsys" not in re.sub(
            r"<script.*?</script>", "", to_html(sample_results()), flags=re.S
        )


def test_times_are_those_of_all_samples_per_call():
    def traced(pid, place, traced_ns, calls, gpu=None, case_id=3):
        own = Sampled(case_id, place, 1, calls, 1, traced_ns, gpu or Activity())
        return TracedRange(pid, "kernelprof", ("n", "l", "p"), 1, 1, Activity(), (), own)

    first = replace(EMPTY, ranges=(traced(1, 0, 100, 1), traced(2, 0, 500, 3), traced(1, 1, 70, 7)))
    second = replace(
        EMPTY,
        source="b",
        ranges=(traced(1, 0, 400, 6, Activity(20, 90, 60, 10)), traced(1, -1, 9, 1)),
    )
    found = nsys_times([first, second])
    assert found == {
        3: {
            0: NsysTime(
                pytest.approx(100e-9), GpuTime(2.0, *map(pytest.approx, (6e-9, 1e-9, 3e-9)))
            ),
            1: NsysTime(pytest.approx(10e-9)),
            -1: NsysTime(pytest.approx(9e-9)),
        }
    }


def test_a_layer_is_the_sum_of_its_kernels_where_nsys_saw_them_all():
    gpu = GpuTime(2.0, 4.0, 1.0, 0.5)
    times = {0: NsysTime(10.0, gpu), 1: NsysTime(20.0), 3: NsysTime(8.0, gpu)}
    shares = {0: {"a": 1.0}, 1: {"a": 1.0}, 2: {"b": 1.0}, 3: {"a": 0.25, "b": 0.5, "c": 0.25}}
    assert of_layers(times, shares) == {
        "a": NsysTime(32.0, GpuTime(2.5, 5.0, 1.25, 0.625)),
        "c": NsysTime(2.0, GpuTime(0.5, 1.0, 0.25, 0.125)),
    }


class TestRun:
    """From the run file."""

    def test_what_was_imported_is_in_the_results(self, tmp_path):
        run = measured_run(tmp_path / "a.kprof")
        kernel = Sampled(1, 0, 2, 4, 4000, 4400, Activity(8, 80, 60, 20))
        whole = Sampled(1, -1, 2, 4, 8000, 8800)
        path = ("net infer batch=1", "fc1", "gemm")
        trace = replace(
            EMPTY,
            ranges=(
                TracedRange(7, "kernelprof", path[:1], 4, 9000, Activity(), (), whole),
                TracedRange(7, "kernelprof", path, 2, 4400, Activity(), (), kernel),
            ),
        )
        before = results_of_run(run)
        TraceStore(run).add(trace, [], [])
        found = results_of_run(run)
        run.close()
        assert (before.traces, found.traces) == ((), (trace,))
        assert found.processes == {7: WorkerProcess("numpy", 1)}
        (case,) = found.cases
        assert case.nsys_s == pytest.approx(2200e-9)
        (first, second) = case.layers[:2]
        assert first.kernels[0].nsys_s == first.nsys_s == pytest.approx(1100e-9)
        assert first.gpu == GpuTime(2.0, *map(pytest.approx, (15e-9, 5e-9, 5e-9)))
        assert second.nsys_s is second.gpu is None
        (case,) = before.cases
        assert case.nsys_s is case.layers[0].nsys_s is None


def measured_run(path):
    """A network of one layer that was measured, and of a second that failed."""
    network = calls(1)
    options = Options((network,), ("numpy",), ((0,),), ("infer",), (), False, 1.0)
    meta = {"kernelprof": "0", "command": "kernelprof run", "started": "2025-11-22T08:14:00+00:00"}
    run = RunFile.create(path, {**meta, "machine": {}, "options": options.to_json()})
    run.add_network(network.to_json())
    case_id = run.add_case(Case(network.name, "numpy", (0,), 1, "infer"), calibration=False)
    failure = {"kind": "unsupported", "reason": "has none"}
    second = {**KERNEL, "layer": "sigmoid1", "failure": failure}
    run.describe_case(case_id, 1, [KERNEL, second])
    worker_id = run.add_worker("numpy", (0,), {"pid": 7, "thread_cpus": {"1": [0]}, "threads": 1})
    rounds = [
        {
            "round": n,
            "whole": [2, 10_000 * n, 4000, *[0] * 7],
            "kernels": {"0": [2, 10_000 * n + 5000, 2000, *[0] * 7]},
        }
        for n in range(2)
    ]
    run.add_turn(case_id, worker_id, {"rounds": rounds, "turn_ns": 1})
    return run


@pytest.fixture
def foreign_run(tmp_path):
    """A run file that holds nothing but a trace of another program."""
    options = Options((), (), (), (), (), False, 0.0)
    meta = {
        "kernelprof": "0",
        "command": "kernelprof nsys import a.sqlite b.kprof",
        "started": "2025-11-22T08:14:00+00:00",
    }
    run = RunFile.create(
        tmp_path / "b.kprof", {**meta, "machine": {}, "options": options.to_json()}
    )
    ranges = [StoredRange(77, 78, "NVTX", HOSTILE, 5, 10)]
    operations = [StoredOperation(77, 0, 7, "kernel", HOSTILE, 7, 20, 0)]
    TraceStore(run).add(foreign_trace(), ranges, operations)
    run.close()
    return run.path


def kernelprof(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["kernelprof", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


class TestForeignRun:
    """A run that holds only what another program did."""

    @pytest.mark.parametrize("format_", ["text", "json", "html"])
    def test_it_is_reported(self, foreign_run, monkeypatch, capsys, format_):
        status, out, _ = kernelprof(monkeypatch, capsys, "report", foreign_run, "--format", format_)
        assert status == 0
        if format_ == "json":
            (trace,) = json.loads(out)["traces"]
            assert len(trace["ranges"]) == 51
        else:
            assert "No case was measured; the run holds 1 trace." in out
            assert "260 ranges" not in out
            assert "nsys 2024.6.2.225: 255 ranges of 1 domain in 1 process." in out

    def test_it_is_a_timeline(self, foreign_run, monkeypatch, capsys, tmp_path):
        path = tmp_path / "a.json"
        words = ("export", foreign_run, "--format", "perfetto", "-o", path)
        assert kernelprof(monkeypatch, capsys, *words)[0] == 0
        found = json.loads(path.read_text())["traceEvents"]
        shown = [(e["name"], e["ts"], e["dur"]) for e in found if e["ph"] == "X"]
        assert shown == [(HOSTILE, 0.0, 0.005), (HOSTILE, 0.002, 0.013)]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("predict", "lenet", "--from"), "was taken on another machine"),
            (("predict", "fcn-r", "--other-machine", "--from"), "."),
            (("diagnose",), "holds no measured network; `kernelprof run` measures some"),
            (("scale",), "holds no network that was measured with two thread counts or batches"),
        ],
    )
    def test_what_needs_cases_says_so(self, foreign_run, monkeypatch, capsys, words, said):
        status, out, err = kernelprof(monkeypatch, capsys, *words, foreign_run)
        assert (status, out) == (2, "")
        assert said in " ".join(err.split())
        assert "Traceback" not in err


def test_a_bench_shows_a_trace_too():
    results = replace(results_of(()), primitives=(MEASURED,), traces=(foreign_trace(3),))
    assert "Under nsys: a.sqlite" in to_text(results)
