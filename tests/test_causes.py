"""The rules that name causes: each from its own evidence, and none from a healthy case."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from kernelprof.context import ACTIVATION
from kernelprof.diagnosis.causes import CAUSES
from kernelprof.diagnosis.evidence import Evidence
from kernelprof.diagnosis.examination import findings, trial_kind
from kernelprof.diagnosis.hardware_counters import Counters
from kernelprof.diagnosis.ledger import (
    CALLING,
    COPIES,
    FAULTS,
    FEEDING,
    KERNELS,
    RESIDUAL,
    UPDATING,
    Ledger,
)
from kernelprof.diagnosis.rules_around_kernels import (
    denormals,
    dispatch,
    feeding,
    first_rounds,
    page_faults,
    reorders,
    slow_update,
    slower_in_network,
    taken_cpus,
    two_openmp_runtimes,
    unknown,
)
from kernelprof.diagnosis.rules_of_kernels import (
    algorithm_search,
    behind_reference,
    capped_instructions,
    free_pools,
    generic_blas,
    missing_fusion,
    sleeping_threads,
    switched_off,
    unfolded_convolutions,
    wrong_pool,
)
from kernelprof.diagnosis.stacks import Hot, Stacks
from kernelprof.diagnosis.trial import Trial
from kernelprof.diagnosis.verbose import OneDnnCall, Verbose, parse
from kernelprof.probes.network import INFER
from kernelprof.probes.networks import NETWORKS
from kernelprof.results import Finding, LedgerPart, Saving
from tests.sample_results import sample_case

CASE = sample_case("alexnet-s", "torch", 2, INFER, Random(1))
CASE = replace(
    CASE,
    layers=tuple(replace(layer, reference_s=layer.engine_s) for layer in CASE.layers),
    sampling=replace(CASE.sampling, unavoidable=False),
)
MEASURED_S = CASE.measured.value_s
DIRECT = OneDnnCall("convolution", "jit:avx512_core", "forward", {}, "", "", "mb1", 1e-3)
MACHINE = {"processor": "AMD Made-up", "isa": ["avx2", "avx512f"]}
OLD_MKL = "Intel(R) MKL 2018.0 Update 1 Product build 20171007 for Intel(R) 64 architecture"


def ledger(**seconds: float) -> Ledger:
    """Kernels as they are by themselves, and some other parts."""
    names = {
        "copies": COPIES,
        "faults": FAULTS,
        "calling": CALLING,
        "feeding": FEEDING,
        "updating": UPDATING,
    }
    parts = [LedgerPart(KERNELS, layer.engine_s or 0.0, layer.name) for layer in CASE.layers]
    parts += [LedgerPart(names[name], one) for name, one in seconds.items()]
    rest = MEASURED_S - sum(part.seconds for part in parts)
    parts.append(LedgerPart(CALLING if abs(rest) < 0.02 * MEASURED_S else RESIDUAL, rest))
    return Ledger(tuple(parts), {x.name: x.engine_s or 0.0 for x in CASE.layers}, 0.01)


HEALTHY = Evidence(
    case=replace(
        CASE, measured=replace(CASE.measured, value_s=sum(x.engine_s for x in CASE.layers))
    ),
    network=NETWORKS["alexnet-s"](),
    machine=MACHINE,
    facts={"variables": {"OMP_NUM_THREADS": "2"}, "threads": 2, "openmp": ["libgomp.so.1"]},
    verbose=Verbose(isa="Intel AVX-512", onednn=(DIRECT,)),
)
MEASURED_S = HEALTHY.measured_s
HEALTHY = replace(HEALTHY, ledger=ledger())


def with_variables(**variables: str) -> Evidence:
    return replace(HEALTHY, facts={**HEALTHY.facts, "variables": variables})


def only(found: Any) -> Finding:
    (one,) = found
    assert one.evidence
    assert one.remedy
    return one


def test_nothing_is_found_in_a_healthy_case() -> None:
    assert findings(HEALTHY, {}) == ()


def test_nothing_is_found_where_nothing_could_be_looked_at() -> None:
    blind = replace(HEALTHY, ledger=None, verbose=None, facts={})
    assert findings(blind, {}) == ()


def test_generic_blas_is_an_old_mkl_that_runs_its_generic_kernels() -> None:
    generic = Stacks(100, {}, (Hot("mkl_blas_def_sgemm_kernel_0", "libmklml.so", 0.4),))
    old = replace(HEALTHY, verbose=parse(f"MKL_VERBOSE {OLD_MKL}"), stacks=generic)
    assert old.verbose is not None
    assert old.verbose.mkl is not None
    assert only(generic_blas(old)).change == (("MKL_DEBUG_CPU_TYPE", "5"),)
    fast = Stacks(100, {}, (Hot("mkl_blas_avx2_sgemm_kernel_0", "libmklml.so", 0.4),))
    assert not list(generic_blas(replace(old, stacks=fast)))
    assert not list(generic_blas(replace(old, stacks=None)))
    new = parse(f"MKL_VERBOSE {OLD_MKL.replace('2018', '2024')}")
    assert not list(generic_blas(replace(old, verbose=new)))


@pytest.mark.parametrize(
    ("rule", "variables", "change"),
    [
        (capped_instructions, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"ONEDNN_MAX_CPU_ISA": None}),
        (capped_instructions, {"OPENBLAS_CORETYPE": "Nehalem"}, {"OPENBLAS_CORETYPE": None}),
        (switched_off, {"TF_ENABLE_ONEDNN_OPTS": "0"}, {"TF_ENABLE_ONEDNN_OPTS": None}),
        (wrong_pool, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}),
        (wrong_pool, {"OMP_NUM_THREADS": "4"}, {"OMP_NUM_THREADS": "2"}),
        (free_pools, {"TF_NUM_INTEROP_THREADS": "8"}, {"TF_NUM_INTEROP_THREADS": "1"}),
        (sleeping_threads, {"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": None}),
        (
            algorithm_search,
            {"MXNET_CUDNN_AUTOTUNE_DEFAULT": "0"},
            {"MXNET_CUDNN_AUTOTUNE_DEFAULT": None},
        ),
    ],
)
def test_a_variable_is_a_suspect_until_its_change_was_tried(
    rule: Any, variables: dict[str, str], change: dict[str, str | None]
) -> None:
    found = only(rule(with_variables(**variables)))
    assert dict(found.change) == change
    assert found.seconds is None
    assert found.at_most_s > 0
    assert found.confirmed is None


@pytest.mark.parametrize(
    "variables",
    [{"OMP_NUM_THREADS": "2"}, {"TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_NUM_INTEROP_THREADS": "1"}],
)
def test_variables_as_they_should_be_are_none(variables: dict[str, str]) -> None:
    assert findings(with_variables(**variables), {}) == ()


def test_unfolded_convolutions_are_held_against_the_fastest_engine() -> None:
    fast = replace(
        CASE,
        engine="mxnet",
        layers=tuple(
            replace(x, engine_s=(x.engine_s or 0.0) / 2, kind=x.kind) for x in CASE.layers
        ),
    )
    slow = replace(HEALTHY, verbose=Verbose(), others=(fast,))
    convolutions_s = sum(x.engine_s or 0.0 for x in CASE.layers if x.kind == "convolution")
    assert only(unfolded_convolutions(slow)).seconds == pytest.approx(convolutions_s / 2)
    assert not list(unfolded_convolutions(replace(HEALTHY, others=(fast,))))
    assert not list(unfolded_convolutions(replace(slow, others=())))


def test_kernels_are_held_against_the_reference() -> None:
    layers = (replace(CASE.layers[0], reference_s=(CASE.layers[0].engine_s or 0.0) / 4),)
    slow = replace(HEALTHY, case=replace(HEALTHY.case, layers=layers + HEALTHY.case.layers[1:]))
    for ledger_ in (slow.ledger, None):
        found = only(behind_reference(replace(slow, ledger=ledger_)))
        assert found.seconds == pytest.approx(0.75 * (CASE.layers[0].engine_s or 0.0))


SSE4 = Verbose(isa="Intel SSE4.1")
BELOW = "oneDNN uses SSE4.1; the processor has AVX-512 with bfloat16"
OPENBLAS_BELOW = "OpenBLAS, for Zen, uses AVX2; the processor has AVX-512 with bfloat16"


def behind(verbose: Verbose | None = None, **facts: Any) -> Evidence:
    """A case whose kernels are slower than the reference's, and what libraries say."""
    layers = tuple(replace(x, reference_s=(x.engine_s or 0.0) / 2) for x in CASE.layers)
    case = replace(HEALTHY.case, layers=layers)
    return replace(HEALTHY, case=case, verbose=verbose, facts={**HEALTHY.facts, **facts})


