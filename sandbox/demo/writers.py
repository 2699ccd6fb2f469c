"""Applications at work: writers that note down every commit they were told of, and a reader.

They run in a few processes of a few threads each (``python -m sandbox.demo.writers``, one `Job` as a line on standard
input; the end of the input ends them). Three kinds of writers, because a fence that stops one of them stops nobody:

* ``plain``: ordinary transactions
* ``read-write``: transactions that say that they write (``BEGIN READ WRITE``)
* ``option-off``: sessions that turn off what asks them not to write (``-c default_transaction_read_only=off``,
  ``SET SESSION tx_read_only = OFF``)

And, only where it is asked for, a latecomer: its session sleeps after the server has let it in and before it is in
pg_stat_activity (``-c post_auth_delay``), until a signal wakes it. Then it commits one row, and logs in again.

A commit is written down only after the server has said so: one line
``<monotonic seconds> <database, percent-encoded> <uuid> <writer> <kind>``. Where the answer to a COMMIT did not arrive,
the writer tries the same row again: a duplicate key then says that it was committed.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sandbox.demo import dialects
from sandbox.demo.account import Account
from sandbox.demo.connection import Finder, Login, finder, hang_up, trusting
from sandbox.demo.dialects import KINDS, LATE, Dialect

LATECOMER = 1000
"""Its number among the writers."""
LATE_AGAIN_SECONDS = 0.5
BACK_OFF_SECONDS = 0.02
SETTLE_SECONDS = 20.0
"""So long may a writer that was told to stop still try to find out about its last commit."""

NOTED_GAP_SECONDS = 0.1
READS_PER_SECOND = 50.0
PROCESSES = 2


@dataclass(frozen=True)
class Job:
    """What one process of writers does."""

    account: str
    databases: tuple[str, ...]
    user: str
    password: str
    acks: str
    ambiguous: str
    writers: tuple[int, ...]
    rate: float
    """Transactions per second of each writer; 0: as fast as it can."""
    record: str | None = None
    secret: str | None = None
    reads: bool = False
    latecomer: bool = False
    engine: str = "postgres"
    back_off_seconds: float = BACK_OFF_SECONDS


@dataclass(frozen=True)
class Ack:
    """One acknowledged commit."""

    at: float
    database: str
    id: uuid.UUID
    writer: int
    kind: str

    def to_line(self) -> str:
        return f"{self.at:.6f} {quote(self.database, safe='')} {self.id} {self.writer} {self.kind}\n"

    @classmethod
    def from_line(cls, line: str) -> "Ack":
        at, database, row, writer, kind = line.split()
        return cls(float(at), unquote(database), uuid.UUID(row), int(writer), kind)


def read_acks(path: Path) -> list[Ack]:
    """All acknowledged commits, in the order of their acknowledgement."""
    with path.open() as lines:
        return sorted((Ack.from_line(line) for line in lines), key=lambda ack: ack.at)


class _Notebook:
    """A file that several processes append whole lines to."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, line: str) -> None:
        os.write(self._descriptor, line.encode())


class _Pool:
    """One long-lived connection per database, for one thread. Follows its name within the name's TTL."""

    def __init__(
        self, dialect: Dialect, finder: Finder, login: Login, trust: Any, gates: dict[str, "_Gate"], kind: str
    ) -> None:
        self._dialect, self._finder, self._login, self._trust = dialect, finder, login, trust
        self._gates, self._kind = gates, kind
        self._open: dict[str, tuple[Any, float]] = {}

    def connection(self, database: str) -> Any:
        connection, good_until = self._open.get(database, (None, 0.0))
        if connection is not None and time.monotonic() < good_until:
            return connection
        self.discard(database)
        with self._gates[database]:
            endpoint = self._finder.find()
            connection = self._dialect.connect(endpoint, database, self._login, self._trust, kind=self._kind)
        self._open[database] = (connection, time.monotonic() + endpoint.ttl_seconds)
        return connection

    def discard(self, database: str) -> None:
        connection, _ = self._open.pop(database, (None, 0.0))
        if connection is not None:
            hang_up(connection)

    def close(self) -> None:
        for database in list(self._open):
            self.discard(database)


class _Gate:
    """While a database refuses connections, one thread of the process at a time asks whether it still does."""

    def __init__(self, back_off_seconds: float) -> None:
        self._back_off_seconds = back_off_seconds
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, refused: object, *_: object) -> None:
        if refused is not None:
            time.sleep(self._back_off_seconds)
        self._lock.release()


