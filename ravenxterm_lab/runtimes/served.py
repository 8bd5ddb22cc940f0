"""Servers on this machine as runtimes: their own process, their own memory, their own queue.

Nothing is asked unless it is enabled: ``RAVENXTERM_SERVERS=ollama,openai:8080`` names servers
by their protocol and, after a colon, the port (without one, the usual ports).
"""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ravenxterm_lab.exceptions import ConfigurationError, FailureKind, RuntimeFailureError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata
from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions, Runtime
from ravenxterm_lab.runtimes.loopback import AnswerError, Endpoint, TooSlowError, UnreachableError
from ravenxterm_lab.runtimes.served_model import failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.runtimes.served_model import ServedModel

__all__ = ["SERVERS_VARIABLE", "ServerRuntime", "enabled_ports"]

SERVERS_VARIABLE = "RAVENXTERM_SERVERS"
#: The most models of one server that are listed.
_MOST_MODELS = 200


def enabled_ports(protocol: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ports to ask, as ``RAVENXTERM_SERVERS`` names them; none when it is not set.

    Parameters
    ----------
    protocol : str
        ``"ollama"`` or ``"openai"``.
    usual : tuple of int
        What a name without a port stands for.

    Raises
    ------
    ConfigurationError
        If the variable names an unknown protocol or a port that is none.
    """
    found: list[int] = []
    for entry in os.environ.get(SERVERS_VARIABLE, "").split(","):
        name, _, port = entry.strip().lower().partition(":")
        if not name:
            continue
        if name not in {"ollama", "openai"} or (port and not port.isdecimal()):
            raise ConfigurationError(
                f"{SERVERS_VARIABLE} holds {entry.strip()!r}; an entry reads ollama, openai, "
                "ollama:PORT or openai:PORT. Servers on other machines are not used."
            )
        if name == protocol:
            found += [Endpoint(int(port)).port] if port else usual
    return tuple(dict.fromkeys(found))


class ServerRuntime(Runtime):
    """A runtime whose models another process on this machine holds.

    Parameters
    ----------
    endpoints : sequence of Endpoint, optional
        Servers to ask; by default those that ``RAVENXTERM_SERVERS`` enables, at the moment
        that they are asked.

    Attributes
    ----------
    protocol : str
        Its name in ``RAVENXTERM_SERVERS``.
    usual_ports : tuple of int
        Ports that are asked when the variable gives none.
    """

    protocol: ClassVar[str]
    usual_ports: ClassVar[tuple[int, ...]]
    supports_batching = False

    def __init__(self, endpoints: Sequence[Endpoint] | None = None) -> None:
        self._given = None if endpoints is None else tuple(endpoints)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The servers that may be asked; empty when it is off."""
        if self._given is not None:
            return self._given
        return tuple(Endpoint(port) for port in enabled_ports(self.protocol, self.usual_ports))

    @abstractmethod
    def _list(self, endpoint: Endpoint) -> list[ModelMetadata]:
        """Ask one server for its models."""

    @abstractmethod
    def _connect(
        self, endpoint: Endpoint, model: ModelMetadata, options: LoadOptions
    ) -> ServedModel:
        """Make the server ready to run a model, and return it."""

    def served(self) -> tuple[tuple[ModelMetadata, ...], tuple[str, ...]]:
        """Ask each enabled server once which models it has.

        Returns
        -------
        tuple of models and notes
            A note for each server that was named with its port and did not answer.
        """
        models: list[ModelMetadata] = []
        notes = []
        for endpoint in self.endpoints:
            try:
                models += self._list(endpoint)[:_MOST_MODELS]
            except (UnreachableError, TooSlowError, AnswerError) as error:
                notes.append(f"no {self.protocol} server answers at {endpoint.url} ({error})")
        return tuple(models), tuple(notes)

    def devices(self) -> tuple[HardwareType, ...]:
        """Return the CPU: where it really runs is the server's affair."""
        return (HardwareType.CPU,)

    def version(self) -> str | None:
        """Return None: the server has its own."""
        return None

    def gap(self, model: ModelMetadata) -> str | None:
        """Say why this runtime cannot run a model; None when the server lists it."""
        if model.model_type not in self.model_types or model.source != self.name:
            return f"{self.name} runs what a server lists, and {model.name} is a file"
        if model.problems:
            return f"the model is damaged: {'; '.join(model.problems)}"
        if not self.tasks_of(model):
            return (
                f"{self.name} does not run {', '.join(model.task_types)}; "
                f"it runs {', '.join(sorted(self.tasks))}"
            )
        return None

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        """Make the server ready; see `Runtime.load`."""
        gap = self.gap(model)
        if gap is not None:
            kind = FailureKind.CORRUPT if model.problems else FailureKind.UNSUPPORTED
            raise RuntimeFailureError(f"{model.name} cannot be loaded by {self.name}: {gap}.", kind)
        chosen = self.resolve(model, options or LoadOptions())
        port = int(model.name.rpartition(":")[2])
        endpoint = next((e for e in self.endpoints if e.port == port), None)
        if endpoint is None:
            raise RuntimeFailureError(
                f"{model.name}: the server at port {port} is not enabled. Set "
                f"{SERVERS_VARIABLE}={self.protocol}:{port}.",
                FailureKind.MISSING_RUNTIME,
            )
        try:
            return self._connect(endpoint, model, chosen)
        except (UnreachableError, TooSlowError, AnswerError) as error:
            raise failure(model, error, "load") from error

    def metadata(
        self, endpoint: Endpoint, identity: str, digest: str, **facts: Any
    ) -> ModelMetadata:
        """Return a listed model as a candidate; its name ends with runtime and port.

        Parameters
        ----------
        endpoint : Endpoint
            Whose model it is.
        identity : str
            What the server calls it.
        digest : str
            What tells this very model from another of that name.
        **facts
            Further fields of `ModelMetadata`.
        """
        return ModelMetadata(
            name=f"{identity}@{self.name}:{endpoint.port}",
            # There is no file of it that we could read, copy or delete.
            path=Path(os.devnull),
            fingerprint=f"{self.name}:{digest}",
            source=self.name,
            runtimes=(self.name,),
            preferred_hardware=(HardwareType.CPU,),
            **facts,
        )
