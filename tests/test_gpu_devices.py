"""GPUs as the host sees them: their facts, those that cannot be used, and what the doctor says.

NVML is a stand-in that raises NVML's own errors; CUDA's driver is a library compiled here, so that
it is called as the real one.
"""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
from dataclasses import replace

import pynvml
import pytest

from kernelprof import doctor, runner
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.fitness import BLOCK, PASS, WARN
from kernelprof.gpu import devices, driver, fitness
from kernelprof.gpu.devices import gpus, required
from kernelprof.machine import fingerprint_with, machine_facts, this_machine
from kernelprof.reports.facts import facts

from .fake_nvml import DRIVER, GIB, Card, FakeNvml, refusal

PROHIBITED = pynvml.NVML_COMPUTEMODE_PROHIBITED
EXCLUSIVE = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
NOT_TOLD = refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
DRIVER_LIBRARY = """
#include <string.h>
static int is_open;
int cuInit(unsigned flags) { is_open = 1; return flags; }
int cuDeviceGetByPCIBusId(int *card, const char *bus) {
    if (!is_open) return 3;
    if (strcmp(bus, "0000:1b:00.0")) return 101;
    *card = 7;
    return 0;
}
int cuDeviceGetAttribute(int *value, int number, int card) {
    if (card != 7) return 101;
    if (number == 16) { *value = 132; return 0; }
    if (number == 38) { *value = 52428800; return 0; }
    return 1;
}
"""


@pytest.fixture(autouse=True)
def _shell(monkeypatch):
    """Nothing of the shell that runs the tests hides a card, and no driver of this machine."""
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(driver, "FILE", "libcuda-of-no-machine.so")


