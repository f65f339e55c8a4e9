"""Names of ranges that only count are taken together."""

from __future__ import annotations

import pytest

from kernelprof.nsys import paths
from kernelprof.nsys.paths import OTHERS, grouped


def test_counters_of_emit_nvtx_are_left_out() -> None:
    names = [
        "aten::addmm, seq = 12, op_id = 40, sizes = [[3], [4, 5]], input_op_ids = [(1,0), (2,0)]",
        "aten::addmm, seq = 13, op_id = 41, sizes = [[3], [4, 5]], input_op_ids = [(3,0)]",
        "AddmmBackward0, op_id = 55",
        "step 1",
        "step 2",
    ]
    codes, texts = grouped(lambda: names)
    assert [texts[code] for code in codes.tolist()] == [
        *["aten::addmm, sizes = [[3], [4, 5]]"] * 2,
        "AddmmBackward0",
        "step 1",
        "step 2",
    ]


def test_numbers_are_left_out_of_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MOST_NAMES", 3)
    names = ["step 1", "step 22", "step 3", "epoch 4 of 9", "end"]
    codes, texts = grouped(lambda: names)
    told = [texts[code] for code in codes.tolist()]
    assert told == ["step #", "step #", "step #", "epoch # of #", "end"]
    codes, texts = grouped(lambda: [*names, "one", "more"])
    assert [texts[code] for code in codes.tolist()] == [*told, OTHERS, OTHERS]
