"""Every report of made-up results: complete, strict, safe and self-contained."""

import base64
import dataclasses
import gzip
import json
import math
import re
from io import StringIO

import pytest
from rich.console import Console

from kernelprof.reports import FORMATS
from kernelprof.reports.charts import save_chart
from kernelprof.reports.contract import to_json
from kernelprof.reports.facts import facts
from kernelprof.reports.layer_charts import layers_chart
from kernelprof.reports.lines import case_header, case_line, failure_line
from kernelprof.reports.order import groups
from kernelprof.reports.page import to_html
from kernelprof.reports.text import render, to_text
from kernelprof.reports.times_charts import accuracy_chart
from kernelprof.reports.verdict import accuracy, losses, verdict
from kernelprof.results import Estimate, FailureResult

from .sample_results import OUT_OF_MEMORY, large_results, results_of, sample_results

SCRIPT = "<script>alert(1)</script>"
NEW_CASE_KEYS = {
    *("uncovered", "dispatch_s", "beyond", "first_call_s"),
    *("measured_mad_s", "measured_least_s", "predicted_mad_s", "predicted_least_s"),
    *("rounds", "processes", "disturbed_rounds", "disturbed_unavoidably"),
    *("stopped_by", "half_width", "asked_half_width"),
    *("profiler_share", "missing_evidence", "nsys_s"),
}
CASE_KEYS = {
    *("network", "engine", "device", "threads", "cpus", "batch", "mode"),
    *("measured_s", "measured_low_s", "measured_high_s"),
    *("predicted_s", "predicted_low_s", "predicted_high_s", "error"),
    *("reference_s", "ceiling_s", "coverage", "parameters", "flop"),
    *("layers", "ledger", "findings"),
}
LAYER_KEYS = {"name", "kind", "primitives", "engine_s", "reference_s", "ceiling_s", "in_network_s"}
FAILURE_KEYS = {"network", "engine", "threads", "batch", "mode", "kind", "reason"}


@pytest.fixture(scope="module")
def results():
    return sample_results()


@pytest.fixture(scope="module")
def page(results):
    return to_html(results)


def printed(results, width=100, layers=False):
    console = Console(file=StringIO(), width=width)
    render(results, console, layers)
    return console.file.getvalue()


def unpacked(page, name):
    """What a page holds compressed."""
    packed = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page).group(1)
    return gzip.decompress(base64.b64decode(packed)).decode()


def with_case(results, **changes):
    """The results with a changed first case only."""
    return results_of((dataclasses.replace(results.cases[0], **changes),))


def unpredicted(results):
    """A case without a single covered layer."""
    layers = tuple(
        dataclasses.replace(layer, engine_s=None, reference_s=None, kernels=())
        for layer in results.cases[0].layers
    )
    names = tuple(layer.name for layer in layers)
    return with_case(
        results, predicted=None, reference_s=None, coverage=0.0, uncovered=names, layers=layers
    )


class TestContract:
    """What scripts rely on."""

    def test_keys(self, results):
        report = to_json(results)
        assert {"schema", "kernelprof", "machine", "engines", "cases", "failures"} <= set(report)
        assert set(report["cases"][0]) == CASE_KEYS | NEW_CASE_KEYS
        assert set(report["cases"][0]["layers"][0]) == LAYER_KEYS | {
            *("flop", "least_flop", "kernels", "nsys_s", "gpu"),
        }
        assert set(report["failures"][0]) == FAILURE_KEYS | {"passes"}

    def test_values(self, results):
        case, written = results.cases[0], to_json(results)["cases"][0]
        assert written["measured_s"] == case.measured.value_s
        assert written["error"] == case.predicted.value_s / case.measured.value_s - 1
        assert written["layers"][0]["engine_s"] == case.layers[0].engine_s
        assert written["cpus"] == [0]

    def test_json_is_strict(self, results):
        machine = {"temperature": math.nan, "limits": (math.inf, 1), "spare": [None, True]}
        odd = dataclasses.replace(results, machine=machine)
        text = FORMATS["json"](odd)
        read = json.loads(text, parse_constant=pytest.fail)
        assert read["machine"] == {"temperature": None, "limits": [None, 1], "spare": [None, True]}

    def test_a_missing_prediction_is_null(self, results):
        case = to_json(unpredicted(results))["cases"][0]
        assert case["predicted_s"] is case["error"] is case["reference_s"] is None
        assert case["uncovered"]