@pytest.mark.parametrize(
    ("verbose", "facts", "said"),
    [
        (SSE4, {"instruction_set": "AVX512_CORE_BF16"}, (BELOW,)),
        (
            None,
            {"instruction_set": "AVX512_CORE_BF16", "openblas_cores": ["Zen", "SkylakeX"]},
            (OPENBLAS_BELOW,),
        ),
        (Verbose(isa="Intel AVX-512"), {"instruction_set": "AVX512_CORE_BF16"}, ()),
        (SSE4, {"instruction_set": None}, ()),
        (Verbose(isa="unheard of"), {"instruction_set": "AVX512_CORE_BF16"}, ()),
        (None, {"instruction_set": "AVX2", "openblas_cores": ["unheard of"]}, ()),
    ],
)
def test_libraries_that_use_less_than_the_processor_has_are_told(
    verbose: Verbose | None, facts: dict[str, Any], said: tuple[str, ...]
) -> None:
    slow = behind(verbose, **facts)
    assert only(behind_reference(slow)).evidence[1:] == said
    capped = behind(verbose, **facts, variables={"ONEDNN_MAX_CPU_ISA": "SSE41"})
    assert only(capped_instructions(capped)).evidence[1:] == said


def test_slow_kernels_come_with_what_the_processor_counted() -> None:
    counts = {"instructions": 3, "cycles": 2, "cache-references": 8, "cache-misses": 2}
    counted = replace(behind(), counters=Counters(1.0, counts, ()))
    assert only(behind_reference(counted)).evidence[1:] == (
        "1.5 instructions per cycle",
        "25.0 % of what asks the last cache goes to memory",
    )
    without = replace(counted, counters=Counters(1.0, {"instructions": 3}, ("cycles",)))
    assert len(only(behind_reference(without)).evidence) == 1


