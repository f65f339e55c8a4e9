"""The page in a real browser: it draws, filters, sorts, tells no lies, and loads nothing."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from kernelprof.ceilings import BytesCeiling, Ceilings, FlopCeiling, PlacementCeilings, Rate
from kernelprof.reports import FORMATS
from kernelprof.reports.page import to_html
from kernelprof.results import (
    CaseResult,
    FailureResult,
    Finding,
    PrimitiveResult,
    Results,
    Sampling,
)

from .sample_results import (
    NO_ENGINE,
    OUT_OF_MEMORY,
    capped,
    estimate,
    results_of,
    sample_case,
    sample_results,
    with_diagnosis,
)

HOSTILE = '<img src=x onerror="document.title=1">'
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
DRAWN = "[...document.querySelectorAll('.chart')].every(c => !c.clientWidth || c.dataset.drawn)"
BAD = ("serious", "critical")


def ceilings() -> Ceilings:
    """TEST DATA: two thread counts and a card, all with made-up rates."""

    def at(threads: int) -> PlacementCeilings:
        flop, memory = (Rate(rate * threads, rate * threads, 9) for rate in (4e11, 3e10))
        return PlacementCeilings(
            tuple(range(threads)),
            "",
            Rate(2e9, 2e9, 9),
            (FlopCeiling("avx2", "float32", flop, "fma"),),
            (
                BytesCeiling("L2", "copy", 2**18, Rate(1e11, 1e11, 9)),
                BytesCeiling("DRAM", "copy", 2**28, memory),
            ),
            {"L2": 2**20},
        )

    return Ceilings("test", {1: at(1), 2: at(2)}, {"cuda:0": at(4)})


def whole_results() -> Results:
    """Something of everything: diagnosed engines and one that is not, batches, failures."""
    shaken = random.Random(3)
    sampled = sample_results()
    sweep = [
        replace(sample_case("fcn-r", "torch", 1, "infer", shaken), batch=batch)
        for batch in (256, 512)
    ]
    cases = [
        with_diagnosis(case, (capped(case),)) if case.engine == "torch" else case
        for case in (*sampled.cases, *sweep)
    ]
    found = results_of(tuple(cases), (OUT_OF_MEMORY, NO_ENGINE))
    return replace(found, ceilings=ceilings())


def bench_results() -> Results:
    """A bench of two sizes in two engines, a pass of which failed."""
    found = tuple(
        PrimitiveResult(
            *(f"gemm {size}", engine, "cpu", 1, (0,), "infer", ("forward",)),
            *(estimate(1e-3, 0.01), None, 5e-4, flop, 10**6, 0, False, True, Sampling(9)),
        )
        for size, flop in (("64x64x64", 10**7), ("128x128x128", 10**8))
        for engine in ("torch", "numpy")
    )
    failure = FailureResult("gemm 8x8x8", "torch", 1, 1, "infer", "budget", "late", ("forward",))
    return replace(results_of(()), primitives=found, failures=(failure,), ceilings=ceilings())


def hostile_results() -> Results:
    """A case all of whose names are markup."""
    case = sample_case("lstm", "torch", 1, "train", random.Random(1))
    layers = tuple(
        replace(layer, name=f"{HOSTILE}{place}", kind=HOSTILE)
        for place, layer in enumerate(case.layers)
    )
    named = replace(case, network=HOSTILE, engine=HOSTILE, layers=layers)
    finding = Finding(HOSTILE, 1e-3, 1e-3, (HOSTILE,), HOSTILE, ((HOSTILE, HOSTILE),))
    other = replace(named, engine=f"{HOSTILE}2", threads=2, cpus=(0, 1))
    return replace(
        results_of((with_diagnosis(named, (finding,), {HOSTILE: HOSTILE}), other)),
        machine={HOSTILE: HOSTILE},
        engines={HOSTILE: {HOSTILE: HOSTILE}},
        failures=(FailureResult(HOSTILE, HOSTILE, 1, 1, "train", HOSTILE, HOSTILE),),
        command=HOSTILE,
    )


RUNS: dict[str, Callable[[], Results]] = {
    "whole": whole_results,
    "bench": bench_results,
    "hostile": hostile_results,
    "empty": lambda: results_of(()),
    "failures": lambda: results_of((), (OUT_OF_MEMORY, NO_ENGINE)),
}


@dataclass
class Opened:
    """A page, and what it did that it should not have."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def rows(self, selector: str) -> list[list[str]]:
        """The visible rows of a table's bodies, cell by cell, without the headings in them."""
        script = """(table) => [...table.tBodies].flatMap((body) => [...body.rows])
            .filter((row) => row.checkVisibility() && !row.classList.contains("group"))
            .map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"""
        found: list[list[str]] = self.page.locator(selector).first.evaluate(script)
        return found

    def filter(self, facet: str, value: str) -> None:
        """Choose a value of a facet, as a reader does."""
        self.page.locator(f"#filters details:has(input[name={facet}]) summary").click()
        self.page.locator(f"#filters input[name={facet}]").get_by_label(value).or_(
            self.page.locator(f'#filters input[name={facet}][value="{value}"]')
        ).first.check()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: `apt-get install chromium`")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of each run's page."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in RUNS}
    for name, path in found.items():
        path.write_text(to_html(RUNS[name]()), encoding="utf-8")
    return found


