"""Where functions send their traces: Lambda has X-Ray's daemon beside each of them."""

import socket
import threading
from pathlib import Path


class TraceDaemon:
    """Writes down each datagram, one line or two of JSON as X-Ray's SDK sends it. Listens from the beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        host, port = self._socket.getsockname()
        self.address = f"{host}:{port}"
        self._thread = threading.Thread(target=self._listen, name="traces", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            while datagram := self._socket.recv(65_536):
                file.write(datagram + b"\n")
