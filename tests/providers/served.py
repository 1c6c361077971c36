"""A server that does as it is told: it writes the bytes of a script, and nothing else."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import threading
from typing import Any


class Hang:
    """Says nothing until the client leaves."""


class Abort:
    """Resets the connection."""


Part = bytes | float | type[Hang] | type[Abort]


class Scripted:
    """Answers each request with the next script: bytes are written, numbers are seconds to wait.

    It has a thread and a loop of its own. The connection is closed after a script, unless that
    begins with a response with the header `x-keep`.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.stop = lambda: None
        self.scripts: list[list[Part]] = []
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.paths: list[str] = []
        self.connections = 0
        self.open = 0
        self.url = ""

    def says(self, *parts: Part) -> None:
        self.scripts.append(list(parts))

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                await self.receive(reader)
                script = self.scripts.pop(0)
                await self.answer(script, reader, writer)
                if not (isinstance(script[0], bytes) and b"\r\nx-keep: 1\r\n" in script[0]):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def receive(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, _, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        self.paths.append(head.split(" ", 2)[1])
        self.requests.append((headers, json.loads(body)))

    async def answer(
        self, script: list[Part], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for part in script:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            elif part is Hang:
                await reader.read()
            elif part is Abort:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                writer.transport.abort()
            elif isinstance(part, float):
                await asyncio.sleep(part)

    async def run(self) -> None:
        stopped = asyncio.Event()
        self.stop = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, stopped.set)
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            self.url = f"http://{host}:{port}/v1"
            self.started.set()
            await stopped.wait()


async def nothing_open(told: Scripted) -> None:
    """Wait until the server has seen every client leave."""
    async with asyncio.timeout(1):
        while told.open:  # noqa: ASYNC110 — what it waits for happens in another thread
            await asyncio.sleep(0.001)


async def all_open(told: Scripted, count: int) -> None:
    """Wait until the server has so many connections."""
    async with asyncio.timeout(5):
        while told.open < count:  # noqa: ASYNC110 — see above
            await asyncio.sleep(0.001)


def response(
    body: bytes | str | dict[str, Any] | list[Any],
    *,
    status: str = "200 OK",
    content_type: str = "application/json",
    keep: bool = False,
    **headers: str,
) -> bytes:
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    fields = {"content-type": content_type, "content-length": str(len(data)), **headers}
    fields["x-keep" if keep else "connection"] = "1" if keep else "close"
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


SSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"connection: close\r\n\r\n"
)
CHUNKED = SSE.replace(b"connection: close", b"x-keep: 1\r\ntransfer-encoding: chunked")


def event(data: Any) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def http_chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