@dataclass
class _Summary:
    ambiguous: int = 0
    settled: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    read_gaps: list[tuple[float, float]] = field(default_factory=list)
    reads: int = 0


class _Writer:
    def __init__(
        self, number: int, job: Job, pool: _Pool, acks: _Notebook, doubts: _Notebook, summary: _Summary
    ) -> None:
        self.number, self.kind = number, KINDS[number % len(KINDS)]
        self._job, self._pool, self._acks, self._doubts, self._summary = job, pool, acks, doubts, summary
        self._dialect = dialects.of(job.engine)

    def run(self, stop: threading.Event) -> None:
        pause = 1 / self._job.rate if self._job.rate else 0.0
        due, sequence = time.monotonic(), 0
        while not stop.is_set():
            self._commit(sequence, self._job.databases[(sequence + self.number) % len(self._job.databases)], stop)
            sequence += 1
            now = time.monotonic()
            # What an outage held up is not made up for: a burst afterwards would hide it in an average.
            due = max(due + pause, now)
            stop.wait(due - now)
        self._pool.close()

    def _commit(self, sequence: int, database: str, stop: threading.Event) -> None:
        row = uuid.uuid4()
        write = self._dialect.write(self.kind, str(row), self.number, sequence)
        in_doubt, give_up_at = False, float("inf")
        while time.monotonic() < give_up_at:
            if stop.is_set():
                if not in_doubt:
                    return
                give_up_at = min(give_up_at, time.monotonic() + SETTLE_SECONDS)
            asked = False
            try:
                connection = self._pool.connection(database)
                connection.run(write)
                asked = True
                connection.run("COMMIT")
            except Exception as error:
                code = self._dialect.code(error)
                if code == self._dialect.duplicate_key and in_doubt:
                    self._pool.discard(database)
                    self._summary.settled += 1
                    break
                self._summary.errors[code or type(error).__name__] += 1
                if asked and not in_doubt:
                    in_doubt = True
                    self._summary.ambiguous += 1
                    self._doubts.note(Ack(time.monotonic(), database, row, self.number, self.kind).to_line())
                self._pool.discard(database)
                time.sleep(BACK_OFF_SECONDS)
                continue
            break
        else:
            return
        self._acks.note(Ack(time.monotonic(), database, row, self.number, self.kind).to_line())


def _come_late(job: Job, find: Finder, login: Login, trust: Any, acks: _Notebook, stop: threading.Event) -> None:
    """Log in, sleep until woken, commit one row, and again: also who was woken too early is on the way at the fence."""
    dialect, database = dialects.of(job.engine), job.databases[0]
    while not stop.is_set():
        row = uuid.uuid4()
        try:
            connection = dialect.connect(find.find(), database, login, trust, kind=LATE)
            connection.run(dialect.write_late(str(row), LATECOMER))
        except Exception:
            time.sleep(LATE_AGAIN_SECONDS)
            continue
        acks.note(Ack(time.monotonic(), database, row, LATECOMER, LATE).to_line())
        hang_up(connection)


def _read(job: Job, pool: _Pool, summary: _Summary, stop: threading.Event) -> None:
    """Read from the first database again and again; note for how long that was impossible."""
    last = time.monotonic()
    while not stop.wait(1 / READS_PER_SECOND):
        try:
            pool.connection(job.databases[0]).run("SELECT sum(n) FROM counters")
        except Exception:
            pool.discard(job.databases[0])
            time.sleep(BACK_OFF_SECONDS)
            continue
        now = time.monotonic()
        if now - last > NOTED_GAP_SECONDS:
            summary.read_gaps.append((last, now))
        last = now
        summary.reads += 1
    pool.close()


def _work(job: Job, stop: threading.Event) -> _Summary:
    """Do a job until told to stop, and see every writer to its end."""
    account = Account(**json.loads(job.account))
    trust, login = trusting(account.ca_bundle), Login(job.user, job.password)
    dialect = dialects.of(job.engine)
    find = finder(account, record=job.record, secret=job.secret, port=dialect.port)
    gates = {database: _Gate(job.back_off_seconds) for database in job.databases}
    acks, doubts = _Notebook(job.acks), _Notebook(job.ambiguous)
    summaries, threads = [], []

    def pool(kind: str) -> _Pool:
        return _Pool(dialect, find, login, trust, gates, kind)

    for number in job.writers:
        summaries.append(_Summary())
        writer = _Writer(number, job, pool(KINDS[number % len(KINDS)]), acks, doubts, summaries[-1])
        threads.append(threading.Thread(target=writer.run, args=(stop,)))
    if job.reads:
        summaries.append(_Summary())
        threads.append(threading.Thread(target=_read, args=(job, pool(KINDS[0]), summaries[-1], stop)))
    if job.latecomer:
        # Nobody waits for it: it may sleep when all the others have ended.
        threading.Thread(target=_come_late, args=(job, find, login, trust, acks, stop), daemon=True).start()
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    total = _Summary()
    for summary in summaries:
        total.ambiguous += summary.ambiguous
        total.settled += summary.settled
        total.errors += summary.errors
        total.read_gaps += summary.read_gaps
        total.reads += summary.reads
    return total