@pytest.fixture
def opened(browser: Browser, paths: dict[str, Path]) -> Iterator[Callable[..., Opened]]:
    """Opens a run's page; after the test nothing may have been told, asked for or loaded."""
    pages: list[Opened] = []

    def open_(run: str, wait: bool = True, anchor: str = "", **context: Any) -> Opened:
        one = Opened(browser.new_page(**context))
        pages.append(one)
        page, faults = one.page, one.faults
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: faults.append(f"request: {request.url}"))
        page.goto(f"{paths[run].as_uri()}{anchor}")
        if wait:
            page.wait_for_selector("[data-ready]", state="attached")
            page.wait_for_function(DRAWN)
        return one

    yield open_
    for one in pages:
        own = [fault for fault in one.faults if not fault.startswith(("request: file:///",))]
        one.page.close()
        assert not [fault for fault in own if not fault.startswith("request: blob:")]


def bad_faults(page: Page, *rules: str) -> list[str]:
    """What axe finds that keeps people from reading, by all of its rules or by these."""
    page.evaluate(AXE)
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("(options) => axe.run(options)", options)
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in BAD
    ]


@pytest.mark.parametrize("run", RUNS)
def test_every_chart_is_drawn_and_nothing_is_wrong(run: str, opened: Callable[..., Opened]) -> None:
    page = opened(run).page
    assert page.locator("h1").inner_text().strip()
    assert not page.locator("#fault").is_visible()
    figures = page.locator(".chart:visible")
    assert figures.count() == page.locator(".chart:visible svg").count()
    assert figures.count() >= {"whole": 25, "bench": 2, "hostile": 6}.get(run, 0)
    empty = """(all) => all.filter((one) => !one.querySelector(
        "[class*=role-mark] path[d], [class*=role-mark] line, [class*=role-mark] text"))
        .map((one) => one.dataset.chart)"""
    assert figures.evaluate_all(empty) == []


@pytest.mark.parametrize(("run", "scheme"), [("whole", "light"), ("bench", "dark")])
def test_everybody_can_read_it(run: str, scheme: str, opened: Callable[..., Opened]) -> None:
    page = opened(run, color_scheme=scheme).page
    assert bad_faults(page) == []


