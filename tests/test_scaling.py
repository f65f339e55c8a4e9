"""Scaling of simulated machines of up to 64 threads whose truth is known."""

from __future__ import annotations

import json

import pytest

from kernelprof.cli import main
from kernelprof.probes.primitive import FORWARD
from kernelprof.reports.scaling import main_losers, scaling_json, sentences
from kernelprof.reports.scaling_charts import save_scaling_chart
from kernelprof.roofline import least_seconds
from kernelprof.scaling_results import scaling
from tests.planted_run import ceilings, perceptron, plant

COUNTS = (1, 2, 4, 8, 16, 32, 64)
SATURATED_BY = 8
NETWORK = perceptron(width=1024)
EVEN, SATURATED = ceilings(COUNTS), ceilings(COUNTS, SATURATED_BY)


def amdahl_truth(serial):
    """Each kernel at half of its ceiling, of which a share is serial."""

    def truth(kernel, threads):
        one = 2 * least_seconds(kernel.primitives, kernel.passes, EVEN.at(1))
        return one * (serial + (1 - serial) / threads)

    return truth


def saturating_truth(kernel, threads):
    """At the ceilings: products follow the threads, activations the memory channels."""
    return 1.05 * least_seconds(kernel.primitives, kernel.passes, SATURATED.at(threads))


@pytest.fixture
def planted(tmp_path):
    made = []

    def _planted(truth, **options):
        known = SATURATED if truth is saturating_truth else EVEN
        made.append(plant(tmp_path / "a.kprof", [NETWORK], truth, known=known, **options))
        return made[-1]

    yield _planted
    for run in made:
        run.close()


def test_a_planted_serial_share_is_found(planted):
    run = planted(amdahl_truth(0.04), batches=(8192,), threads=COUNTS)
    (found,) = scaling(run).over_threads
    assert [point.threads for point in found.points] == list(COUNTS)
    assert found.amdahl["serial"].value == pytest.approx(0.04, abs=0.002)  # and what calls cost
    assert found.usl["coherence"].value == pytest.approx(0, abs=1e-5)
    first, last = found.points[0], found.points[-1]
    assert (first.speedup.value, first.efficiency, first.lost_s) == (1.0, 1.0, 0.0)
    assert last.speedup.value == pytest.approx(1 / (0.04 + 0.96 / 64), rel=0.02)
    assert last.predicted_speedup == pytest.approx(last.speedup.value, rel=0.01)
    assert all(point.efficiency <= 1 for point in found.points)


def test_the_serial_share_is_inside_its_interval_nine_times_of_ten(tmp_path):
    held = 0
    for seed in range(40):
        run = plant(
            *(tmp_path / f"{seed}.kprof", [NETWORK], amdahl_truth(0.05)),
            batches=(8192,),
            threads=COUNTS,
            noise=0.03,
            seed=seed,
            known=EVEN,
        )
        serial = scaling(run).over_threads[0].amdahl["serial"]
        held += serial.low <= 0.05 <= serial.high
        run.close()
    assert held >= 32


def test_lost_time_adds_up(planted):
    run = planted(saturating_truth, batches=(8192,), threads=COUNTS, noise=0.02)
    for point in scaling(run).over_threads[0].points:
        parts = sum(layer.lost_s for layer in point.layers)
        total = parts + point.calling_lost_s + point.unexplained_lost_s
        assert total == pytest.approx(point.lost_s)
        expected = point.threads * point.measured.value_s
        first = scaling(run).over_threads[0].points[0].measured.value_s
        assert point.lost_s == pytest.approx(expected - first)


def test_memory_saturates_where_it_was_planted(planted):
    run = planted(saturating_truth, batches=(16384,), threads=COUNTS)
    (found,) = scaling(run).over_threads
    by_count = {
        point.threads: {layer.name: layer for layer in point.layers} for point in found.points
    }
    for threads in COUNTS:
        relu = by_count[threads]["relu1"]
        assert relu.traffic.level == "DRAM"
        assert relu.saturates
        expected = 1e10 * min(threads, SATURATED_BY) / 1.05
        assert relu.traffic.bytes_per_s == pytest.approx(expected, rel=0.01)
        assert by_count[threads]["fc1"].traffic is None
    assert by_count[8]["relu1"].lost_s == pytest.approx(0, abs=1e-6)
    assert by_count[64]["relu1"].lost_s == pytest.approx(7 * by_count[1]["relu1"].seconds, rel=0.01)