@pytest.mark.parametrize(
    ("rule", "part", "cause"),
    [
        (dispatch, "calling", "dispatch-bound"),
        (feeding, "feeding", "input feeding"),
        (reorders, "copies", "layout reorders"),
    ],
)
def test_parts_of_the_ledger_are_causes_of_their_seconds(rule: Any, part: str, cause: str) -> None:
    found = only(rule(replace(HEALTHY, ledger=ledger(**{part: 0.2 * MEASURED_S}))))
    assert found.cause == cause
    assert found.seconds == pytest.approx(0.2 * MEASURED_S, rel=0.1)


def test_torch_may_keep_images_channels_last() -> None:
    copying = replace(HEALTHY, ledger=ledger(copies=0.2 * MEASURED_S))
    facts = {**HEALTHY.facts, "layout": "NCHW"}
    assert only(reorders(replace(copying, facts=facts))).change == (
        ("KERNELPROF_LAYOUT", "channels_last"),
    )
    assert only(reorders(replace(copying, facts=facts))).cause == "channels-first layout"
    assert only(reorders(copying)).change == ()


def test_page_faults_are_the_allocators() -> None:
    churning = replace(HEALTHY, ledger=ledger(faults=0.2 * MEASURED_S), faults=1000.0)
    found = only(page_faults(churning))
    assert found.at_most_s == pytest.approx(0.2 * MEASURED_S)
    assert ("MALLOC_MMAP_MAX_", "0") in found.change
    facts = {**HEALTHY.facts, "variables": {"MALLOC_TRIM_THRESHOLD_": "0"}}
    assert only(page_faults(replace(churning, facts=facts))).change == (
        ("MALLOC_TRIM_THRESHOLD_", None),
    )


def test_an_update_is_slow_that_memory_could_serve_sooner() -> None:
    slow = replace(HEALTHY, ledger=ledger(updating=0.4 * MEASURED_S))
    found = only(slow_update(replace(slow, least_update_s=0.1 * MEASURED_S)))
    assert found.seconds == pytest.approx(0.3 * MEASURED_S)
    assert not list(slow_update(replace(slow, least_update_s=0.35 * MEASURED_S)))
    assert not list(slow_update(slow))


