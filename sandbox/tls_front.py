"""The network in front of the servers: TLS, an address for every endpoint, and the place where a network is cut.

The wheel's PostgreSQL is built without SSL, and it listens on a unix socket only. A *front* is what a client reaches:
it answers SSLRequest, terminates TLS with a certificate for the RDS name, and forwards to the socket. It refuses plain
connections as ``rds.force_ssl`` does. MariaDB does all that itself; its front tells it who the client is, and passes
everything on. All fronts live in one separate process, so that their work does not take turns with the sandbox's own.
"""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

SSL_REQUEST = 80877103
GSS_REQUEST = 80877104
CANCEL_REQUEST = 80877102
LONGEST_STARTUP_PACKET = 10_000
HIGH_WATER = 256 * 1024

Cut = Literal["silence", "reset"]


class AddressBlock:
    """Loopback addresses of one sandbox: a /24 of 127/8 that no other sandbox on this machine uses."""

    def __init__(self, seed: int | None = None) -> None:
        # A lock that the kernel lets go of when the process dies: the abstract socket name of the block.
        choose = random.Random(seed)
        for _ in range(200):
            second, third = 77, choose.randrange(0, 256)
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0rds-key-rotation-sandbox-127.{second}.{third}")
            except OSError:
                claim.close()
                continue
            self._claim = claim
            self._prefix = f"127.{second}.{third}"
            self._given: set[str] = set()
            self._lock = threading.Lock()
            return
        raise RuntimeError("no free block of loopback addresses")

    def take(self, port: int) -> str:
        """An address on which ``port`` can be bound; not given again before it is returned."""
        with self._lock:
            for last in range(1, 255):
                address = f"{self._prefix}.{last}"
                if address not in self._given and _can_bind(address, port):
                    self._given.add(address)
                    return address
        raise RuntimeError(f"no free address in {self._prefix}.0/24")

    def give_back(self, address: str) -> None:
        with self._lock:
            self._given.discard(address)

    def close(self) -> None:
        self._claim.close()


