"""The benchmark of imports, on exports that are small."""

from __future__ import annotations

from dataclasses import replace

from kernelprof.studies import nsys_import


def test_imports_are_timed_in_processes_of_their_own(tmp_path):
    first, second = nsys_import._imports(tmp_path, 3_000, 2, seed=1)
    assert list(tmp_path.iterdir()) == []
    assert first.rows == second.rows > 1_000
    assert 0 < first.reading_s < first.seconds
    assert 0 < first.writing_s < first.seconds - first.reading_s
    assert first.rows_per_s == first.rows / first.seconds
    assert 10 * 2**20 < first.peak_bytes < 2**30
    assert first.export_bytes > first.rows
    assert first.run_bytes > 0


def test_both_figures_are_judged_by_the_worst_import():
    one = nsys_import.Import(2_000_000, 8.0, 4.0, 3.0, 2**29, 10**8, 10**7)
    largest = replace(one, rows=10_000_000, seconds=45.0)
    assert "Both figures are met" in nsys_import._body([[one, one], [largest]])
    assert "2,000,000" in nsys_import._body([[one, one], [largest]])
    for worse in (replace(one, seconds=10.1), replace(one, peak_bytes=2**30 + 1)):
        assert "Not both figures are met" in nsys_import._body([[one, worse], [largest]])
