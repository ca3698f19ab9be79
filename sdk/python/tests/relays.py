"""Programs between client and server: a path that breaks, and a proxy for CONNECT."""

from __future__ import annotations

import select
import socket
import threading


class Relay:
    """Forwards connections to a port. With `connect`, it is an HTTP proxy that expects CONNECT first."""

    def __init__(self, port: int, connect: bool = False, refusal: bytes = b"") -> None:
        self.heads: list[str] = []
        self.connections = 0
        self._port, self._connect, self._refusal = port, connect, refusal
        self._silent: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """The existing connections forward nothing more and stay open."""
        self._silent |= self._open

    def stop(self) -> None:
        self._listener.close()
        for connection in list(self._open):
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._connect:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096) or b"\r\n\r\n"
                self.heads.append(head.decode())
                if self._refusal:
                    client.sendall(self._refusal)
                    client.close()
                    return
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            server = socket.create_connection(("127.0.0.1", self._port))
            self._open.add(client)
            pair = {client: server, server: client}
            while True:
                for ready in select.select(list(pair), [], [], 5)[0]:
                    data = ready.recv(65536)
                    if client in self._silent:
                        continue
                    if not data:
                        raise OSError
                    pair[ready].sendall(data)
        except (OSError, ValueError):
            client.close()
