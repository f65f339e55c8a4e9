"""Networks at batches and thread counts that a simulated machine did not run."""

from __future__ import annotations

import json
import math

import pytest

from kernelprof.cli import main
from kernelprof.errors import UsageError
from kernelprof.forecast import BETWEEN, BEYOND, MEASURED, OTHER_SIZES
from kernelprof.machine import this_machine
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.reports.forecast import forecast_sentences, forecasts_json
from kernelprof.roofline import least_seconds
from kernelprof.unmeasured import Source, forecast
from kernelprof.unmeasured.misfit import spread
from tests.planted_run import CALL_S, FUSION, KERNEL_CALL_S, ceilings, perceptron, plant

NETWORK = perceptron()
COUNTS = (1, 2, 4, 8, 16)
KNOWN = ceilings((*COUNTS, 32))
FIXED_S = 2e-6


def truth(kernel, threads):
    """A fixed cost, and half again as long as the roofline allows; a twentieth of it is serial."""
    one = least_seconds(kernel.primitives, kernel.passes, KNOWN.at(1))
    return FIXED_S + 1.5 * one * (0.05 + 0.95 / threads)


def true_s(network, batch, threads, mode=INFER):
    parts = kernels(network, batch, mode, FUSION)
    return sum(truth(part, threads) for part in parts) + CALL_S + KERNEL_CALL_S * len(parts)


@pytest.fixture
def source(tmp_path):
    made = []

    def _source(networks=(NETWORK,), **options):
        made.append(plant(tmp_path / "a.kprof", networks, truth, known=KNOWN, **options))
        return Source.of(made[-1])

    yield _source
    for run in made:
        run.close()


def holds(found, seconds):
    return found.predicted.low_s <= seconds <= found.predicted.high_s


@pytest.mark.parametrize("mode", [INFER, TRAIN])
@pytest.mark.parametrize(("batch", "basis"), [(64, MEASURED), (128, BETWEEN), (512, BEYOND)])
def test_between_and_beyond_measured_batches(source, batch, basis, mode):
    known = source(batches=(64, 256), modes=(mode,))
    found = forecast(known, NETWORK, "fake", 1, batch, mode)
    expected = true_s(NETWORK, batch, 1, mode)
    assert found.predicted.value_s == pytest.approx(expected, rel=0.02)
    assert holds(found, expected)
    assert max(found.terms, key=lambda term: term.seconds).basis == basis
    assert found.coverage == 1.0
    assert found.batches == (64, 256)


def test_what_does_not_grow_with_the_batch_stays(source):
    known = source(batches=(64, 128), modes=(TRAIN,))
    found = forecast(known, NETWORK, "fake", 1, 512, TRAIN)
    updates = [term for term in found.terms if "sgd_update" in term.kernel]
    assert updates
    assert all(term.basis == MEASURED for term in updates)


def test_one_batch_is_scaled_and_the_interval_says_what_it_rests_on(source):
    found = forecast(source(batches=(256,)), NETWORK, "fake", 1, 1024, INFER)
    assert found.predicted.value_s == pytest.approx(true_s(NETWORK, 1024, 1), rel=0.05)
    assert any("only batch 256" in reason for reason in found.rests_on)


@pytest.mark.parametrize("threads", [3, 8])
def test_between_thread_counts(source, threads):
    known = source(batches=(256,), threads=(1, 2, 16))
    found = forecast(known, NETWORK, "fake", threads, 256, INFER)
    expected = true_s(NETWORK, 256, threads)
    assert holds(found, expected)
    assert found.predicted.value_s == pytest.approx(expected, rel=0.1)


def test_beyond_five_thread_counts_amdahls_law_goes_on(source):
    known = source(batches=(256,), threads=COUNTS)
    found = forecast(known, NETWORK, "fake", 32, 256, INFER)
    assert found.predicted.value_s == pytest.approx(true_s(NETWORK, 256, 32), rel=0.02)
    assert holds(found, true_s(NETWORK, 256, 32))


def test_beyond_fewer_the_ceilings_tell_and_the_interval_is_wide(source):
    known = source(batches=(256,), threads=(1, 2))
    found = forecast(known, NETWORK, "fake", 16, 256, INFER)
    assert holds(found, true_s(NETWORK, 256, 16))
    assert found.predicted.high_s > 4 * found.predicted.low_s
    with pytest.raises(UsageError, match="no ceilings of 64"):
        forecast(known, NETWORK, "fake", 64, 256, INFER)


def test_a_network_that_was_not_run_comes_from_other_sizes(source):
    others = (perceptron("narrow", 256), perceptron("wide", 1024))
    found = forecast(source(others, batches=(128,)), NETWORK, "fake", 1, 128, INFER)
    assert found.predicted.value_s == pytest.approx(true_s(NETWORK, 128, 1), rel=0.1)
    assert found.count(OTHER_SIZES) == len(found.terms)
    assert found.batches == ()
    said = " ".join(forecast_sentences([found]))
    assert "6 of 6 kernels are from other sizes" in said


