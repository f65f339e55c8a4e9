"""The charts and the data of the page: colours, laws of their rows, and what each place says."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kernelprof.reports import page_data
from kernelprof.reports.chart_files import save_charts
from kernelprof.reports.charts import Picture, save_chart
from kernelprof.reports.diagnosis_charts import step_rows
from kernelprof.reports.engine_colours import COLOURS, REFERENCE, SPARE, colours, luminance
from kernelprof.reports.layer_charts import layer_rows
from kernelprof.reports.page_places import Place, Places, measured, places
from kernelprof.reports.roofline_chart import roof_rows, roofline_chart
from kernelprof.reports.size_charts import size_rows, sizes_chart
from kernelprof.reports.summary_csv import summary_csv
from kernelprof.reports.sweep_charts import batch_rows, over_batches, over_threads, speedup_rows
from kernelprof.reports.times_charts import overview_rows, times_chart
from kernelprof.results import CaseResult, Results

from .sample_results import results_of, sample_results, with_diagnosis
from .test_page import bench_results, ceilings, hostile_results, whole_results

LEAST_CONTRAST = 3.0  # of graphics, after WCAG 2
PAPERS = (1.0, luminance("#14171b"))
# From linear RGB to what people with a form of colour blindness see of it (Machado, Oliveira,
# Fernandes 2009, severity 1), in the order of protan, deutan and tritan.
BLINDNESS = (
    np.eye(3),
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
)
LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.fixture(scope="module")
def results() -> Results:
    return whole_results()


def seen(colour: str, form: int) -> NDArray[np.float64]:
    """A colour in OKLab (Ottosson 2020) as people with a form of colour vision see it."""
    own = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(own <= 0.04045, own / 12.92, ((own + 0.055) / 1.055) ** 2.4)
    shown = np.clip(np.asarray(BLINDNESS[form]) @ linear, 0, 1)
    return np.asarray(LAB) @ np.cbrt(np.asarray(LMS) @ shown)


class TestColours:
    """Engines are told apart by everybody."""

    def test_contrast_on_light_and_dark(self) -> None:
        for colour in {*COLOURS.values(), *SPARE, REFERENCE}:
            for paper in PAPERS:
                low, high = sorted((luminance(colour), paper))
                assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST

    @pytest.mark.parametrize("form", range(4))
    def test_no_two_are_alike(self, form: int) -> None:
        for one, other in itertools.combinations({*COLOURS.values(), SPARE[0]}, 2):
            # Tritan vision is 100 times rarer than the others.
            least = 0.065 if form == 3 else 0.085
            assert np.linalg.norm(seen(one, form) - seen(other, form)) > least, (one, other)

    def test_an_unknown_engine_has_a_colour_of_its_own(self) -> None:
        found = colours(["torch", "mine", "numpy", "yours"])
        assert len(set(found.values())) == 4
        assert found["torch"] == COLOURS["torch"]
        assert found["numpy"] == REFERENCE

    def test_more_engines_than_colours(self) -> None:
        assert len(colours(f"engine {number}" for number in range(40))) == 40


class TestLayers:
    """Bars follow each other, and add up."""

    def test_the_prediction(self, results: Results) -> None:
        for case in results.cases:
            rows = layer_rows(case)
            assert [row["end"] for row in rows[:-1]] == [row["start"] for row in rows[1:]]
            assert case.predicted
            assert rows[-1]["end"] == pytest.approx(case.predicted.value_s)

    def test_the_measured_time_is_that_of_the_ledger(self, results: Results) -> None:
        case = with_diagnosis(results.cases[0])
        rows = [row for row in layer_rows(case) if row["within_end"] is not None]
        assert [row["within_end"] for row in rows[:-1]] == pytest.approx(
            [row["within_start"] for row in rows[1:]]
        )
        assert rows[-1]["within_end"] == pytest.approx(case.measured.value_s)

    def test_without_a_diagnosis_nothing_is_within(self) -> None:
        rows = layer_rows(sample_results().cases[0])
        assert not any(row["profiled"] or row["within_end"] for row in rows)

    def test_a_ladder_without_a_diagnosis_still_reaches_the_measured_time(self) -> None:
        case = sample_results().cases[0]
        for ceiling_s in (None, 1e-9):
            layers = tuple(replace(layer, ceiling_s=ceiling_s) for layer in case.layers)
            rows = [row for row in step_rows(replace(case, layers=layers)) if row["start"]]
            assert rows[-1]["end"] == pytest.approx(case.measured.value_s)


class TestKernels:
    """The roofline and the heat-maps."""

    def test_roofs_are_the_lower_of_arithmetic_and_memory(self) -> None:
        known = ceilings()
        rows = roof_rows(known, ["1 thread", "2 threads", "cuda:0", "7 threads"])
        assert {row["placement"] for row in rows} == {"1 thread", "2 threads", "cuda:0"}
        at = known.placements[2]
        peak = at.flop_per_s("float32")
        for row in rows:
            if row["placement"] == "2 threads" and row["roof"] in ("L2", "DRAM"):
                slope = at.bytes_per_s(row["roof"])
                assert peak
                assert slope
                assert row["flop_per_s"] == pytest.approx(min(slope * row["intensity"], peak))

    def test_every_kernel_is_a_point_at_its_placement(self, results: Results) -> None:
        names = [place.only["placement"] for place in places(results).roofline]
        points = sum(len(roofline_chart(results, name).rows["kernels"]) for name in names)
        assert points == sum(len(layer.kernels) for case in results.cases for layer in case.layers)

    def test_points_are_where_they_belong(self) -> None:
        rows = roofline_chart(bench_results(), "1 thread").rows["kernels"]
        assert [(row["intensity"], row["flop_per_s"]) for row in rows[:2]] == [
            (10.0, pytest.approx(1e10)),
            (10.0, pytest.approx(1e10)),
        ]

    def test_a_heat_map_has_every_size_and_engine(self) -> None:
        rows = sizes_chart(bench_results(), "gemm", "forward", "1 thread").rows["sizes"]
        assert {(row["size"], row["engine"]) for row in rows} == {
            (size, engine) for size in ("64x64x64", "128x128x128") for engine in ("torch", "numpy")
        }

    def test_what_computes_nothing_has_no_size(self, results: Results) -> None:
        rows = [row for case in results.cases for row in size_rows(case)]
        assert {row["kind"] for row in rows} == {"gemm", "conv2d", "lstm_cell"}


class TestWholeNetworks:
    """Engines side by side."""

    def test_the_fastest_stands_at_one(self, results: Results) -> None:
        rows = overview_rows(results.cases)
        for _, own in itertools.groupby(
            sorted(rows, key=lambda row: row["work"]), key=lambda row: row["work"]
        ):
            assert min(row["times"] for row in own) == 1

    def test_speed_ups_are_over_the_fewest_threads(self, results: Results) -> None:
        own = over_threads(results.cases)[0]
        first, last = own[0], own[-1]
        rows = {row["role"]: row for row in speedup_rows(last, first)}
        gain = first.measured.value_s / last.measured.value_s
        assert rows["measured"]["speedup"] == pytest.approx(gain)
        assert rows["measured"]["low"] < gain < rows["measured"]["high"]
        assert rows["ideal"]["speedup"] == last.threads / first.threads
        assert speedup_rows(first, first)[0]["speedup"] == 1

    def test_batches(self, results: Results) -> None:
        (own,) = over_batches(results.cases)
        assert [case.batch for case in own] == [256, 512, 1024]
        rate = own[0].batch / own[0].measured.value_s
        assert batch_rows(own[0])[0]["per_s"] == pytest.approx(rate)


class TestData:
    """What the page holds."""

    @pytest.mark.parametrize("make", [whole_results, bench_results, hostile_results])
    def test_every_place_has_rows(self, make: Callable[[], Results]) -> None:
        results = make()
        data = page_data.page_data(results)
        for place in every_place(places(results)):
            rows = data["rows"][data["charts"][place.chart]["rows"][0]]
            values = {**place.only, **({"item": 0} if place.picks == {"item": "case"} else {})}
            assert any(
                all(
                    row.get(name, data["items"][row["item"]].get(name)) == value
                    for name, value in values.items()
                )
                for row in rows
            ), place
            assert place.title

    def test_rows_know_what_they_are_of(self, results: Results) -> None:
        data, shown = page_data.page_data(results), measured(results)
        for name, rows in data["rows"].items():
            for row in rows if name != "roofs" else []:
                assert row.get("engine", shown[row["item"]].engine) == shown[row["item"]].engine
        assert len(data["items"]) == len(shown) + len(results.failures)

    def test_only_what_differs_is_a_facet(self) -> None:
        case = sample_results().cases[0]
        assert page_data.facets(page_data.items(results_of((case,)))) == {}
        other = replace(case, engine="mine")
        found = page_data.facets(page_data.items(results_of((case, other))))
        assert {name: set(values) for name, values in found.items()} == {
            "engine": {case.engine, "mine"}
        }

    def test_what_is_packed_can_be_unpacked(self) -> None:
        packed = page_data.packed({"name": "</script>µ"})
        assert json.loads(gzip.decompress(base64.b64decode(packed))) == {"name": "</script>µ"}
        assert "<" not in packed
        with pytest.raises(ValueError, match="not JSON compliant"):
            page_data.packed({"s": float("nan")})

    def test_the_summary_leaves_out_what_has_parts(self) -> None:
        report = {"cases": [{"cpus": [0, 1], "layers": [{}]}], "primitives": [], "failures": []}
        assert summary_csv(report) == "cpus\n0 1\n"


def every_place(found: Places) -> Iterator[Place]:
    for own in vars(found).values():
        if own is not None:
            yield from own if isinstance(own, tuple) else (own,)


class TestFiles:
    """Pictures of every chart."""

    def test_every_chart_is_saved_in_both_forms(self, tmp_path: Path) -> None:
        whole = whole_results()
        few = [case for case in whole.cases if (case.network, case.engine) == ("fcn-r", "torch")]
        other = next(c for c in whole.cases if (c.network, c.engine) == ("fcn-r", "numpy"))
        found = save_charts(replace(whole, cases=(*few, other)), tmp_path)
        names = {path.stem.partition("-")[0] for path in found}
        assert names == {
            *("overview", "accuracy", "times", "stacks", "threads", "batches", "layers"),
            *("ladder", "ledger", "roofline", "sizes"),
        }
        assert len(set(found)) == len(found) == len(list(tmp_path.iterdir()))
        assert all(path.read_bytes().startswith((b"<svg", b"\x89PNG")) for path in found)

    def test_a_saved_chart_is_complete(self, tmp_path: Path) -> None:
        cases: tuple[CaseResult, ...] = sample_results().cases[:2]
        picture: Picture = times_chart(cases)
        save_chart(picture, tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text(encoding="utf-8")
        assert picture.title in text
        assert "var(" not in text
        assert all(case.engine in text for case in cases)