def _can_bind(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


class CertificateAuthority:
    """The sandbox's CA: signs one certificate per endpoint. ``bundle`` is what clients verify against."""

    def __init__(self, directory: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.bundle = directory / "ca-bundle.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "RDS sandbox root CA")])
        # One period for all certificates, from the beginning of the sandbox: later its clock is ahead of the real one,
        # which OpenSSL reads, and a certificate of "now" would not be valid yet.
        self._validity = start, end = _validity()
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name).issuer_name(self._name).public_key(self._key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        self._identifier = identifier
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str) -> Path:
        """A PEM file with a new key and a certificate for these names (or addresses)."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        start, end = self._validity
        certificate = (
            x509.CertificateBuilder()
            # A common name has 64 characters at most; clients look at the alternative names.
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        path = self.directory / f"{certificate.serial_number:x}.pem"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def _alternative(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _validity() -> tuple[dt.datetime, dt.datetime]:
    now = dt.datetime.now(dt.UTC)
    return now - dt.timedelta(days=1), now + dt.timedelta(days=3650)


class TlsFront:
    """All endpoints, in a process of their own. Thread-safe; every method returns when the effect is there."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.tls_front", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._control = ours.makefile("rw")
        self._socket = ours
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(
        self, key: str, address: str, port: int, certificate: Path, target: Path, *, require_tls: bool = True
    ) -> None:
        """Serve an endpoint of PostgreSQL: forward ``address:port`` to the unix socket ``target``.

        Opening a ``key`` again changes its certificate, target or rule for new connections; those that are open go on.

        Raises:
            OSError: the address cannot be bound.
        """
        self._ask(
            do="open", key=key, address=address, port=port, certificate=str(certificate), target=str(target),
            require_tls=require_tls,
        )  # fmt: skip

    def relay(self, key: str, address: str, port: int, target: tuple[str, int]) -> None:
        """Serve an endpoint of a server that terminates TLS: pass ``address:port`` on to the address ``target``.

        The server is told who the client is, by the PROXY protocol, from the target's own address: it can believe it.
        Opening a ``key`` again is as with :meth:`open`.

        Raises:
            OSError: the address cannot be bound.
        """
        self._ask(do="relay", key=key, address=address, port=port, target=target)

    def close_endpoint(self, key: str) -> None:
        """Stop serving an endpoint and end its connections. Unknown keys are ignored."""
        self._ask(do="close", key=key)

    def cut(self, key: str, how: Cut = "silence") -> None:
        """Cut the network to an endpoint.

        ``silence``: nothing gets through in either direction and nobody is told; new connections hang.
        ``reset``: connections are reset and new ones refused.
        """
        self._ask(do="cut", key=key, how=how)

    def restore(self, key: str) -> None:
        """End a cut. What was under way when a ``silence`` began arrives now."""
        self._ask(do="restore", key=key)

    def bar(self, key: str) -> None:
        """Refuse every connection from now on; those that were made before go on, whatever they have said yet.

        It stays so when the endpoint is closed, cut, or opened again; an endpoint that is not there yet can be barred.
        """
        self._ask(do="bar", key=key)

    def admit(self, key: str) -> None:
        """The end of :meth:`bar`."""
        self._ask(do="admit", key=key)

    def hang_up(self, key: str) -> None:
        """Reset whoever is connected and has no session yet: the server that he would have talked to is about to end.

        Only the front has met him, so nothing else would keep him from being let in by the next one. Unknown keys are
        ignored.
        """
        self._ask(do="hang up", key=key)

    def connections(self, key: str) -> int:
        """How many clients are connected to an endpoint."""
        return int(self._ask(do="count", key=key))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        with contextlib.suppress(OSError):
            self._control.close()
        self._socket.close()

    def _ask(self, **request: Any) -> Any:
        with self._lock:
            self._control.write(json.dumps(request) + "\n")
            self._control.flush()
            line = self._control.readline()
        if not line:
            raise OSError("the process of the TLS fronts has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer["ok"]


# -- in the process of the fronts --------------------------------------------------------------------------------------


class _Half(asyncio.Protocol):
    """One side of a connection: what arrives here leaves on the other side."""

    other: "_Half | None" = None
    transport: asyncio.Transport | None = None

    def __init__(self, ended: Callable[[], None] | None = None) -> None:
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other and self.other.transport:
            self.other.transport.close()
        if self._ended:
            self._ended()

    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other and self.other.transport and not self.other.held:
            self.other.transport.resume_reading()

    held = False

    def hold(self, held: bool) -> None:
        self.held = held
        if self.transport and not self.transport.is_closing():
            with contextlib.suppress(RuntimeError):
                (self.transport.pause_reading if held else self.transport.resume_reading)()


class _Doorman(asyncio.Protocol):
    """Reads what comes before a session, and decides."""

    def __init__(self, endpoint: "_Endpoint") -> None:
        self.endpoint = endpoint
        self.transport: asyncio.Transport | None = None
        self._received = b""
        self._deciding = False
        self._knocked_in_silence = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.endpoint.arrived.add(self)
        if self.endpoint.silent:
            self._knocked_in_silence = True
            transport.pause_reading()
        elif self.endpoint.barred:
            # The kernel had let him in, and nobody had met him yet.
            _reset(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.endpoint.arrived.discard(self)

    def hold(self, held: bool) -> None:
        if self.transport and not held and self.endpoint.barred and self._knocked_in_silence:
            # What arrives only now is no connection that was made before.
            _reset(self.transport)
        elif self.transport and not self._deciding:
            (self.transport.pause_reading if held else self.transport.resume_reading)()

    def _decide(self, step: Any) -> None:
        self._deciding = True
        self.endpoint.spawn(step)

    async def _server(self, client: _Half) -> _Half | None:
        """Connect to the server; None, and the client is cut off, when it does not listen."""
        server = _Half()
        server.other, client.other = client, server
        # The client may speak first, or be gone, before the server is there.
        try:
            await self._connect(server)
        except OSError:
            # As a port that nobody listens on: RDS's host resets it while the engine is down.
            assert self.transport
            self.transport.abort()
            return None
        return server

    async def _connect(self, server: _Half) -> None:
        raise NotImplementedError

    def _joined(self, client: _Half, server: _Half) -> None:
        assert client.transport
        assert server.transport
        client.other, server.other = server, client
        self.endpoint.arrived.discard(self)
        pair = (client, server)
        self.endpoint.pairs.add(pair)
        client._ended = server._ended = lambda: self.endpoint.pairs.discard(pair)
        for half in pair:
            if half.transport and half.transport.is_closing():
                half.connection_lost(None)
            else:
                half.hold(self.endpoint.silent)


class _PostgresDoorman(_Doorman):
    """The client speaks first, in plain words, and TLS is the front's."""

    def data_received(self, data: bytes) -> None:
        assert self.transport
        self._received += data
        if self._deciding or len(self._received) < 8:
            return
        length, code = struct.unpack_from("!II", self._received)
        if length > LONGEST_STARTUP_PACKET:
            self.transport.abort()
        elif code == SSL_REQUEST:
            # Anything sent before the handshake did not come through TLS and must not be believed (CVE-2021-23214).
            if len(self._received) > 8:
                self.transport.abort()
            else:
                self._decide(self._secure())
        elif code == GSS_REQUEST:
            self._received = b""
            self.transport.write(b"N")
        elif len(self._received) >= length:
            if code == CANCEL_REQUEST or not self.endpoint.require_tls:
                self._decide(self._forward_plainly())
            else:
                self._refuse(self._received[8:length])

    async def _connect(self, server: _Half) -> None:
        assert isinstance(self.endpoint.target, str)
        await asyncio.get_running_loop().create_unix_connection(lambda: server, self.endpoint.target)

    def _refuse(self, startup: bytes) -> None:
        assert self.transport
        words = startup.split(b"\0")
        options = {
            key.decode("utf8", "replace"): value.decode("utf8", "replace")
            for key, value in zip(words[::2], words[1::2], strict=False)
        }
        user = options.get("user", "")
        message = (
            f'no pg_hba.conf entry for host "{self.transport.get_extra_info("peername")[0]}", user "{user}", '
            f'database "{options.get("database", user)}", no encryption'
        )
        fields = b"".join(
            kind + text.encode() + b"\0"
            for kind, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", "28000"), (b"M", message))
        )
        self.transport.write(b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0")
        self.transport.close()

    async def _secure(self) -> None:
        assert self.transport
        client = _Half()
        server = await self._server(client)
        if server is None or server.transport is None:
            return
        server.transport.pause_reading()
        # The client's first TLS record must find the TLS layer, not this protocol.
        self.transport.pause_reading()
        self.transport.write(b"S")
        try:
            secure = await asyncio.get_running_loop().start_tls(
                self.transport, client, self.endpoint.tls, server_side=True, ssl_handshake_timeout=20
            )
        except (OSError, ConnectionError, asyncio.CancelledError):
            server.transport.abort()
            return
        if secure is None:
            server.transport.abort()
            return
        client.connection_made(secure)
        self._joined(client, server)

    async def _forward_plainly(self) -> None:
        assert self.transport
        client = _Half()
        self.transport.pause_reading()
        server = await self._server(client)
        if server is None or server.transport is None:
            return
        client.connection_made(self.transport)
        self.transport.set_protocol(client)
        server.transport.write(self._received)
        self._joined(client, server)


class _Usher(_Doorman):
    """The server speaks first, and TLS is between it and the client: there is nothing to decide."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.endpoint.silent:
            self._let_in()

    def hold(self, held: bool) -> None:
        super().hold(held)
        if not held and not self._deciding:
            self._let_in()

    def _let_in(self) -> None:
        if self.transport and not self.transport.is_closing():
            self._decide(self._lead())

    async def _connect(self, server: _Half) -> None:
        assert not isinstance(self.endpoint.target, str)
        host, port = self.endpoint.target
        await asyncio.get_running_loop().create_connection(lambda: server, host, port, local_addr=(host, 0))

    async def _lead(self) -> None:
        assert self.transport
        client = _Half()
        self.transport.pause_reading()
        server = await self._server(client)
        if server is None or server.transport is None:
            return
        (who, their_port), (ours, our_port) = (self.transport.get_extra_info(end) for end in ("peername", "sockname"))
        server.transport.write(f"PROXY TCP4 {who} {ours} {their_port} {our_port}\r\n".encode())
        client.connection_made(self.transport)
        self.transport.set_protocol(client)
        self._joined(client, server)


class _Endpoint:
    def __init__(self) -> None:
        self.address: tuple[str, int] = ("", 0)
        self.target: str | tuple[str, int] = ""
        self.require_tls = True
        self.tls: ssl.SSLContext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.silent = False
        self.is_cut = False
        self.barred = False
        self.pairs: set[tuple[_Half, _Half]] = set()
        self.arrived: set[_Doorman] = set()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, step: Any) -> None:
        task = asyncio.get_running_loop().create_task(step)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def listen(self) -> None:
        """Let clients come, unless they are barred."""
        if self._listener or self.barred:
            return
        doorman = _PostgresDoorman if isinstance(self.target, str) else _Usher
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: doorman(self), *self.address, reuse_address=True
        )

    def refuse(self) -> None:
        """Let nobody come. Whoever has goes on."""
        if self._listener:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        self.refuse()
        self.hang_up()
        for pair in list(self.pairs):
            for half in pair:
                if half.transport:
                    _reset(half.transport)

    def hang_up(self) -> None:
        for doorman in list(self.arrived):
            if doorman.transport:
                doorman.transport.abort()

    def silence(self, silent: bool) -> None:
        self.silent = silent
        for pair in list(self.pairs):
            for half in pair:
                half.hold(silent)
        for doorman in list(self.arrived):
            doorman.hold(silent)


def _reset(transport: asyncio.Transport) -> None:
    """End a connection as a broken network does, not as a server that says goodbye."""
    if raw := transport.get_extra_info("socket"):
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Fronts:
    def __init__(self) -> None:
        self.endpoints: dict[str, _Endpoint] = {}
        self.barred: set[str] = set()

    async def do(self, request: dict[str, Any]) -> Any:
        key = request["key"]
        match request["do"]:
            case "open":
                tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls.minimum_version = ssl.TLSVersion.TLSv1_2
                tls.load_cert_chain(request["certificate"])
                endpoint = self.endpoints.get(key) or _Endpoint()
                endpoint.require_tls, endpoint.tls = request["require_tls"], tls
                await self._serve(endpoint, request)
            case "relay":
                await self._serve(self.endpoints.get(key) or _Endpoint(), request)
            case "close":
                if key in self.endpoints:
                    self.endpoints.pop(key).close()
            case "cut" if request["how"] == "silence":
                self.endpoints[key].silence(True)
            case "cut":
                self.endpoints[key].is_cut = True
                self.endpoints[key].close()
            case "restore":
                self.endpoints[key].silence(False)
                self.endpoints[key].is_cut = False
                await self.endpoints[key].listen()
            case "bar":
                self.barred.add(key)
                if key in self.endpoints:
                    self.endpoints[key].barred = True
                    self.endpoints[key].refuse()
            case "admit":
                self.barred.discard(key)
                if key in self.endpoints:
                    self.endpoints[key].barred = False
                    if not self.endpoints[key].is_cut:
                        await self.endpoints[key].listen()
            case "hang up":
                if key in self.endpoints:
                    self.endpoints[key].hang_up()
            case "count":
                return len(self.endpoints[key].pairs)
        return None

    async def _serve(self, endpoint: _Endpoint, request: dict[str, Any]) -> None:
        endpoint.address, endpoint.target = (request["address"], request["port"]), request["target"]
        endpoint.barred, endpoint.is_cut = request["key"] in self.barred, False
        await endpoint.listen()
        self.endpoints[request["key"]] = endpoint

    async def serve(self, control: int) -> None:
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=control))
        # The end of the control connection is the end of the sandbox.
        while line := await reader.readline():
            try:
                answer: dict[str, Any] = {"ok": await self.do(json.loads(line))}
            except (OSError, ssl.SSLError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(answer).encode() + b"\n")
        for endpoint in self.endpoints.values():
            endpoint.close()


if __name__ == "__main__":
    asyncio.run(_Fronts().serve(int(sys.argv[1])))
