"""A way to a service that can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Passes bytes on to a port of 127.0.0.1, and closes everything once a client has sent `cut_at`, until `open`."""

    def __init__(self, port: int, cut_at: bytes) -> None:
        self._port, self._cut_at = port, cut_at
        self._cut = threading.Event()
        self._over = threading.Event()
        self._pairs: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._close()
        self._listening.close()

    def open(self) -> None:
        """Passes everything on from now on."""
        self._cut_at = b""
        self._cut.clear()

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                client, _ = self._listening.accept()
                if self._cut.is_set():
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
                self._pairs += [client, server]
                threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if watched and self._cut_at and self._cut_at in data:
                    self._cut.set()
                    self._close()
                    return
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _close(self) -> None:
        for one in self._pairs:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._pairs.clear()