def test_intervals_hold_the_truth_and_grow_with_the_distance(tmp_path):
    held = 0
    widths = {256: 0.0, 512: 0.0, 2048: 0.0}
    repetitions = 30
    for seed in range(repetitions):
        path = tmp_path / f"{seed}.kprof"
        run = plant(
            path, [NETWORK], truth, batches=(32, 64, 128), noise=0.03, seed=seed, known=KNOWN
        )
        known = Source.of(run)
        for batch in widths:
            found = forecast(known, NETWORK, "fake", 1, batch, INFER).predicted
            widths[batch] += math.log(found.high_s / found.low_s)
        held += holds(forecast(known, NETWORK, "fake", 1, 256, INFER), true_s(NETWORK, 256, 1))
        run.close()
    assert held >= 0.8 * repetitions
    assert widths[256] < widths[512] < widths[2048]


def test_cases_that_are_left_out_are_not_known(tmp_path):
    run = plant(tmp_path / "a.kprof", [NETWORK], truth, batches=(64, 128), known=KNOWN)
    last = frozenset(stored.id for stored in run.cases() if stored.case.batch == 128)
    assert forecast(Source.of(run, last), NETWORK, "fake", 1, 128, INFER).batches == (64,)
    run.close()


def test_a_spread_is_a_quantile_or_students():
    assert spread([]) is None
    assert spread([0.1]).half_width == pytest.approx(0.1 * 6.314, rel=1e-3)
    many = [0.01 * n for n in range(1, 20)]
    assert spread(many).half_width == pytest.approx(0.18)


def test_a_fusion_survives_json():
    fusion = Fusion({"forward": (("conv2d", "bias"), ("gemm", "bias"))}, ("lstm_cell",))
    assert Fusion.from_json(json.loads(json.dumps(fusion.to_json()))) == fusion


def test_json_is_strict(source):
    found = forecast(source(batches=(64, 256)), NETWORK, "fake", 1, 128, INFER)
    (stored,) = json.loads(json.dumps(forecasts_json({}, [found]), allow_nan=False))["forecasts"]
    assert stored["shares"][BETWEEN] > 0.9
    assert stored["predicted_low_s"] < stored["predicted_s"] < stored["predicted_high_s"]
    assert len(stored["kernels"]) == len(found.terms)


class TestCommandLine:
    """What a user sees."""

    @pytest.fixture
    def predict(self, tmp_path, monkeypatch, capsys):
        """Runs the command on a planted run, of this machine unless told otherwise."""

        def _predict(*words, machine=None):
            path = tmp_path / "a.kprof"
            if not path.exists():
                here = machine or {**this_machine().to_json(), "cpus": 64}
                plant(
                    *(path, [NETWORK], truth),
                    batches=(64, 256),
                    threads=(1, 2),
                    known=KNOWN,
                    machine=here,
                ).close()
            monkeypatch.setattr("sys.argv", ["kernelprof", "predict", *words, "--from", str(path)])
            with pytest.raises(SystemExit) as ended:
                main()
            printed = capsys.readouterr()
            return ended.value.code, printed.out, " ".join(printed.err.split())

        return _predict

    def test_a_table_and_its_reasons(self, predict):
        status, out, _ = predict("planted", "--batch", "128,512", "--threads", "1,4")
        assert status == 0
        assert "planted infer 512" in out
        assert "the interval rests on" in " ".join(out.split())

    def test_json(self, predict):
        status, out, _ = predict("planted", "--batch", "128", "--json")
        assert status == 0
        assert [one["threads"] for one in json.loads(out)["forecasts"]] == [1, 2]

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("planted", "--engine", "caffe"), "no measured network of engine 'caffe'"),
            (("planted", "--mode", "train"), "holds no fake train"),
            (("planted", "--mode", "both"), "unknown mode 'both'"),
            (("nothing",), "unknown network 'nothing'"),
            (("planted", "--batch", "0"), "a batch has at least 1 sample"),
            (("planted", "--threads", "65"), "1 to 64 CPUs"),
            (("planted", "--threads", "64"), "no ceilings of 64"),
            (("lstm",), "lstm1"),
        ],
    )
    def test_what_cannot_be_is_said(self, predict, words, told):
        status, out, err = predict(*words)
        if words == ("lstm",):  # what is not covered is named beside what is
            assert (status, "nothing like" in out) == (0, True)
        else:
            assert status == 2
        assert told in err + out

    def test_another_machine_is_refused_unless_told(self, predict):
        there = {"fingerprint": "elsewhere", "processor": "Other CPU", "cpus": 64}
        status, _, err = predict("planted", machine=there)
        assert status == 2
        assert "Other CPU" in err
        assert this_machine().processor in err
        status, _, err = predict("planted", "--other-machine")
        assert status == 0
        assert "predicted for the machine of the run" in err
