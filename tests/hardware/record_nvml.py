"""Record what NVML answers on a machine with NVIDIA GPUs, for `FakeNvml.from_recording`.

    python tests/hardware/record_nvml.py recording.json

It asks every function that this package uses and some more, with the cards idle and then busy
(memory of the device is filled over and over through libcuda), and writes answers with their
types, error codes, and the time that each call took. UUIDs, serial numbers and bus addresses are
masked. Only ``nvidia-ml-py`` is needed; with this repository on ``PYTHONPATH``, and psutil and
pydantic installed, what `HardwareProfile` makes of the machine is written too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import statistics
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pynvml

FORMAT = 1
#: Functions of the driver as a whole.
SYSTEM = (
    ("nvmlSystemGetDriverVersion",),
    ("nvmlSystemGetNVMLVersion",),
    ("nvmlSystemGetCudaDriverVersion",),
    ("nvmlDeviceGetCount",),
)
#: Functions of a card or of a MIG instance, with the arguments that follow the handle.
CARD = (
    ("nvmlDeviceGetName",),
    ("nvmlDeviceGetUUID",),
    ("nvmlDeviceGetMemoryInfo",),
    ("nvmlDeviceGetMemoryInfo", "nvmlMemory_v2"),
    ("nvmlDeviceGetBAR1MemoryInfo",),
    ("nvmlDeviceGetUtilizationRates",),
    ("nvmlDeviceGetTemperature", 0),
    ("nvmlDeviceGetPowerUsage",),
    ("nvmlDeviceGetEnforcedPowerLimit",),
    ("nvmlDeviceGetPowerManagementLimit",),
    ("nvmlDeviceGetPowerManagementLimitConstraints",),
    ("nvmlDeviceGetTotalEnergyConsumption",),
    *(("nvmlDeviceGetMaxClockInfo", kind) for kind in range(4)),
    *(("nvmlDeviceGetClockInfo", kind) for kind in range(4)),
    ("nvmlDeviceGetMemoryBusWidth",),
    ("nvmlDeviceGetNumGpuCores",),
    ("nvmlDeviceGetCudaComputeCapability",),
    ("nvmlDeviceGetArchitecture",),
    ("nvmlDeviceGetCurrPcieLinkGeneration",),
    ("nvmlDeviceGetCurrPcieLinkWidth",),
    ("nvmlDeviceGetMaxPcieLinkGeneration",),
    ("nvmlDeviceGetMaxPcieLinkWidth",),
    ("nvmlDeviceGetEccMode",),
    ("nvmlDeviceGetTotalEccErrors", 0, 0),
    ("nvmlDeviceGetTotalEccErrors", 1, 0),
    ("nvmlDeviceGetMigMode",),
    ("nvmlDeviceGetMaxMigDeviceCount",),
    ("nvmlDeviceGetComputeRunningProcesses",),
    ("nvmlDeviceGetGraphicsRunningProcesses",),
    ("nvmlDeviceGetPerformanceState",),
    ("nvmlDeviceGetPersistenceMode",),
    ("nvmlDeviceGetComputeMode",),
    ("nvmlDeviceGetFanSpeed",),
    ("nvmlDeviceGetCurrentClocksThrottleReasons",),
    ("nvmlDeviceGetMemoryAffinity", 8, 0),
    ("nvmlDeviceGetBrand",),
    ("nvmlDeviceGetPcieThroughput", 0),
    ("nvmlDeviceGetAddressingMode",),
)
SECRET = re.compile(
    r"(?:GPU|MIG)-[0-9a-fA-F][0-9a-fA-F-]+|[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F.]+"
)


def masked(text: str) -> str:
    """Replace what identifies one device; the shape stays."""
    return SECRET.sub(lambda match: re.sub(r"(?<![A-Z])[0-9a-fA-F]", "0", match[0]), text)


def encoded(answer: Any) -> dict[str, Any]:
    """Return an answer as JSON with its type."""
    if answer is None or isinstance(answer, bool | int | float):
        return {"type": type(answer).__name__, "value": answer}
    if isinstance(answer, str):
        return {"type": "str", "value": masked(answer)}
    if isinstance(answer, bytes):
        return {"type": "bytes", "value": masked(answer.decode("latin-1"))}
    if isinstance(answer, ctypes.Array):
        answer = list(answer)
    if isinstance(answer, list | tuple):
        return {"type": "list", "value": [encoded(part) for part in answer]}
    names = [field[0] for field in getattr(answer, "_fields_", ())] or list(vars(answer))
    parts = {name: encoded(getattr(answer, name)) for name in names if name[0] != "_"}
    return {"type": "struct", "value": parts}


def ask(call: tuple[Any, ...], *handle: Any) -> dict[str, Any]:
    """Call one function and return its arguments, its answer or error, and its time."""
    name, *arguments = call
    record: dict[str, Any] = {"arguments": arguments}
    times = []
    try:
        real = [getattr(pynvml, part) if isinstance(part, str) else part for part in arguments]
        for _ in range(3):
            begun = time.perf_counter()
            answer = getattr(pynvml, name)(*handle, *real)
            times.append(time.perf_counter() - begun)
        record["answer"] = encoded(answer)
        record["microseconds"] = round(statistics.median(times) * 1e6, 1)
    except pynvml.NVMLError as error:
        record["error"] = error.value
        record["said"] = str(error)
    except Exception as error:  # noqa: BLE001 - whatever the bindings do is what is recorded
        record["error"] = 999
        record["said"] = f"{type(error).__name__}: {error}"
    return record


def ask_all(calls: tuple[tuple[Any, ...], ...], *handle: Any) -> dict[str, list[dict[str, Any]]]:
    """Ask a list of functions; what the bindings do not have is left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        if hasattr(pynvml, call[0]):
            found.setdefault(call[0], []).append(ask(call, *handle))
    return found


