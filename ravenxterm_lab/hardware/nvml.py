"""One call to NVML at a time: an answer, or the reason why there is none.

NVML fails call by call: a card that tells its name may not tell its memory. Nothing here
raises for an NVML error, and nothing prints.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FUNCTION_NOT_FOUND", "NOT_FOUND", "NOT_SUPPORTED", "Failure", "Nvml", "nvml_session"]

# From nvml.h (nvmlReturn_t). They are part of the library's ABI and do not change.
NOT_SUPPORTED = 3
NOT_FOUND = 6
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13

_UPDATE = "Update the NVIDIA driver, or nvidia-ml-py, so that they match."
_LOG = "Look at `dmesg` for NVRM and Xid messages."
_RESET = "Reset the GPU (nvidia-smi --gpu-reset) or reboot."
_NOT_OFFERED = "This card or driver does not offer it."
_LATER = "It may answer later: detect again."
#: What to do, for every code of nvml.h.
_REMEDIES = {
    1: "NVML was shut down meanwhile: detect again.",
    2: _UPDATE,
    3: _NOT_OFFERED,
    4: "Ask the administrator for access to the GPU's counters, or start the container with it.",
    5: "Detect again.",
    6: "Look at `nvidia-smi -L` for what is there.",
    7: _UPDATE,
    8: "Plug in the GPU's power cables, all of them.",
    9: "Load the nvidia kernel module (modprobe nvidia), or reinstall the driver.",
    10: f"The driver did not answer in time. {_LATER}",
    11: f"The driver has trouble with the GPU's interrupts. {_LOG}",
    12: "Install the NVIDIA driver, or give the container access to it (--gpus all).",
    13: "Update the NVIDIA driver to get it.",
    14: "The GPU's own memory of settings is damaged: nvidia-smi -q tells more; ask its maker.",
    15: "The GPU fell off the bus: look at `dmesg` for Xid messages and reboot.",
    16: _RESET,
    17: "The operating system or the container blocks it.",
    18: "The driver was updated under a running kernel: reboot, or reload the nvidia modules.",
    19: f"Another program holds it. {_LATER}",
    20: f"The driver ran out of memory. {_LATER}",
    21: _LATER,
    22: _NOT_OFFERED,
    23: f"The driver ran out of something. {_LATER}",
    24: _NOT_OFFERED,
    25: _UPDATE,
    26: _UPDATE,
    27: _LATER,
    28: f"{_LOG} Reseat the GPU if it is missing from lspci too.",
    29: _RESET,
    30: _NOT_OFFERED,
    999: f"The driver does not say why. {_LOG}",
}
_OTHERWISE = "Update nvidia-ml-py, or look at `nvidia-smi -q`."


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call gave no answer.

    Attributes
    ----------
    code : int or None
        NVML's return code; None when the call failed before it reached NVML.
    reason : str
        In NVML's words.
    """

    code: int | None
    reason: str

    def explain(self, what: str) -> str:
        """Return the note for what is not available: the thing, the reason, the remedy."""
        remedy = _REMEDIES.get(self.code or 0, _OTHERWISE)
        return f"{what}: not available ({self.reason.rstrip('.')}). {remedy}".rstrip()


@dataclass(slots=True)
class Nvml:
    """An initialised NVML, or the reason why it could not be initialised.

    Attributes
    ----------
    module : object
        ``pynvml`` or anything with its functions; None when it cannot be imported.
    failure : Failure or None
        Why there is no session.
    """

    module: Any
    failure: Failure | None = field(default=None)

    def ask(self, function: str, *arguments: Any) -> tuple[Any, Failure | None]:
        """Call one function and return its answer and None, or None and the reason."""
        call = getattr(self.module, function, None)
        if call is None:
            return None, Failure(None, f"the installed nvidia-ml-py has no {function}")
        try:
            return call(*arguments), None
        except self.module.NVMLError as error:
            return None, Failure(getattr(error, "value", None), f"NVML: {error}")
        except UnicodeDecodeError:
            return None, Failure(None, "NVML's answer is not UTF-8 text")
        except (OSError, ValueError, TypeError, AttributeError, ctypes.ArgumentError) as error:
            # The bindings stumble over answers of a driver that they do not know.
            return None, Failure(None, f"nvidia-ml-py: {type(error).__name__}: {error}")


@contextmanager
def nvml_session(nvml: Any = None) -> Iterator[Nvml]:
    """Initialise NVML for a while; a shutdown follows exactly when the start succeeded.

    Parameters
    ----------
    nvml : object, optional
        Anything with ``pynvml``'s functions, such as `FakeNvml`; ``pynvml`` when left out.

    Yields
    ------
    Nvml
        Its ``failure`` says why NVML cannot be used.
    """
    if nvml is None:
        try:
            import pynvml
        except ImportError as error:
            yield Nvml(None, Failure(None, f"pynvml cannot be imported: {error}"))
            return
        nvml = pynvml
    session = Nvml(nvml)
    _, session.failure = session.ask("nvmlInit")
    try:
        yield session
    finally:
        if session.failure is None:
            session.ask("nvmlShutdown")