@pytest.fixture
def nvml(monkeypatch):
    """Puts a stand-in in the place of NVML."""

    def plant(*cards: Card, **more: object) -> FakeNvml:
        fake = FakeNvml(*cards, **more)
        monkeypatch.setattr(devices, "pynvml", fake)
        return fake

    return plant


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory):
    """A library with the functions of CUDA's driver that are called."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: `apt-get install gcc libc6-dev`")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER_LIBRARY)
    library = folder / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "driver.c"], check=True)
    return str(library)


def test_facts_of_a_card(nvml, driver_library, monkeypatch):
    fake = nvml(Card())
    monkeypatch.setattr(driver, "FILE", driver_library)
    (found,) = gpus()
    assert (found.device, found.name, found.driver) == ("cuda:0", "NVIDIA H100 80GB HBM3", DRIVER)
    assert (found.cuda, found.capability) == ("13.0", "9.0")
    assert (found.sms, found.l2_bytes) == (132, 50 * 2**20)
    assert found.memory_bytes == 80 * GIB
    assert (found.max_sm_hz, found.max_memory_hz) == (1_980_000_000, 2_619_000_000)
    assert found.power_limit_w == 700.0
    assert found.ecc is True
    assert required("cuda:0") == found
    assert fake.opened == 0  # whatever was opened is closed


def test_the_driver_tells_nothing_of_a_card_that_it_hides(driver_library, monkeypatch):
    monkeypatch.setattr(driver, "FILE", driver_library)
    assert driver.attributes("0000:1b:00.0", (16, 38, 99)) == {16: 132, 38: 52428800}
    assert driver.attributes("0000:2b:00.0", (16, 38)) == {}


def test_no_driver_tells_nothing():
    assert driver.attributes("0000:1b:00.0", (16, 38)) == {}


def test_a_card_that_keeps_facts_to_itself(nvml):
    card = Card(limit_mw=NOT_TOLD, ecc=NOT_TOLD, temperature_c=NOT_TOLD, power_mw=NOT_TOLD)
    nvml(card)
    (found,) = gpus()
    assert (found.power_limit_w, found.ecc, found.sms, found.l2_bytes) == (None, None, None, None)
    with devices.session() as nvml_:
        reading = nvml_.reading(0)
    assert (reading.temperature_c, reading.power_w) == (None, None)
    assert json.loads(json.dumps(found.to_json()))["ecc"] is None


def test_cards_are_counted_as_nvidia_smi_does(nvml):
    nvml(Card(uuid="GPU-a"), Card(uuid="GPU-b", bus=0x2B))
    assert [(found.device, found.uuid) for found in gpus()] == [
        *(("cuda:0", "GPU-a"), ("cuda:1", "GPU-b"))
    ]
    assert required("cuda:1").uuid == "GPU-b"


def test_the_fingerprint_is_of_what_must_agree(nvml):
    cards = [
        *(Card(), Card(uuid="GPU-b", sm_mhz=345, free=GIB, processes=[1])),
        *(Card(name="NVIDIA A100"), Card(total=40 * GIB)),
    ]
    nvml(*cards)
    same, also, other, smaller = [found.fingerprint for found in gpus()]
    assert same == also
    assert len({same, other, smaller}) == 3


def test_examples():
    assert doctest.testmod(devices) == (0, 1)


# What cannot be used, in one line each.

REFUSED = {
    "no driver": (
        {"refusal": refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)},
        "cuda:0 cannot be used: no NVIDIA driver is loaded on this machine (libnvidia-ml.so.1 is "
        "not there); run on a machine with a GPU, or with --device cpu",
    ),
    "not loaded": (
        {"refusal": refusal(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)},
        "cuda:0 cannot be used: the NVIDIA driver is installed but not loaded; as root: modprobe "
        "nvidia; or run with --device cpu",
    ),
    "updated": (
        {"refusal": refusal(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)},
        "cuda:0 cannot be used: the driver was updated since it was loaded; restart the machine",
    ),
    "too old to ask": (
        {"refusal": refusal(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)},
        "cuda:0 cannot be used: its driver is too old; one that runs CUDA 12.2 is needed; install "
        "a newer driver",
    ),
    "too old": (
        {"cuda": 11080},
        "cuda:0 cannot be used: its driver runs CUDA 11.8 at most, and 12.2 is needed; install a "
        "newer driver",
    ),
    "anything else": (
        {"refusal": refusal(pynvml.NVML_ERROR_GPU_IS_LOST)},
        "cuda:0 cannot be used: the driver says 'GPU is lost'; `nvidia-smi` may tell more",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_driver_that_refuses(what, nvml):
    options, message = REFUSED[what]
    fake = nvml(Card(), **options)
    with pytest.raises(KernelprofError) as caught:
        required("cuda:0")
    assert str(caught.value) == message
    assert not isinstance(caught.value, UsageError)
    assert fake.opened == 0


def test_cards_of_a_machine_without_a_driver(nvml):
    nvml(refusal=refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert gpus() == []


def test_a_number_that_is_not_there(nvml):
    nvml(Card(), Card())
    with pytest.raises(KernelprofError) as caught:
        required("cuda:2")
    assert str(caught.value) == "cuda:2 is not there; this machine has cuda:0, cuda:1"
    nvml()
    with pytest.raises(KernelprofError, match="is not there; this machine has no GPU at all"):
        required("cuda:0")


@pytest.mark.parametrize("word", ["gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "0", ""])
def test_a_word_that_is_no_device(word, nvml):
    nvml(Card())
    with pytest.raises(UsageError, match="cpu or cuda:N is needed, such as cuda:0"):
        required(word)


def test_the_cpu_is_no_gpu(nvml):
    nvml(Card())
    with pytest.raises(UsageError, match="'cpu' is no GPU"):
        required("cpu")


def test_a_prohibited_card(nvml):
    nvml(Card(mode=PROHIBITED))
    with pytest.raises(KernelprofError, match="its compute mode is Prohibited; ask whoever runs"):
        required("cuda:0")


def test_an_exclusive_card_that_is_in_use(nvml):
    nvml(Card(mode=EXCLUSIVE, processes=[4711, 12]), Card(mode=EXCLUSIVE), Card(processes=[4711]))
    with pytest.raises(KernelprofError) as caught:
        required("cuda:0")
    assert str(caught.value) == (
        "cuda:0 cannot be used: it is in exclusive mode, and in use by processes 12, 4711; "
        "wait until that ends, or take another GPU"
    )
    assert required("cuda:1").number == 1  # nobody has it
    assert required("cuda:2").number == 2  # others may have it too


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        *(("0", {0}), ("1", {1}), ("1,0", {0, 1}), (" 1 ", {1}), ("", set()), ("-1", set())),
        *(("GPU-b", {1}), ("GPU-a,GPU-bb", {0, 1}), ("MIG-a", set())),
    ],
)
def test_cards_that_the_user_hides(chosen, seen, nvml, monkeypatch):
    nvml(Card(uuid="GPU-aa"), Card(uuid="GPU-bb"))
    monkeypatch.setenv(devices.VISIBLE, chosen)
    for number in (0, 1):
        if number in seen:
            assert required(f"cuda:{number}").number == number
        else:
            with pytest.raises(KernelprofError, match=f"cuda:{number} is hidden by CUDA_VIS"):
                required(f"cuda:{number}")


def test_a_run_records_the_card_beside_the_machine(nvml):
    nvml(Card())
    (card,) = gpus()
    assert machine_facts("cpu") == this_machine().to_json()
    recorded = json.loads(json.dumps(machine_facts("cuda:0")))
    assert recorded.pop("gpus") == {"cuda:0": card.to_json()}
    assert recorded.keys() == this_machine().to_json().keys()


def test_facts_are_written_for_people(nvml):
    nvml(Card())
    (card,) = gpus()
    written = dict(facts(machine_facts("cuda:0")))
    assert written["gpus, cuda:0, name"] == "NVIDIA H100 80GB HBM3"
    assert written["gpus, cuda:0, memory"] == "80.0 GiB"
    assert fingerprint_with(this_machine(), card).startswith(this_machine().fingerprint)


# What the doctor says.


def outcomes() -> dict[str, tuple[str, str]]:
    """Outcome and reason of each check."""
    found = fitness.examine("cuda:0")
    return {check.name: (check.outcome, check.reason) for check in found}


def test_a_card_that_is_fit(nvml):
    nvml(Card())
    found = outcomes()
    assert {outcome for outcome, _ in found.values()} == {PASS}
    assert found["GPU"][1] == (
        f"cuda:0 is NVIDIA H100 80GB HBM3, compute capability 9.0, driver {DRIVER} for CUDA 13.0, "
        "ECC on, persistence mode on"
    )
    assert found["GPU clock"][1] == "SM clock 1,980 MHz at 41 degrees C"


UNFIT = {
    "GPU processes": (Card(processes=[9]), "in use by process 9: kernels of others take turns"),
    "GPU compute mode": (Card(mode=EXCLUSIVE), "exclusive: one process at a time"),
    "GPU clock": (Card(reasons=0x44), "lowered already: power cap, temperature, by hardware"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_card_that_is_less_fit(name, nvml):
    card, words = UNFIT[name]
    nvml(card)
    found = outcomes()
    assert found[name][0] == WARN
    assert words in found[name][1]
    assert {outcome for other, (outcome, _) in found.items() if other != name} == {PASS}


def test_an_idle_clock_is_no_throttled_one(nvml):
    nvml(Card(sm_mhz=345, reasons=0x1))
    assert outcomes()["GPU clock"] == (PASS, "SM clock 345 MHz at 41 degrees C")


@pytest.mark.parametrize(("free", "outcome"), [(79 * GIB, PASS), (2**20, BLOCK)])
def test_memory_is_that_of_the_card(free, outcome, nvml, monkeypatch):
    monkeypatch.setattr(doctor, "available_bytes", lambda root: 0)  # the host's is not asked for
    nvml(Card(free=free))
    options = runner.choose(engines="numpy", threads="1", device="cuda:0", quick=True)
    (check,) = doctor.memories(options)
    assert (check.name, check.outcome) == ("GPU memory", outcome)


def test_the_doctor_examines_the_card_beside_the_machine(nvml):
    nvml(Card(processes=[9]))
    options = runner.choose(engines="numpy", threads="1", quick=True)
    of_cpu = [check.name for check in doctor.examine(options)]
    assert not [name for name in of_cpu if "GPU" in name]
    on_gpu = [check.name for check in doctor.examine(replace(options, device="cuda:0"))]
    assert {"GPU", "GPU memory", "GPU processes", "GPU compute mode", "GPU clock"} <= {*on_gpu}
    assert {*of_cpu} - {*on_gpu} == {"memory"}


def test_no_card_blocks(nvml):
    nvml(refusal=refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    (check,) = fitness.examine("cuda:0")
    assert check.outcome == BLOCK
    assert "no NVIDIA driver is loaded" in check.reason
    assert "--device cpu" in check.remedy


def test_this_machine_is_asked_with_the_real_module():
    """Wherever the tests run: cards, or none, but never a traceback."""
    for found in gpus():
        assert found.memory_bytes > 0
        assert found.name
    if not gpus():
        with pytest.raises(KernelprofError, match=r"^cuda:0 "):
            required("cuda:0")
