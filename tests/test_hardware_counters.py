"""Reading perf's counters, where there are some and where there are none."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

import pytest

from kernelprof.diagnosis import hardware_counters
from kernelprof.diagnosis.hardware_counters import EVENTS, Counters, count, parse
from kernelprof.errors import KernelprofError

# As perf 6.1 printed it in a virtual machine.
NONE_SUPPORTED = """\
<not supported>,,instructions,0,100.00,,
<not supported>,,cycles,0,100.00,,
<not supported>,,cache-references,0,100.00,,
<not supported>,,cache-misses,0,100.00,,
<not supported>,,branch-misses,0,100.00,,
<not supported>,,dTLB-load-misses,0,100.00,,
"""
# As perf's manual says: value, unit, event, run time, percentage, metric, its unit.
ALL_COUNTED = """\
9000000000,,instructions,1000000000,100.00,1.50,insn per cycle
6000000000,,cycles,1000000000,100.00,,
40000000,,cache-references,1000000000,66.67,,
10000000,,cache-misses,1000000000,66.67,25.00,of all cache refs
1200000,,branch-misses,1000000000,66.65,,
<not counted>,,dTLB-load-misses,0,0.00,,
"""


def test_counts_of_a_processor():
    found = parse(ALL_COUNTED, 1.0)
    assert found.counts["instructions"] == 9 * 10**9
    assert found.instructions_per_cycle == pytest.approx(1.5)
    assert found.cache_miss_share == pytest.approx(0.25)
    assert found.missing == ("dTLB-load-misses",)
    assert Counters.from_json(found.to_json()) == found


def test_user_code_alone_and_two_kinds_of_cores():
    text = "10,,instructions:u,1,100.00,,\n"
    assert parse(text, 1.0).counts == {"instructions": 10}
    hybrid = "10,,cpu_core/instructions/,1,60.00,,\n5,,cpu_atom/instructions/u,1,40.00,,\n"
    assert parse(hybrid, 1.0).counts == {"instructions": 15}


@pytest.mark.parametrize("text", [NONE_SUPPORTED, "", "nan,,cycles,,,\n-1,,cycles\nx\n,,,,\n"])
def test_no_counters_are_one_line(text):
    with pytest.raises(KernelprofError, match="perf counts none of instructions") as refused:
        parse(text, 1.0)
    assert "\n" not in str(refused.value)
    if text:
        assert ("<not supported>" in str(refused.value)) == (text == NONE_SUPPORTED)


def test_ratios_of_what_was_not_counted():
    found = parse("10,,instructions,1,100.00,,\n", 1.0)
    assert found.instructions_per_cycle is None
    assert found.cache_miss_share is None
    assert parse("0,,cycles,1,100.00,,\n10,,instructions,1,100.00,,\n", 1.0).counts["cycles"] == 0


def test_without_perf(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(KernelprofError, match="perf is not installed"):
        count(os.getpid(), 0.1)


def test_of_this_machine():
    """It has counters, or says in one line why not."""
    with suppress(KernelprofError):
        found = count(os.getpid(), 0.2)
        assert set(found.counts) | set(found.missing) == set(EVENTS)


def test_a_process_that_is_gone():
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    with pytest.raises(KernelprofError, match="perf"):
        count(gone, 0.1)


def test_a_perf_that_refuses(tmp_path, monkeypatch):
    fake = tmp_path / "perf"
    fake.write_text("#!/bin/sh\necho 'Error:\nAccess is limited.\nMore words' >&2\nexit 255\n")
    fake.chmod(0o755)
    monkeypatch.setattr(hardware_counters.shutil, "which", lambda name: str(fake))
    with pytest.raises(KernelprofError, match=r"^perf: Access is limited\.$"):
        count(os.getpid(), 0.1)