@pytest.mark.parametrize("width", [360, 800])
def test_it_is_no_wider_than_the_screen(width: int, opened: Callable[..., Opened]) -> None:
    page = opened("whole", viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


class TestFilters:
    """What is shown."""

    def test_only_what_was_chosen_is_shown_in_tables_and_charts(
        self, opened: Callable[..., Opened]
    ) -> None:
        one = opened("whole")
        everything = one.rows("#engines table")
        one.filter("engine", "torch")
        shown = one.rows("#engines table")
        assert shown == [row for row in everything if row[0] == "torch"] != []
        labels = one.page.locator('[data-chart="times"]').first.locator("text").all_text_contents()
        assert any("torch" in label for label in labels)
        assert not any("numpy" in label for label in labels)
        assert one.page.locator("#failures tbody tr:visible").count() == 0
        one.page.get_by_role("button", name="Show all").click()
        one.page.wait_for_function("document.querySelectorAll('#engines [hidden]').length === 0")
        assert one.rows("#engines table") == everything

    def test_facets_narrow_each_other(self, opened: Callable[..., Opened]) -> None:
        one = opened("whole")
        one.filter("engine", "numpy")
        one.filter("network", "lstm")
        assert {row[0] for row in one.rows("#engines table")} == {"numpy"}
        assert one.page.locator("#engines tr.group:visible").all_inner_texts() == [
            "lstm, infer, batch 256",
            "lstm, train, batch 256",
        ]
        assert one.page.locator("#filters output").inner_text() == "4 of 39 shown"
        names = one.page.locator("#layers-case option:not([disabled])").all_inner_texts()
        assert len(names) == 4
        assert all("lstm" in name and "numpy" in name for name in names)
        assert one.page.locator("#layers > figure strong").inner_text() == names[0]

    def test_the_keyboard_suffices(self, opened: Callable[..., Opened]) -> None:
        page = opened("whole").page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
        summary = page.locator("#filters summary").first
        summary.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert page.locator("#filters input:checked").count() == 1
        page.keyboard.press("Escape")
        assert summary.evaluate("(one) => one === document.activeElement")
        assert page.locator("#filters details[open]").count() == 0


class TestTables:
    """Sorted, filled from the data, and downloaded."""

    @staticmethod
    def seconds(cell: str) -> float:
        number, unit = cell.replace(",", "").split()
        return float(number) * {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]

    def test_a_click_sorts_each_group_by_numbers(self, opened: Callable[..., Opened]) -> None:
        one = opened("whole")
        before = one.rows("#engines table")
        button = one.page.locator("#engines thead button", has_text="measured")
        for order, sign in (("ascending", 1), ("descending", -1)):
            button.click()
            assert button.locator("..").get_attribute("aria-sort") == order
            script = """(bodies) => bodies.map((body) =>
                [...body.querySelectorAll("[data-item]")].map((row) => row.cells[2].textContent))"""
            for cells in one.page.locator("#engines tbody").evaluate_all(script):
                times = [sign * self.seconds(cell) for cell in cells if "(" not in cell]
                assert times == sorted(times)
        assert sorted(one.rows("#engines table")) == sorted(before)

    def test_the_chosen_case_fills_tables_and_charts(self, opened: Callable[..., Opened]) -> None:
        one = opened("whole")
        select = one.page.locator("#layers-case")
        name = "alexnet-s, train, batch 16, torch, 2 threads"
        select.select_option(label=name)
        case = self.case("alexnet-s", "torch", 2, "train")
        layers = [row[0] for row in one.rows("#layers table")]
        assert layers[: len(case.layers)] == [layer.name for layer in case.layers]
        assert one.page.locator("#ladder figure strong").inner_text() == name
        assert one.page.locator("#ladder-case").input_value() == select.input_value()
        drawn = one.page.locator('[data-chart="layers"]').inner_text()
        assert all(layer.name in drawn for layer in case.layers)
        again = opened("whole", anchor=f"#case-{select.input_value()}")
        assert again.page.locator("#ladder figure strong").inner_text() == name
        one.page.locator("#layers thead button", has_text="by itself").first.click()
        times = [self.seconds(row[4]) for row in one.rows("#layers table") if row[4] != "-"]
        assert times == sorted(times)

    @staticmethod
    def case(network: str, engine: str, threads: int, mode: str) -> CaseResult:
        wanted = (network, engine, threads, mode)
        return next(
            case
            for case in whole_results().cases
            if (case.network, case.engine, case.threads, case.mode) == wanted
        )

    def test_downloads_hold_the_data(self, opened: Callable[..., Opened]) -> None:
        page = opened("whole", accept_downloads=True).page
        saved = {}
        for what in ("JSON", "CSV"):
            with page.expect_download() as download:
                page.get_by_role("button", name=what).click()
            saved[download.value.suggested_filename] = download.value.path().read_text("utf-8")
        results = whole_results()
        assert saved["kernelprof-report.json"] == FORMATS["json"](results)
        lines = list(csv.DictReader(saved["kernelprof-summary.csv"].splitlines()))
        assert len(lines) == len(results.cases) + len(results.failures)
        assert float(lines[0]["measured_s"]) == results.cases[0].measured.value_s
        assert lines[-1]["reason"] == results.failures[-1].reason


def test_names_stay_text(opened: Callable[..., Opened]) -> None:
    page = opened("hostile").page
    assert page.locator("img").count() == 0
    assert page.title().startswith("kernelprof: <img")
    assert HOSTILE in page.locator("#failures").inner_text()
    assert HOSTILE in page.locator("#layers tbody").first.inner_text()
    page.locator('[data-chart="times"] .mark-rect.role-mark path').first.hover()
    assert HOSTILE in page.locator("#vg-tooltip-element").inner_text()
    assert page.locator("img").count() == 0


def test_it_may_load_nothing(opened: Callable[..., Opened]) -> None:
    one = opened("empty")
    tried = "fetch('https://example.org').then(() => 'loaded', () => 'refused')"
    assert one.page.evaluate(tried) == "refused"
    one.faults.clear()  # the browser tells of what it refused


def test_light_and_dark(opened: Callable[..., Opened]) -> None:
    page = opened("whole", color_scheme="light").page
    script = """() => [document.body, document.querySelector('[data-chart="times"] text')]
        .map((one, place) => getComputedStyle(one)[place ? "fill" : "backgroundColor"])"""
    before = page.evaluate(script)
    page.get_by_role("button", name="Dark").click()
    after = page.evaluate(script)
    assert all(now != then for now, then in zip(after, before, strict=True))
    assert bad_faults(page, "color-contrast") == []


def test_on_paper_everything_is_shown(opened: Callable[..., Opened]) -> None:
    one = opened("whole", color_scheme="dark")
    everything = one.rows("#engines table")
    one.filter("engine", "torch")
    one.page.emulate_media(media="print")
    one.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert one.rows("#engines table") == everything
    assert not one.page.locator("#filters").is_visible()
    assert one.page.locator("details.kernels tbody tr").first.is_visible()
    paper = "getComputedStyle(document.body).backgroundColor"
    assert one.page.evaluate(paper) == "rgb(255, 255, 255)"
    one.page.evaluate("dispatchEvent(new Event('afterprint'))")
    one.page.emulate_media(media="screen")
    assert {row[0] for row in one.rows("#engines table")} == {"torch"}


def test_without_scripts_the_words_and_the_summary_are_there(
    opened: Callable[..., Opened],
) -> None:
    one = opened("whole", wait=False, java_script_enabled=False)
    assert "Without JavaScript" in one.page.locator("noscript").inner_text()
    assert one.page.locator("#engines tbody tr[data-item]").first.is_visible()
    assert not one.page.locator("#filters").is_visible()
    assert not one.page.locator("table[data-rows]").first.is_visible()


def test_data_of_the_page_is_strict_json(paths: dict[str, Path]) -> None:
    page = paths["whole"].read_text(encoding="utf-8")
    assert len(page.encode()) < 1_500_000
    assert json.loads(FORMATS["json"](whole_results()), parse_constant=pytest.fail)
