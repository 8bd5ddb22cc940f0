"""A small real HTTP server that speaks Ollama's and OpenAI's protocols from a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Peer(ThreadingHTTPServer):
    """What it does is set by the test; what it was asked is in ``asked``.

    ``mode``: ``"good"``, ``"slow"`` (a word, then silence), ``"dribble"`` (a byte at a time, no
    line ever ends), ``"broken"`` (the connection goes in the middle), ``"error"`` (an error as
    an event), ``"nonsense"`` (no JSON), ``"moved"`` (a redirect), or an HTTP status.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode: str | int = "good"
        self.words = ["The ", "capital ", "is ", "Paris."]
        self.pause = 0.0
        self.error = {"message": "model requires more system memory", "type": "server_error"}
        self.asked: list[tuple[str, Any]] = []
        self.loaded: set[str] = set()
        self.gone = threading.Event()
        self.sent = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Peer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.answer(json.loads(self.rfile.read(length)))

    def answer(self, body: Any) -> None:
        self.server.asked.append((self.path, body))
        mode = self.server.mode
        if isinstance(mode, int):
            self.whole({"error": self.server.error}, mode)
        elif mode == "moved":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif mode == "nonsense":
            self.raw(b"<html>not json</html>")
        else:
            getattr(self, "answer_" + self.path.strip("/").replace("/", "_"))(body)

    def whole(self, value: Any, status: int = 200) -> None:
        self.raw(json.dumps(value).encode(), status)

    def raw(self, text: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, kind: str, pieces: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        mode = self.server.mode
        try:
            for number, piece in enumerate(pieces):
                if number == 2 and mode == "broken":
                    return
                if number == 1 and mode == "slow":
                    self.wait_for_the_end()
                for part in [bytes([b]) for b in piece.rstrip()] if mode == "dribble" else [piece]:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.flush()
                    time.sleep(0.02 if mode == "dribble" else self.server.pause)
                self.server.sent += 1
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.gone.set()
        finally:
            self.close_connection = True

    def wait_for_the_end(self) -> None:
        # An empty read is the other side's hanging up.
        self.connection.settimeout(20)
        if not self.rfile.read(1):
            self.server.gone.set()
        raise OSError

    def answer_api_tags(self, _: Any) -> None:
        entries = [
            {"name": n, "model": n, "size": s, "digest": f"sha-{n}",
             "details": {"family": "llama", "quantization_level": "Q4_0"}}
            for n, s in (("tiny:1b", 1_000_000), ("vectors:latest", 500_000))
        ]  # fmt: skip
        self.whole({"models": entries})

    def answer_api_show(self, body: Any) -> None:
        able = ["embedding"] if body["model"].startswith("vectors") else ["completion", "tools"]
        info = {
            "general.architecture": "llama",
            "general.parameter_count": 1_200_000,
            "llama.context_length": 2048,
        }
        self.whole({"capabilities": able, "model_info": info})

    def answer_api_ps(self, _: Any) -> None:
        self.whole({"models": [{"model": n, "size": 1_300_000} for n in self.server.loaded]})

    def answer_api_generate(self, body: Any) -> None:
        if body.get("keep_alive") == 0:
            self.server.loaded.discard(body["model"])
            self.whole({"model": body["model"], "response": "", "done": True})
        elif "prompt" not in body:
            self.server.loaded.add(body["model"])
            self.whole({"model": body["model"], "response": "", "done": True})
        else:
            self.ollama(lambda word: {"response": word})

    def answer_api_chat(self, _: Any) -> None:
        self.ollama(lambda word: {"message": {"role": "assistant", "content": word}})

    def ollama(self, wrap: Any) -> None:
        lines: list[dict[str, Any]] = [{**wrap(w), "done": False} for w in self.server.words]
        if self.server.mode == "error":
            lines[1:] = [{"error": self.server.error["message"]}]
        else:
            lines.append({
                **wrap(""), "done": True, "done_reason": "stop", "load_duration": 5_000_000,
                "prompt_eval_count": 11, "prompt_eval_duration": 20_000_000,
                "eval_count": 4, "eval_duration": 100_000_000,
            })  # fmt: skip
        self.stream("application/x-ndjson", [json.dumps(line).encode() + b"\n" for line in lines])

    def answer_api_embed(self, body: Any) -> None:
        rows = [[float(len(text)), 1.0, 0.0] for text in body["input"]]
        self.whole({"embeddings": rows, "prompt_eval_count": 9})

    def answer_v1_models(self, _: Any) -> None:
        self.whole({"object": "list", "data": [{"id": "some/model", "object": "model"}]})

    def answer_v1_chat_completions(self, _: Any) -> None:
        self.openai(lambda word: {"delta": {"content": word}})

    def answer_v1_completions(self, _: Any) -> None:
        self.openai(lambda word: {"text": word})

    def openai(self, wrap: Any) -> None:
        events: list[Any] = [
            {"choices": [{"index": 0, "finish_reason": None, **wrap(w)}]} for w in self.server.words
        ]
        if self.server.mode == "error":
            events[1:] = [{"error": self.server.error}]
        else:
            events.append({"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}]})
            events.append({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 4}})
        lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        # A comment keeps connections alive; both kinds of line end are allowed.
        lines.insert(1, b": keep-alive\r\n\r\n")
        self.stream("text/event-stream", [*lines, b"data: [DONE]\n\n"])

    def answer_v1_embeddings(self, body: Any) -> None:
        rows = [
            {"index": i, "embedding": [float(len(t)), 1.0]} for i, t in enumerate(body["input"])
        ]
        self.whole({"data": rows[::-1], "usage": {"prompt_tokens": 5}})


@contextmanager
def peer() -> Iterator[Peer]:
    """Serve on a free port of the loopback until the end of the block."""
    server = Peer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