def _main() -> int:
    fields = json.loads(sys.stdin.readline())
    job = Job(**fields | {"databases": tuple(fields["databases"]), "writers": tuple(fields["writers"])})
    stop = threading.Event()

    def await_end() -> None:
        sys.stdin.read()  # until whoever started this closes it, or is gone
        stop.set()

    threading.Thread(target=await_end, daemon=True).start()
    print(json.dumps(vars(_work(job, stop))), flush=True)
    return 0


@dataclass(frozen=True)
class Stopped:
    """What the writers say about themselves at the end."""

    ambiguous: int
    settled: int
    errors: dict[str, int]
    read_gaps: list[tuple[float, float]]
    reads: int


class Writers:
    """The processes, seen from whoever started them. Stopping twice does nothing."""

    def __init__(
        self,
        account: Account,
        *,
        databases: tuple[str, ...],
        login: Login,
        acks: Path,
        writers: int,
        rate: float,
        engine: str = "postgres",
        record: str | None = None,
        secret: str | None = None,
        reads: bool = True,
        latecomer: bool = False,
        processes: int = PROCESSES,
        back_off_seconds: float = BACK_OFF_SECONDS,
    ) -> None:
        """``processes``: 0 for threads of this one: a sweep has its interpreter already, and needs no great load.

        ``back_off_seconds``: how long they wait before they ask again whether a database lets them in.
        """
        if latecomer and not dialects.of(engine).has_latecomers:
            raise ValueError(f"{engine} has no latecomers")
        acks.write_text("")
        self.acks = acks
        self._processes: list[subprocess.Popen[str]] = []
        self._stopped: Stopped | None = None
        self._seen, self._offset = 0, 0
        self._here: list[Future[_Summary]] = []
        self._stop_here = threading.Event()
        parts = min(max(processes, 1), writers)
        shares = [tuple(range(first, writers, parts)) for first in range(parts)]
        for index, share in enumerate(shares):
            job = Job(
                account=account.to_json(), databases=databases, user=login.user, password=login.password,
                acks=str(acks), ambiguous=f"{acks}.ambiguous", writers=share, rate=rate, record=record, secret=secret,
                reads=reads and index == 0, latecomer=latecomer and index == 0, engine=engine,
                back_off_seconds=back_off_seconds,
            )  # fmt: skip
            if processes == 0:
                self._here.append(ThreadPoolExecutor(1).submit(_work, job, self._stop_here))
                continue
            process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.demo.writers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # An interrupt at the terminal is for the demonstration, which then stops its writers.
                start_new_session=True,
                cwd=Path(__file__).resolve().parents[2],
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
            self._processes.append(process)

    def acknowledged(self) -> int:
        """How many commits have been acknowledged so far."""
        with self.acks.open("rb") as lines:
            lines.seek(self._offset)
            new = lines.read()
        self._offset += len(new)
        self._seen += new.count(b"\n")
        return self._seen

    def stop(self) -> Stopped:
        """End all writers, after each has found out about its last commit.

        Raises:
            RuntimeError: a process of writers died.
        """
        if self._stopped is not None:
            return self._stopped
        self._stop_here.set()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        said: list[dict[str, Any]] = [vars(one.result()) for one in self._here]
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.read()
            if process.wait(SETTLE_SECONDS) or not line:
                raise RuntimeError("a process of writers died")
            said.append(json.loads(line))
        errors: Counter[str] = Counter()
        for one in said:
            errors.update(one["errors"])
        self._stopped = Stopped(
            ambiguous=sum(one["ambiguous"] for one in said),
            settled=sum(one["settled"] for one in said),
            errors=dict(errors),
            read_gaps=[(begin, end) for one in said for begin, end in one["read_gaps"]],
            reads=sum(one["reads"] for one in said),
        )
        return self._stopped


if __name__ == "__main__":
    raise SystemExit(_main())