def test_the_layers_that_stop_it_are_named(planted):
    run = planted(saturating_truth, batches=(16384,), threads=COUNTS)
    found = scaling(run)
    named = {layer.name for layer in main_losers(found.over_threads[0].points[-1])}
    assert named == {"relu1", "relu2", "relu3"}
    (said,) = sentences(found)
    assert "of the time lost at 64 threads" in said
    assert "of the DRAM bandwidth (76.2 GB/s), which more threads do not raise" in said


def test_with_fewer_than_five_counts_nothing_is_extrapolated(planted):
    found = scaling(planted(amdahl_truth(0.1), batches=(8192,), threads=(1, 2)))
    (one,) = found.over_threads
    assert (one.amdahl, one.usl, one.missing) == (None, None, 3)
    (said,) = sentences(found)
    assert "2 thread counts measured: 3 more are needed to tell the serial share." in said


def fixed_cost_truth(kernel, threads):
    """Each kernel costs as much as 32 samples do, whatever the batch."""
    assert kernel.passes == (FORWARD,)
    return 1e-6 + 1e-6 / 32 * kernel.primitives[0].operand(kernel.primitives[0].output).shape[0] / (
        1024 if kernel.primitives[0].kind == "activation" else 1
    )


def test_over_the_batch_knee_and_fixed_cost_are_found(planted):
    run = planted(fixed_cost_truth, batches=(1, 4, 16, 64, 256, 1024, 4096), threads=(1,))
    (found,) = scaling(run).over_batches
    kernels_s = len(found.points) and 6e-6  # of the six kernels
    calls_s = 20e-6 + 6e-6
    assert found.hockney["half_batch"].value == pytest.approx(
        32 * (kernels_s + calls_s) / kernels_s, rel=0.01
    )
    assert found.knee == 4096
    (said,) = sentences(scaling(run))
    assert "the knee is at batch 4,096" in said


def test_json_and_pictures(planted, tmp_path):
    run = planted(saturating_truth, batches=(64, 128, 256, 512, 1024), threads=COUNTS, noise=0.02)
    found = scaling(run)
    stored = json.loads(json.dumps(scaling_json(found), allow_nan=False))
    assert len(stored["threads"]) == 5
    assert len(stored["batches"]) == len(COUNTS)
    assert stored["threads"][0]["amdahl"]["serial"]["low"] >= 0
    assert stored["threads"][0]["points"][0]["layers"][0]["speedup"] == 1.0
    for suffix in (".svg", ".png"):
        save_scaling_chart(found, tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").stat().st_size > 1000


class TestCommandLine:
    """What a user sees."""

    def run(self, monkeypatch, capsys, *words):
        monkeypatch.setattr("sys.argv", ["kernelprof", "scale", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    def test_tables_words_and_a_picture(self, planted, monkeypatch, capsys, tmp_path):
        run = planted(amdahl_truth(0.04), batches=(8192,), threads=COUNTS)
        picture = tmp_path / "a.svg"
        status, out, _ = self.run(monkeypatch, capsys, run.path, "--chart", picture)
        assert status == 0
        assert "Serial share by Amdahl's law" in " ".join(out.split())
        assert "<svg" in picture.read_text()

    def test_json(self, planted, monkeypatch, capsys):
        run = planted(amdahl_truth(0.04), batches=(64,), threads=(1, 2))
        status, out, _ = self.run(monkeypatch, capsys, run.path, "--json")
        assert status == 0
        assert json.loads(out)["threads"][0]["points_missing"] == 3

    def test_a_run_with_nothing_to_compare(self, planted, monkeypatch, capsys):
        run = planted(amdahl_truth(0.04))
        status, _, err = self.run(monkeypatch, capsys, run.path)
        assert status == 2
        assert "two thread counts or batches" in err

    def test_what_the_run_does_not_hold(self, planted, monkeypatch, capsys):
        run = planted(amdahl_truth(0.04), threads=(1, 2))
        status, _, err = self.run(monkeypatch, capsys, run.path, "--network", "other")
        assert status == 2
        assert "it holds planted; fake; infer" in " ".join(err.split())
        status, _, err = self.run(monkeypatch, capsys, run.path, "--chart", "a.pdf")
        assert status == 2
        assert ".svg" in err
