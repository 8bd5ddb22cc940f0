"""PROFILE: what this machine has, and what of it this process may really use.

`HardwareProfile.detect` reads once, `HardwareProfile.simulate` stands for a machine that is not
here; `take_sample` looks at the loads once, `HardwareMonitor` in the background. Nothing here
raises for what cannot be read: it becomes None with a note that names the field, the reason and
the remedy.
"""

from __future__ import annotations

from ravenxterm_lab.hardware.bandwidth import BandwidthMeasurement, measure_bandwidth
from ravenxterm_lab.hardware.cgroup import CgroupReading, CpuQuota, MemoryLimit, read_cgroup
from ravenxterm_lab.hardware.devices import (
    GpuDevice,
    GpuProcess,
    GpuSample,
    MigInstance,
    NpuDevice,
)
from ravenxterm_lab.hardware.energy import Energy, EnergyMeter, integrate_power
from ravenxterm_lab.hardware.fake_nvml import FakeGpu, FakeNvml
from ravenxterm_lab.hardware.known_gpus import KnownGpu, KnownGpus
from ravenxterm_lab.hardware.matrix import MatrixMeasurement, measure_matrix_speed
from ravenxterm_lab.hardware.monitor import HardwareMonitor, Samples
from ravenxterm_lab.hardware.nvidia import NvidiaReading, gpu_bandwidth, read_nvidia
from ravenxterm_lab.hardware.nvml import nvml_session
from ravenxterm_lab.hardware.profile import HardwareProfile
from ravenxterm_lab.hardware.recorded_nvml import RecordedNvml
from ravenxterm_lab.hardware.sampler import HardwareSample, Sampler, take_sample
from ravenxterm_lab.hardware.topology import CpuCache, NumaNode

__all__ = [
    "BandwidthMeasurement",
    "CgroupReading",
    "CpuCache",
    "CpuQuota",
    "Energy",
    "EnergyMeter",
    "FakeGpu",
    "FakeNvml",
    "GpuDevice",
    "GpuProcess",
    "GpuSample",
    "HardwareMonitor",
    "HardwareProfile",
    "HardwareSample",
    "KnownGpu",
    "KnownGpus",
    "MatrixMeasurement",
    "MemoryLimit",
    "MigInstance",
    "NpuDevice",
    "NumaNode",
    "NvidiaReading",
    "RecordedNvml",
    "Sampler",
    "Samples",
    "gpu_bandwidth",
    "integrate_power",
    "measure_bandwidth",
    "measure_matrix_speed",
    "nvml_session",
    "read_cgroup",
    "read_nvidia",
    "take_sample",
]