class TestText:
    """The tables of a terminal."""

    @pytest.mark.parametrize("width", [80, 100, 160])
    def test_every_case_and_failure_has_a_row_that_fits(self, results, width):
        lines = printed(results, width).splitlines()
        assert max(map(len, lines)) <= width
        for engine in ("torch", "tensorflow", "numpy"):
            rows = [line for line in lines if re.match(rf"  {engine} +\d+ +[\d,.]+ ", line)]
            assert len(rows) == sum(case.engine == engine for case in results.cases)
        assert any("out_of_memory" in line for line in lines)
        assert any("wrong_result" in line for line in lines)

    def test_layers_add_up(self, results):
        text = printed(with_case(results), layers=True)
        for layer in results.cases[0].layers:
            assert re.search(rf"^{layer.name} ", text, re.MULTILINE)
        assert re.search(r"^calling ", text, re.MULTILINE)
        assert re.search(r"^predicted .* 100 %", text, re.MULTILINE)

    def test_smaller_layers_are_folded_not_dropped(self):
        assert "5 smaller layers" in printed(large_results(networks=1, layers=30), layers=True)

    def test_an_uncovered_layer_is_named(self, results):
        text = printed(unpredicted(results), layers=True)
        assert "Not covered: fc1, sigmoid1" in text
        assert "no primitive" in text

    def test_names_are_neither_markup_nor_control_sequences(self, results):
        text = printed(with_case(results, network="[bold]net[/] \x1b[2J"))
        assert "[bold]net[/]" in text
        assert "\x1b[2J" not in text

    def test_plain_text_has_no_escapes(self, results):
        assert "\x1b" not in to_text(results)


class TestLines:
    """Results as they come."""

    def test_columns_align(self, results):
        header = case_header().plain
        ends = [header.index(word) + len(word) for word in ("batch", "threads", "predicted")]
        for case in results.cases:
            line = case_line(case).plain
            assert all(line[end - 1] != " " and line[end : end + 1] in {" ", ""} for end in ends)

    def test_a_failure_says_why_on_one_line(self):
        failure = dataclasses.replace(OUT_OF_MEMORY, reason="line one\nline two")
        line = failure_line(failure).plain
        assert "mxnet" in line
        assert "out_of_memory" in line
        assert "line one line two" in line

    def test_a_case_without_prediction(self, results):
        assert case_line(unpredicted(results).cases[0]).plain.rstrip().endswith("-")


class TestVerdict:
    """The words."""

    def test_counts(self, results):
        assert verdict(results)[0] == "35 of 37 cases measured; 2 failed."

    def test_accuracy(self, results):
        case = results.cases[0]
        predicted = [Estimate(x, x * 0.95, x * 1.05) for x in (0.9, 0.97, 1.1)]
        cases = [
            dataclasses.replace(case, measured=Estimate(1.0, 0.99, 1.01), predicted=one)
            for one in predicted
        ]
        found = accuracy([*cases, dataclasses.replace(case, predicted=None)])
        assert found.median_error == pytest.approx(0.1)
        assert found.worst_error == pytest.approx(0.1)
        assert (found.inside, found.predicted) == (1, 3)

    def test_the_reference_engine_does_not_lose_to_itself(self, results):
        numpy_only = [case for case in results.cases if case.engine == "numpy"]
        assert losses(numpy_only) == []
        sentences = verdict(results_of(tuple(numpy_only)))
        assert not any("reference" in sentence for sentence in sentences)

    def test_the_layer_that_loses_most_is_named(self, results):
        case = results.cases[0]
        slow = dataclasses.replace(case.layers[0], engine_s=0.3, reference_s=0.1)
        layers = (*case.layers[1:], slow)
        sentence = next(s for s in verdict(with_case(results, layers=layers)) if "Slowest" in s)
        assert "fc1 of fcn-r" in sentence
        assert "3.00x slower, which costs 200 ms" in sentence

    def test_faster_everywhere(self, results):
        layers = (dataclasses.replace(results.cases[0].layers[0], engine_s=0.1, reference_s=0.3),)
        assert any("No layer" in s for s in verdict(with_case(results, layers=layers)))

    def test_a_quick_run_says_so(self, results):
        assert "quick run" in verdict(dataclasses.replace(results, quick=True))[-1]