def test_denormals_matter_where_they_are_kept() -> None:
    facts = {**HEALTHY.facts, "denormals": "kept", "denormal_slowdown": 40.0}
    found = only(denormals(replace(HEALTHY, facts=facts, denormals={"input": 0.9})))
    assert "90" in found.evidence[0]
    assert found.between_kernels
    assert found.seconds is None  # what it costs is for a trial to tell
    flushed = {**facts, "denormals": "flushed to zero"}
    assert not list(denormals(replace(HEALTHY, facts=flushed, denormals={"input": 0.9})))
    assert not list(denormals(replace(HEALTHY, facts=facts, denormals={"input": 0.001})))


def test_a_layer_may_be_slower_among_the_others() -> None:
    known = ledger()
    excess_s = 0.1 * MEASURED_S
    within = {**known.in_network_s, "fc6": known.in_network_s["fc6"] + excess_s}
    found = only(slower_in_network(replace(HEALTHY, ledger=replace(known, in_network_s=within))))
    assert found.cause == "fc6 is slower within the network"
    assert found.seconds == pytest.approx(excess_s)


def test_copies_and_faults_together_explain_what_a_layer_takes_among_the_others() -> None:
    known = ledger()
    within = {**known.in_network_s, "fc6": known.in_network_s["fc6"] + 0.1 * MEASURED_S}
    beside = [LedgerPart(part, 0.05 * MEASURED_S, "fc6") for part in (COPIES, FAULTS)]
    explained = replace(known, parts=(*known.parts, *beside), in_network_s=within)
    assert not list(slower_in_network(replace(HEALTHY, ledger=explained)))


def test_weights_that_no_cache_holds_are_cold_among_the_others() -> None:
    known = ledger()
    within = {**known.in_network_s, "fc6": known.in_network_s["fc6"] + 0.1 * MEASURED_S}
    slow = replace(HEALTHY, ledger=replace(known, in_network_s=within))
    found = only(slower_in_network(replace(slow, level_of_weights={"fc6": "DRAM"})))
    assert found.cause == "cold weights of fc6"
    found = only(slower_in_network(replace(slow, level_of_weights={"fc6": "L2"})))
    assert found.cause == "fc6 is slower within the network"


def test_an_activation_is_missed_that_another_engine_fuses() -> None:
    fusing = replace(CASE, engine="tensorflow", traits_s={ACTIVATION: -0.01})
    known = ledger()
    parts = (*known.parts, LedgerPart(KERNELS, 0.05, "relu1"))
    plain = replace(HEALTHY, others=(fusing,), ledger=replace(known, parts=parts))
    found = only(missing_fusion(plain))
    assert found.seconds == pytest.approx(0.05)
    assert "tensorflow" in found.evidence[0]
    fuses_too = replace(plain, case=replace(plain.case, traits_s={ACTIVATION: -0.01}))
    assert not list(missing_fusion(fuses_too))
    assert not list(missing_fusion(replace(plain, others=())))


def test_first_rounds_that_stand_out_are_told() -> None:
    late_s = 0.9 * MEASURED_S
    found = only(first_rounds(replace(HEALTHY, early_s=3 * MEASURED_S, late_s=late_s)))
    assert found.seconds == pytest.approx(0.1 * MEASURED_S)


def test_cpus_that_others_have_are_told() -> None:
    sampling = replace(CASE.sampling, unavoidable=True, disturbed=9)
    crowded = replace(HEALTHY, case=replace(HEALTHY.case, sampling=sampling), lost_s=0.1)
    assert only(taken_cpus(crowded)).seconds == 0.1
    two = {**HEALTHY.facts, "openmp": ["libgomp.so.1", "libiomp5.so"]}
    assert not list(taken_cpus(replace(crowded, facts=two)))
    assert only(two_openmp_runtimes(replace(crowded, facts=two))).seconds == 0.1


