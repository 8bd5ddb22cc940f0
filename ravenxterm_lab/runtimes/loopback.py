"""HTTP to a server on this very machine, and to nowhere else.

Only ``http.client`` is used: it follows no redirect and asks no proxy. The address must be a
loopback address written as a number, or ``localhost``, which is taken to be 127.0.0.1: no
name is ever looked up.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import ConfigurationError

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator, Mapping

__all__ = [
    "ASK_SECONDS",
    "SILENCE_SECONDS",
    "AnswerError",
    "Endpoint",
    "TooSlowError",
    "UnreachableError",
]

#: How long a question such as "which models are there?" may take (s): a port is asked in passing.
ASK_SECONDS = 0.5
#: How long a server may say nothing in the middle of an answer, where no timeout is given (s).
SILENCE_SECONDS = 300.0
_CONNECT_SECONDS = 1.0
_LARGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_LINE = 4 * 1024 * 1024
_PIECE = 65536


class UnreachableError(Exception):
    """Nobody listens there, or the connection broke."""


class TooSlowError(Exception):
    """Our own deadline passed, or the server said nothing for too long."""


class AnswerError(Exception):
    """The server refused, or answered what it should not.

    Attributes
    ----------
    status : int
        The HTTP status; 0 for an answer that is not what the protocol says.
    kind : str
        The server's own name of the error, where it gives one.
    """

    def __init__(self, message: str, status: int = 0, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address.

    Attributes
    ----------
    port : int
        1–65535.
    host : str
        A loopback address.
    key : str or None
        Sent as a bearer token, for a server that asks for one.

    Raises
    ------
    ConfigurationError
        If the address is not of this machine, or the port is none.

    Examples
    --------
    >>> Endpoint(11434).url
    'http://127.0.0.1:11434'
    """

    port: int
    host: str = "127.0.0.1"
    key: str | None = None

    def __post_init__(self) -> None:
        import ipaddress

        host = "127.0.0.1" if self.host == "localhost" else self.host
        try:
            ours = ipaddress.ip_address(host).is_loopback
        except ValueError:
            ours = False
        if not ours:
            raise ConfigurationError(
                f"{self.host!r} is not an address of this machine itself: nothing is sent "
                "anywhere else. Use 127.0.0.1, ::1 or localhost."
            )
        if type(self.port) is not int or not 0 < self.port < 65536:
            raise ConfigurationError(f"A port is a number from 1 to 65535, got {self.port!r}.")
        object.__setattr__(self, "host", host)

    @property
    def url(self) -> str:
        """The address, as a person writes it."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = ASK_SECONDS
    ) -> Any:
        """Send one question and return the JSON of the answer.

        Parameters
        ----------
        path : str
            Such as ``"/v1/models"``.
        body : mapping, optional
            Sent by POST; without one it is a GET.
        seconds : float
            For all of it (s).

        Raises
        ------
        UnreachableError, TooSlowError, AnswerError
            See there.
        """
        with self.open(path, body, deadline=time.monotonic() + seconds) as pieces:
            text = b"".join(pieces)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise AnswerError(f"{self.url}{path} answered what is no JSON") from None

    def lines(
        self, path: str, body: Mapping[str, Any], *, deadline: float | None
    ) -> Iterator[bytes]:
        """Send a question by POST and yield the lines of the answer as they come.

        Closing the iterator closes the connection, upon which such servers stop working.

        Parameters
        ----------
        path, body
            As for ``ask``.
        deadline : float or None
            On the monotonic clock (s); None limits only each silence.

        Raises
        ------
        UnreachableError, TooSlowError, AnswerError
            See there.
        """
        with self.open(path, body, deadline=deadline) as pieces:
            rest = b""
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
                if len(rest) > _LONGEST_LINE:
                    raise AnswerError("a line of its stream is longer than 4 MiB")
            if rest:
                yield rest

    @contextmanager
    def open(
        self, path: str, body: Mapping[str, Any] | None, *, deadline: float | None
    ) -> Iterator[Iterator[bytes]]:
        """Send a question and give the pieces of a good answer.

        Raises
        ------
        UnreachableError, TooSlowError, AnswerError
            See there.
        """
        # It costs 5 ms, which whoever uses no server need not pay.
        import http.client

        headers = {"Accept": "application/json", "Connection": "close"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        text = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            text = json.dumps(body, allow_nan=False).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_CONNECT_SECONDS)
        response = None
        try:
            connection.connect()
            socket = connection.sock
            socket.settimeout(_left(deadline))
            connection.request("GET" if body is None else "POST", path, text, headers)
            response = connection.getresponse()
            pieces = _pieces(response, socket, deadline)
            if response.status != 200:
                raise _refusal(f"{self.url}{path}", response.status, b"".join(pieces))
            yield pieces
        except TimeoutError:
            raise TooSlowError(f"{self.url} did not answer in time") from None
        except http.client.IncompleteRead:
            raise UnreachableError(f"{self.url} broke off in the middle of the answer") from None
        except (OSError, http.client.HTTPException) as error:
            what = str(error) or type(error).__name__
            raise UnreachableError(f"{self.url}: {what}") from None
        finally:
            # It holds the socket too, and a server goes on writing until that is closed.
            if response is not None:
                response.close()
            connection.close()


def _left(deadline: float | None) -> float:
    if deadline is None:
        return SILENCE_SECONDS
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, SILENCE_SECONDS)


def _pieces(
    response: http.client.HTTPResponse, socket: Any, deadline: float | None
) -> Iterator[bytes]:
    total = 0
    while True:
        # Anew for each piece: a server that dribbles bytes would never meet the deadline.
        socket.settimeout(_left(deadline))
        piece = response.read1(_PIECE)
        if not piece:
            if response.length:
                raise UnreachableError(f"{response.length} bytes of the answer are missing")
            return
        total += len(piece)
        if total > _LARGEST_ANSWER:
            raise AnswerError("the answer is longer than 64 MiB")
        yield piece


def _refusal(url: str, status: int, text: bytes) -> AnswerError:
    message, kind = text[:300].decode("utf-8", "replace").strip(), ""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict):
        # OpenAI's protocol nests the message, Ollama's does not.
        error = told.get("error", told)
        if isinstance(error, dict):
            message, kind = str(error.get("message", message)), str(error.get("type", ""))
        else:
            message = str(error)
    return AnswerError(message or f"{url} answered with status {status}", status, kind)
