"""Reports of made-up diagnoses: in a terminal, for scripts, and on the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from kernelprof.diagnosis.ledger import PARTS
from kernelprof.reports.contract import case_json, to_json
from kernelprof.reports.diagnosis import diagnosis_lines
from kernelprof.reports.diagnosis_charts import ladder_chart, ledger_chart
from kernelprof.reports.findings import Instance, causes, command, diagnosed, diagnosis_verdict
from kernelprof.reports.ladder import beyond_layers, layer_rungs, steps, together
from kernelprof.reports.ledger import profiler_sentence, unknown_sentence
from kernelprof.reports.page import to_html
from kernelprof.reports.text import to_text
from kernelprof.results import CaseResult, Finding, Results

from .sample_results import (
    CAPPED,
    REORDERS,
    capped,
    diagnosed_results,
    reorders,
    results_of,
    sample_results,
    twenty_cases,
    with_diagnosis,
)

SCRIPT = "<script>alert(1)</script>"
MARKUP = "[bold]net[/] \x1b[2J\n"
SCREEN = 24


@pytest.fixture(scope="module")
def results() -> Results:
    return diagnosed_results()


@pytest.fixture(scope="module")
def torch(results: Results) -> list[CaseResult]:
    return diagnosed(results.cases, "torch")


@pytest.fixture(scope="module")
def case() -> CaseResult:
    """One that trains, and was not diagnosed."""
    return next(case for case in twenty_cases() if case.mode == "train")


def printed(
    cases: list[CaseResult], engine: str = "torch", width: int = 100, soft_wrap: bool = False
) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    for line in diagnosis_lines(cases, engine, "a.kprof", width):
        console.print(line, soft_wrap=soft_wrap)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


class TestTerminal:
    """What `kernelprof diagnose` prints."""

    @pytest.mark.parametrize("engine", ["torch", "tensorflow"])
    @pytest.mark.parametrize("width", [80, 100, 160])
    def test_many_cases_fit_a_screen(self, results: Results, engine: str, width: int) -> None:
        lines = printed(list(results.cases), engine, width).splitlines()
        assert len(lines) < SCREEN
        assert max(map(len, lines)) <= width
        assert printed(list(results.cases), engine, width, True).splitlines() == lines

    def test_the_verdict_comes_first_and_the_causes_by_size(self, torch: list[CaseResult]) -> None:
        text = printed(torch)
        assert text.startswith(f"torch loses most to {CAPPED}: ")
        places = [text.index(f"\n{name} ") for name in (CAPPED, REORDERS, "dispatch-bound")]
        assert places == sorted(places)
        sizes = [cause.size_s for cause in causes(torch)]
        assert sizes == sorted(sizes, reverse=True)

    def test_the_verdict_sums_over_cases(self, torch: list[CaseResult]) -> None:
        lost_s = sum(
            one.seconds or 0.0
            for case in torch
            for one in (case.diagnosis.findings if case.diagnosis else ())
            if one.cause == CAPPED
        )
        whole_s = sum(case.measured.value_s for case in torch)
        verdict = diagnosis_verdict(torch, "torch")
        assert f"{100 * lost_s / whole_s:.1f} % of the time of its 20 cases" in verdict
        assert "lstm train 256, 2 threads" in verdict

    def test_a_tried_change_shows_what_was_foretold_and_what_came(self, case: CaseResult) -> None:
        found = with_diagnosis(case, (capped(case, 0.31, 0.29),))
        assert re.search(rf"{CAPPED} .* 31.0 % +1 confirmed +\S+ m?s -> ", printed([found]))

    def test_what_kernels_foretell_is_shown_before_the_network_tried_it(
        self, case: CaseResult
    ) -> None:
        foretold = replace(capped(case, 0.31, 0.29), actual=None)
        text = printed([with_diagnosis(case, (foretold,))])
        assert re.search(rf"{CAPPED} .* not tried +\S+ m?s -> *$", text, re.MULTILINE)

    def test_kernels_foretell_nothing_of_a_change_between_them(self, case: CaseResult) -> None:
        between = replace(capped(case, 0.31, 0.31), foretold=None, between_kernels=True)
        text = printed([with_diagnosis(case, (between,))])
        assert re.search(rf"{CAPPED} .* 1 confirmed +- -> \S+ m?s", text)

    def test_a_change_that_saves_nothing_is_not_confirmed_and_comes_last(
        self, case: CaseResult
    ) -> None:
        found = with_diagnosis(case, (capped(case, 0.31, -0.01), reorders(case, 0.08)))
        text = printed([found])
        assert text.startswith(f"torch loses most to {REORDERS}")
        assert re.search(rf"{CAPPED} .* not confirmed .* -> -", text)

    def test_what_was_not_tried_is_bounded(self, case: CaseResult) -> None:
        text = flat(printed([with_diagnosis(case, (capped(case),))]))
        assert text.startswith(f"torch may lose most to {CAPPED}: up to ")
        assert re.search(rf"{CAPPED} up to \S+ m?s 45.0 % 1 not tried -", text)
        assert "Next: kernelprof diagnose a.kprof --engine torch --confirm" in text

    def test_several_cases_of_which_none_was_tried(self) -> None:
        cases = [with_diagnosis(case, (capped(case),)) for case in twenty_cases()]
        assert "up to 45.0 % of the time of its 20 cases" in flat(printed(cases))

    def test_a_healthy_engine(self, results: Results) -> None:
        text = flat(printed(list(results.cases), "tensorflow"))
        assert text.startswith("Nothing above 5 % was found in tensorflow: 86.4 % of the time")
        assert re.search(r"is kernels, at \d\d\.\d % of the machine's ceiling\.", text)
        assert text.endswith("--network lstm --mode train --threads 1")

    def test_small_causes_make_no_verdict(self, case: CaseResult) -> None:
        text = printed([with_diagnosis(case, (reorders(case, 0.04),))])
        assert text.startswith("Nothing above 5 % was found in torch")
        assert REORDERS in text

    @pytest.mark.parametrize("rest", [0.12, -0.07])
    def test_a_large_residual_is_said_in_words(self, case: CaseResult, rest: float) -> None:
        one = with_diagnosis(case, RESIDUAL=rest)
        said = f"It is not known where the time goes: the residual is {100 * rest:.1f} %."
        assert said in printed([one])
        many = [one, *(with_diagnosis(case) for case in twenty_cases()[:3])]
        assert "It is not known where the time goes in 1 of 4 cases" in flat(printed(many))
        assert unknown_sentence(many[1:]) == ""

    @pytest.mark.parametrize("width", [80, 100])
    def test_what_the_profiler_costs_is_said_of_a_single_case(
        self, case: CaseResult, width: int
    ) -> None:
        one = with_diagnosis(case)
        text = flat(printed([one], width=width))
        assert "The profiler made calls 8.0 % longer; the ledger is of calls without it." in text
        assert "The profiler" not in printed([one, one], width=width)

    def test_what_the_profiler_costs_at_worst(self, torch: list[CaseResult]) -> None:
        first, *others = torch
        assert first.diagnosis
        slowed = replace(first, diagnosis=replace(first.diagnosis, profiler_share=0.5))
        said = profiler_sentence([slowed, *others])
        assert said.startswith("The profiler made calls 50.0 % longer at worst (")
        faster = replace(first, diagnosis=replace(first.diagnosis, profiler_share=-0.01))
        assert profiler_sentence([faster]).startswith("The profiler made calls 0 % longer;")
        blind = replace(first, diagnosis=replace(first.diagnosis, ledger=()))
        assert profiler_sentence([blind]) == ""

    def test_the_rows_of_the_ledger_add_up(self, torch: list[CaseResult]) -> None:
        rows = re.findall(r"(?:train|infer|cases) .*?((?: +[\d.]+){8})$", printed(torch), re.M)
        assert len(rows) >= 3
        assert all(sum(map(float, row.split())) == pytest.approx(100, abs=0.4) for row in rows)
        assert "smaller cases" in printed(torch)

    def test_cases_that_differ_by_batch_alone_are_told_apart(self, case: CaseResult) -> None:
        both = [with_diagnosis(case), with_diagnosis(replace(case, batch=7))]
        assert re.search(r"train 7 ", printed(both))

    def test_what_to_type(self, case: CaseResult) -> None:
        network = "my net; rm"
        one = replace(case, network=network)
        assert command(Instance(one, capped(one))) == [
            *("env", "-u ONEDNN_MAX_CPU_ISA", "kernelprof run"),
            *("'my net; rm'", "--engine torch"),
        ]
        assert command(Instance(one, reorders(one)))[-1] == (
            "--env torch:KERNELPROF_LAYOUT=channels_last"
        )
        text = printed([with_diagnosis(one, (reorders(one, 0.1),))], width=60)
        joined = flat(text.replace("\\\n", ""))
        assert (
            "kernelprof run 'my net; rm' --engine torch --env "
            "torch:KERNELPROF_LAYOUT=channels_last" in joined
        )

    def test_missing_evidence_is_said_with_its_reason(self, torch: list[CaseResult]) -> None:
        assert "Missing evidence: stacks (py-spy may not" in printed(torch)

    def test_a_case_without_a_profile(self, case: CaseResult) -> None:
        one = with_diagnosis(case, (capped(case),), {"profile": "no such module"})
        assert one.diagnosis
        layers = tuple(replace(layer, in_network_s=None) for layer in one.layers)
        bare = replace(one, layers=layers, diagnosis=replace(one.diagnosis, ledger=()))
        text = printed([bare])
        assert "profile (no such module)" in text
        assert "whole step" in text
        healthy = replace(bare, diagnosis=replace(bare.diagnosis, findings=()))
        assert "no profile tells where the time goes" in printed([healthy, healthy])

    def test_nothing_diagnosed(self, case: CaseResult) -> None:
        assert printed([case]) == "No case of torch was diagnosed.\n"

    def test_names_are_neither_markup_nor_control_sequences(self, case: CaseResult) -> None:
        finding = Finding(MARKUP, 1.0, 1.0, (MARKUP,), MARKUP, ((("A"), MARKUP),))
        layers = tuple(replace(layer, name=f"{MARKUP}{n}") for n, layer in enumerate(case.layers))
        odd = replace(case, engine=MARKUP, network=MARKUP, layers=layers)
        one = with_diagnosis(odd, (finding,), {MARKUP: MARKUP})
        for cases in ([one], [one, one]):
            text = printed(cases, MARKUP)
            assert "[bold]net[/]" in text
            assert "\x1b" not in text
            assert not re.search(r"^\s*[A-Z]\w+Error", text)

    def test_the_report_of_a_run_has_the_findings(self, results: Results) -> None:
        text = to_text(results)
        assert f"torch loses most to {CAPPED}" in text
        assert "Nothing above 5 % was found in tensorflow" in text
        assert "loses most" not in to_text(sample_results())


class TestLadder:
    """The rungs and the steps between them."""

    def test_it_leads_up_to_the_measured_time(self, torch: list[CaseResult]) -> None:
        for case in torch:
            assert sum(s for _, s in steps(case)) == pytest.approx(case.measured.value_s)
            whole = together("", layer_rungs(case))
            assert whole.in_network_s is not None
            beyond = sum(beyond_layers(case).values())
            assert whole.in_network_s + beyond == pytest.approx(case.measured.value_s)

    def test_each_layer_adds_up(self, case: CaseResult) -> None:
        for rungs in layer_rungs(with_diagnosis(case)):
            assert rungs.ceiling_s is not None
            assert rungs.kernel_s is not None
            assert rungs.context_s is not None
            climbed = rungs.ceiling_s + rungs.kernel_s + rungs.context_s
            assert climbed == pytest.approx(rungs.in_network_s)

    def test_a_layer_that_is_fused_costs_nothing(self, case: CaseResult) -> None:
        one = with_diagnosis(case)
        assert one.diagnosis
        first, *others = one.layers
        ledger = tuple(part for part in one.diagnosis.ledger if part.layer != first.name)
        fused = replace(
            one,
            layers=(replace(first, in_network_s=None), *others),
            diagnosis=replace(one.diagnosis, ledger=ledger),
        )
        rungs = layer_rungs(fused)[0]
        assert rungs.in_network_s == 0
        assert rungs.context_s == pytest.approx(-(first.engine_s or 0.0))

    def test_a_layer_without_a_primitive_has_no_step(self, case: CaseResult) -> None:
        one = with_diagnosis(case)
        bare = replace(one, layers=(replace(one.layers[0], engine_s=None), *one.layers[1:]))
        assert layer_rungs(bare)[0].context_s is None
        assert sum(s for _, s in steps(bare)) == pytest.approx(one.measured.value_s)

    @pytest.mark.parametrize("width", [80, 100])
    def test_a_single_case_has_its_layers(self, case: CaseResult, width: int) -> None:
        text = printed([with_diagnosis(case)], width=width)
        for layer in case.layers:
            assert len(re.findall(rf"^{layer.name} ", text, re.M)) == 2
        for row in ("dispatch", "feeding", "idle", "residual", "whole step", "measured"):
            assert re.search(rf"^{row} ", text, re.M)
        assert "update, within the layers" in text
        assert max(map(len, text.splitlines())) <= width


class TestContract:
    """What scripts rely on."""

    def test_the_ledger_adds_up(self, results: Results) -> None:
        for written in to_json(results)["cases"]:
            total_s = sum(part["seconds"] for part in written["ledger"])
            assert total_s == pytest.approx(written["measured_s"])
            assert {part["part"] for part in written["ledger"]} == set(PARTS)
            assert all(layer["in_network_s"] is not None for layer in written["layers"])

    def test_findings(self, case: CaseResult) -> None:
        found = (capped(case, 0.31, 0.29), capped(case))
        missing = {"stacks": "not permitted"}
        written = case_json(with_diagnosis(case, found, missing))
        tried, untried = written["findings"]
        assert set(tried) == {
            *("cause", "seconds", "share", "at_most_s", "evidence", "try", "change", "confirmed"),
            *("foretold_s", "foretold_low_s", "foretold_high_s"),
            *("actual_s", "actual_low_s", "actual_high_s"),
        }
        assert tried["confirmed"] is True
        assert tried["share"] == pytest.approx(0.31)
        assert tried["actual_s"] == pytest.approx(0.29 * case.measured.value_s)
        assert tried["change"] == {"ONEDNN_MAX_CPU_ISA": None}
        assert untried["confirmed"] is untried["seconds"] is untried["share"] is None
        assert untried["at_most_s"] == pytest.approx(0.45 * case.measured.value_s)
        assert written["profiler_share"] == 0.08
        assert written["missing_evidence"] == missing
        assert json.loads(json.dumps(written, allow_nan=False)) == written

    def test_nothing_diagnosed(self, case: CaseResult) -> None:
        written = case_json(case)
        assert written["ledger"] == written["findings"] == []
        assert written["profiler_share"] is None
        assert written["missing_evidence"] == {}
        assert all(layer["in_network_s"] is None for layer in written["layers"])


def largest_data(chart: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = max(chart.to_dict()["datasets"].values(), key=len)
    return rows


class TestPage:
    """The section that says why, and its charts."""

    def test_it_says_why(self, results: Results) -> None:
        page = to_html(results)
        assert '<section id="findings"' in page
        assert f"torch loses most to {CAPPED}" in page
        assert "env -u ONEDNN_MAX_CPU_ISA kernelprof run" in page
        assert page.count("The profiler made calls 8.0 % longer at worst (") == 2
        assert page.count('data-chart="parts"') == 2
        assert page.count('data-chart="steps"') == 1

    def test_without_a_diagnosis_it_says_nothing(self) -> None:
        page = to_html(sample_results())
        assert 'id="findings"' not in page
        assert 'id="ledger"' not in page

    def test_names_stay_text(self, case: CaseResult) -> None:
        finding = Finding(SCRIPT, 1.0, 1.0, (SCRIPT,), SCRIPT, ((SCRIPT, SCRIPT),))
        layers = tuple(replace(layer, name=f"{SCRIPT}{n}") for n, layer in enumerate(case.layers))
        odd = replace(case, engine=SCRIPT, network=SCRIPT, layers=layers)
        page = to_html(results_of((with_diagnosis(odd, (finding,), {SCRIPT: SCRIPT}),)))
        assert "<script>alert" not in page
        assert page.count("</script>") == 5

    def test_bars_of_the_ledger_follow_each_other(self, case: CaseResult) -> None:
        rows = largest_data(ledger_chart([with_diagnosis(case, TIMER=0.01)]))
        starts, ends = ([row[side] for row in rows] for side in ("start", "end"))
        assert ends[:-1] == pytest.approx(starts[1:])
        assert (starts[0], ends[-1]) == pytest.approx((0.0, 1.0))

    def test_steps_of_the_ladder_follow_each_other(self, case: CaseResult) -> None:
        rows = largest_data(ladder_chart(with_diagnosis(case, TIMER=0.01)))
        climbed = [row for row in rows if row["kind"].startswith(("ceiling", "step"))]
        starts, ends = ([row[side] for row in climbed] for side in ("start", "end"))
        assert ends[:-1] == pytest.approx(starts[1:])
        assert rows[-1]["step"] == "whole step"
        assert ends[-1] == pytest.approx(rows[-1]["end"])