def test_time_that_nothing_explains_is_told() -> None:
    lost = ledger()
    parts = tuple(replace(p, seconds=p.seconds * 0.5) for p in lost.parts)
    rest = LedgerPart(RESIDUAL, MEASURED_S - sum(p.seconds for p in parts))
    half = replace(lost, parts=(*parts, rest))
    assert only(unknown(replace(HEALTHY, ledger=half))).seconds == pytest.approx(rest.seconds)
    assert not list(unknown(HEALTHY))


CAPPED = with_variables(ONEDNN_MAX_CPU_ISA="SSE41")


def tried(
    foretold: Saving, actual: Saving | None = None, as_is_s: float | None = None
) -> tuple[Finding, ...]:
    kind = trial_kind({"ONEDNN_MAX_CPU_ISA": None}.items())
    return findings(CAPPED, {kind: Trial(foretold, actual, as_is_s).to_json()})


def test_a_trial_gives_a_suspect_its_seconds() -> None:
    saving = Saving(0.2, 0.18, 0.22)
    (found,) = tried(saving)
    assert (found.seconds, found.foretold, found.confirmed) == (0.2, saving, None)


@pytest.mark.parametrize(
    ("actual", "confirmed"),
    [
        (Saving(0.19, 0.17, 0.21), True),
        (Saving(0.16, 0.15, 0.17), True),  # within a quarter
        (Saving(0.05, 0.04, 0.06), False),
        (Saving(0.10, -0.10, 0.30), False),  # not clear of nothing
        (Saving(0.50, 0.45, 0.55), False),
    ],
)
def test_a_saving_confirms_what_was_foretold(actual: Saving, confirmed: bool) -> None:
    (found,) = tried(Saving(0.2, 0.18, 0.22), actual)
    assert found.confirmed is confirmed


def test_a_trial_in_slower_times_saves_the_same_share() -> None:
    """Or a cause would cost more than all that was measured."""
    half_s = MEASURED_S / 2
    (found,) = tried(
        Saving(4 * half_s, 3 * half_s, 5 * half_s),
        Saving(2 * half_s, half_s, 3 * half_s),
        8 * half_s,
    )
    assert found.seconds == pytest.approx(MEASURED_S / 2)
    assert found.foretold is not None
    assert found.foretold.high_s == pytest.approx(5 / 8 * MEASURED_S)
    assert found.actual is not None
    assert found.actual.value_s == pytest.approx(MEASURED_S / 4)


def test_a_change_that_saves_nothing_clears_its_suspect() -> None:
    assert tried(Saving(0.01, -0.02, 0.04)) == ()


DENORMAL = replace(HEALTHY, facts={**HEALTHY.facts, "denormals": "kept"}, denormals={"input": 0.9})


def flushed(foretold: Saving, actual: Saving) -> tuple[Finding, ...]:
    kind = trial_kind({"KERNELPROF_DENORMALS": "flush"}.items())
    return findings(DENORMAL, {kind: Trial(foretold, actual).to_json()})


@pytest.mark.parametrize("foretold_s", [0.0, 0.02])
def test_of_a_change_between_kernels_the_network_tells_all(foretold_s: float) -> None:
    """Whatever its kernels took by themselves."""
    foretold = Saving(foretold_s, 0.9 * foretold_s, 1.1 * foretold_s)
    actual = Saving(0.2, 0.18, 0.22)
    (found,) = flushed(foretold, actual)
    assert (found.seconds, found.foretold, found.actual) == (0.2, None, actual)
    assert found.confirmed
    assert flushed(foretold, Saving(0.01, -0.02, 0.04)) == ()


def test_what_a_change_explains_no_comparison_explains_again() -> None:
    layers = tuple(replace(layer, reference_s=(layer.engine_s or 0.0) / 2) for layer in CASE.layers)
    slow = replace(CAPPED, case=replace(CAPPED.case, layers=layers))
    behind_s = sum(layer.engine_s or 0.0 for layer in layers) / 2
    kind = trial_kind({"ONEDNN_MAX_CPU_ISA": None}.items())
    saving = Saving(behind_s, behind_s, behind_s)
    assert len(findings(slow, {})) == 1
    (found,) = findings(slow, {kind: Trial(saving, None).to_json()})
    assert found.cause == "instruction set capped"


def test_every_rule_says_what_it_is_about() -> None:
    assert all(rule.__doc__ for rule in CAUSES)
    assert len(set(CAUSES)) == len(CAUSES)