def instances(handle: Any) -> dict[str, Any]:
    """Ask every MIG instance of a card."""
    found = {}
    try:
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:
        return {}
    for index in range(count):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError:
            continue
        found[str(index)] = ask_all(CARD, part)
    return found


def reading() -> dict[str, Any]:
    """Ask everything once."""
    cards = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        cards.append({"calls": ask_all(CARD, handle), "instances": instances(handle)})
    return {"system": ask_all(SYSTEM), "cards": cards}


class Load(threading.Thread):
    """Fills 1 GiB of the first device's memory over and over until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.ready = threading.Event()
        self.problem = ""

    def run(self) -> None:
        """Work until `done` is set."""
        try:
            self._work()
        except (OSError, RuntimeError) as error:
            self.problem = str(error)
        finally:
            self.ready.set()

    def _work(self) -> None:
        cuda = ctypes.CDLL("libcuda.so.1")

        def check(what: str, code: int) -> None:
            if code:
                raise RuntimeError(f"{what} answered {code}")

        device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        size = ctypes.c_size_t(1 << 30)
        check("cuInit", cuda.cuInit(0))
        check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), 0))
        check(
            "cuDevicePrimaryCtxRetain", cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        )
        check("cuCtxSetCurrent", cuda.cuCtxSetCurrent(context))
        check("cuMemAlloc", cuda.cuMemAlloc_v2(ctypes.byref(memory), size))
        self.ready.set()
        while not self.done.is_set():
            for value in range(16):
                check("cuMemsetD8", cuda.cuMemsetD8_v2(memory, ctypes.c_ubyte(value), size))
            check("cuCtxSynchronize", cuda.cuCtxSynchronize())
        check("cuMemFree", cuda.cuMemFree_v2(memory))
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def energy(seconds: float) -> dict[str, Any]:
    """Compare the energy counter of the first card with its power, integrated at 50 Hz."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    try:
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        begun = last = time.perf_counter()
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        joules = 0.0
        while last - begun < seconds:
            time.sleep(0.02)
            now, power = time.perf_counter(), pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
            joules += (watts + power) / 2 * (now - last)
            last, watts = now, power
        counted = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000
    except pynvml.NVMLError as error:
        return {"error": error.value, "said": str(error)}
    return {"seconds": last - begun, "counter_joules": counted, "integrated_joules": joules}


def ours() -> dict[str, Any]:
    """Return what this package makes of the machine, or why it cannot be asked."""
    try:
        from ravenxterm_lab.hardware import HardwareProfile, nvml_session, take_sample
        from ravenxterm_lab.hardware.nvidia import NvidiaSampler
    except ImportError as error:
        return {"error": str(error)}
    profile = HardwareProfile.detect(measure_bandwidth=False)
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        sample = take_sample()
        times.append(time.perf_counter() - begun)
    with nvml_session() as session:
        sampler = NvidiaSampler(session)
        held = []
        for _ in range(50):
            begun = time.perf_counter()
            sampler.sample()
            held.append(time.perf_counter() - begun)
    return {
        "profile": masked(str(profile)).splitlines(),
        "sample_rows": sample.rows(),
        "take_sample_milliseconds": round(statistics.median(times) * 1e3, 3),
        "gpu_sample_milliseconds_in_an_open_session": round(statistics.median(held) * 1e3, 3),
    }


def main() -> int:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to keep it busy")
    options = parser.parse_args()
    begun = time.perf_counter()
    pynvml.nvmlInit()
    start = time.perf_counter() - begun
    readings = {"idle": reading()}
    energies = {"idle": energy(options.seconds)}
    about: dict[str, Any] = {
        "driver_version": pynvml.nvmlSystemGetDriverVersion(),
        "bindings": version("nvidia-ml-py"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "in_container": Path("/.dockerenv").exists() or "container" in os.environ,
        "init_milliseconds": round(start * 1e3, 1),
    }
    about["idle"] = ours()
    load = Load()
    load.start()
    load.ready.wait(60)
    if load.problem:
        about["busy"] = {"error": load.problem}
    else:
        time.sleep(1)  # NVML's loads are means over up to a second
        readings["busy"] = reading()
        energies["busy"] = energy(options.seconds)
        about["busy"] = ours()
        load.done.set()
        load.join(30)
    about["energy"] = energies
    pynvml.nvmlShutdown()
    text = json.dumps({"format": FORMAT, "about": about, "readings": readings}, indent=1)
    options.path.write_text(f"{text}\n", encoding="utf-8")
    print(f"{options.path}: {len(readings)} readings of {len(readings['idle']['cards'])} cards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