class TestPage:
    """The HTML file."""

    def test_every_case_and_failure_is_there(self, results, page):
        for case in results.cases:
            assert case.network in page
        assert page.count("<tr data-item=") == len(results.cases)
        assert page.count('<tr class="failed" data-item=') == 2 * len(results.failures)
        assert results.command in page

    def test_it_loads_nothing(self, page):
        markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
        assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", markup)
        assert not re.search(r"@import|url\(", markup)
        assert "default-src 'none'" in markup
        assert '"url":' not in unpacked(page, "data")  # no chart reads data from elsewhere

    def test_charts_fill_their_places(self, page):
        places = set(re.findall(r'data-chart="([^"]+)"', page))
        data = json.loads(unpacked(page, "data"))
        filled = {
            name for name, chart in data["charts"].items() if data["rows"].get(chart["rows"][0])
        }
        assert places == filled

    def test_tables_have_captions_and_scopes(self, page):
        markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
        assert markup.count("<table") == markup.count("<caption>") > 0
        assert all("scope=" in tag for tag in re.findall(r"<th\b[^>]*>", markup))

    def test_names_stay_text(self, results):
        layers = (dataclasses.replace(results.cases[0].layers[0], name=SCRIPT, kind=SCRIPT),)
        odd = dataclasses.replace(
            with_case(results, network=SCRIPT, engine=SCRIPT, layers=layers),
            failures=(FailureResult(SCRIPT, SCRIPT, 1, 1, "train", SCRIPT, SCRIPT),),
            machine={SCRIPT: {"of": SCRIPT}},
            engines={SCRIPT: {SCRIPT: SCRIPT}},
            command=SCRIPT,
        )
        html = to_html(odd)
        assert "<script>alert" not in html
        assert html.count("</script>") == 5
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html

    def test_the_whole_report_is_in_it(self, results, page):
        assert unpacked(page, "report") == FORMATS["json"](results)

    def test_size(self):
        many = large_results(networks=10, layers=25)
        assert len(many.cases) == 40
        assert len(to_html(many).encode()) < 3_000_000

    def test_facts_have_units(self):
        known = {
            "peak_flop_per_s": {"2": 1.2e11},
            "memory": {"read_bytes_per_s": 17e9, "size_bytes": 2**34},
            "isa": ["avx2", "fma"],
            "cores": 2,
        }
        assert facts(known) == [
            ("peak, 2", "120 GFLOP/s"),
            ("memory, read", "17.0 GB/s"),
            ("memory, size", "16.0 GiB"),
            ("isa", "avx2, fma"),
            ("cores", "2"),
        ]

    def test_what_belongs_together_within_a_list_stays_together(self):
        chains = [["conv2d", "bias"], ["gemm", "bias", "activation"]]
        known = {"fusion": {"chains": {"forward": chains}, "joint_passes": ["lstm_cell"]}}
        assert facts(known) == [
            ("fusion, chains, forward", "conv2d + bias, gemm + bias + activation"),
            ("fusion, joint passes", "lstm_cell"),
        ]


class TestCharts:
    """The pictures."""

    @pytest.mark.parametrize(
        ("suffix", "start"), [(".svg", b"<svg"), (".png", b"\x89PNG"), (".html", b"<!DOCTYPE")]
    )
    def test_saving(self, results, tmp_path, suffix, start):
        path = tmp_path / f"layers{suffix}"
        save_chart(layers_chart(results.cases[0]), path)
        assert path.read_bytes().lstrip().startswith(start)

    def test_an_unknown_suffix_is_refused(self, results, tmp_path):
        chart = accuracy_chart(results.cases)
        with pytest.raises(ValueError, match=r"not .\.gif"):
            save_chart(chart, tmp_path / "accuracy.gif")

    def test_layers_follow_each_other(self, results):
        rows = layers_chart(results.cases[0]).rows["layers"]
        starts, ends = ([row[side] for row in rows] for side in ("start", "end"))
        assert ends[:-1] == pytest.approx(starts[1:])
        assert ends[-1] == pytest.approx(results.cases[0].predicted.value_s)


class TestEveryFormat:
    """What every format survives."""

    @pytest.mark.parametrize("name", FORMATS)
    def test_without_cases(self, name):
        assert "out_of_memory" in FORMATS[name](results_of((), (OUT_OF_MEMORY,)))

    @pytest.mark.parametrize("name", FORMATS)
    def test_without_anything(self, name):
        assert FORMATS[name](results_of(()))

    @pytest.mark.parametrize("name", FORMATS)
    def test_without_prediction(self, name, results):
        assert "fcn-r" in FORMATS[name](unpredicted(results))


def test_groups_lose_nothing(results):
    grouped = groups(results)
    assert sum(len(group.cases) for group in grouped) == len(results.cases)
    assert sum(len(group.failures) for group in grouped) == len(results.failures)
    names = [group.network for group in grouped]
    assert list(dict.fromkeys(names)) == ["fcn-r", "alexnet-s", "lstm"]
