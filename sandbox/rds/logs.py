"""The log of an instance's server as RDS offers it: a file for every hour, read a portion at a time.

What a portion is like was seen by RDS's customers, not here: it is cut at its last byte, also within a line, a remark
says so where the line is not complete, and the next portion goes on with that byte.
"""

from __future__ import annotations

import datetime as dt
import re
from contextlib import suppress
from dataclasses import dataclass

from sandbox.rds.errors import invalid_value, refuse
from sandbox.rds.operations import Operations, Params
from sandbox.rds.resources import Instance, View
from sandbox.rds.servers import Server

PORTION_BYTES = 4096
"""RDS's have up to 1 MB. No log of the sandbox grows to that, and whoever stops after one portion shall be seen."""
MOST_LINES = 10_000
CUT = " [Your log message was truncated]\n"
MARKER = re.compile(r"\d+:(\d+)")
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\U0010ffff]")


@dataclass(frozen=True)
class LogFile:
    """One hour of a server's log."""

    name: str
    server: Server
    begun_at: dt.datetime
    begin: int
    """Where it begins in the log, which the server writes without regard to hours."""


class Logs(Operations):
    """Somebody has to notice when an hour is over; what is written until then belongs to it."""

    def turn_log(self, instance: Instance) -> None:
        """Begin another file if this is another hour, or another server."""
        server, now = instance.server, self.context.clock.now()
        kind = self.engines.kinds.get(instance.engine)
        if server is None or kind is None or kind.log_file is None:
            return
        name = now.strftime(kind.log_file)
        # Whoever is being deleted may have lost it by now.
        with self.lock, suppress(FileNotFoundError):
            files = [file for file in instance.log_files if file.server is server]
            if not files or files[-1].name != name:
                instance.log_files = [*files, LogFile(name, server, now, server.log.stat().st_size if files else 0)]

    def views_of_log_files(self, params: Params) -> list[View]:
        files = self._log_files(self._ready(params))
        ends = [(after.begun_at, after.begin) for after in files[1:]]
        ends += [(self.context.clock.now(), file.server.log.stat().st_size) for file in files[-1:]]
        views: list[View] = [
            {"LogFileName": file.name, "LastWritten": int(last.timestamp() * 1000), "Size": end - file.begin}
            for file, (last, end) in zip(files, ends, strict=True)
        ]
        contained, since = params.get("FilenameContains") or "", params.get("FileLastWritten") or 0
        larger_than = -1 if params.get("FileSize") is None else params["FileSize"]
        return [
            view
            for view in views
            if contained in view["LogFileName"] and view["LastWritten"] >= since and view["Size"] > larger_than
        ]

    def portion_of_log(self, params: Params) -> View:
        """Without a marker the most recent lines; with one, those behind it, ``0`` being the beginning."""
        files = self._log_files(self._ready(params))
        name, marker = params["LogFileName"], params.get("Marker")
        at = next((at for at, file in enumerate(files) if file.name == name), None)
        if at is None:
            raise refuse("DBLogFileNotFoundFault", f"DBLog File: {name}, is not found on the DB instance")
        end = files[at + 1].begin if at + 1 < len(files) else None
        content = files[at].server.log.read_bytes()[files[at].begin : end]
        lines = min(int(params.get("NumberOfLines") or MOST_LINES), MOST_LINES)
        if marker is None:
            wanted = b"".join(content.splitlines(keepends=True)[-lines:])
            portion, there = wanted[-PORTION_BYTES:], len(content)
        else:
            begin = _offset(str(marker))
            wanted = b"".join(content[begin:].splitlines(keepends=True)[:lines])
            portion = wanted[:PORTION_BYTES]
            there = begin + len(portion)
        text = NOT_IN_XML.sub("?", portion.decode("utf8", "replace"))
        is_cut = marker is not None and len(wanted) > len(portion) and not portion.endswith(b"\n")
        return {
            "LogFileData": text + CUT if is_cut else text,
            "Marker": f"{at}:{there}",
            "AdditionalDataPending": there < len(content),
        }

    def _ready(self, params: Params) -> Instance:
        instance = self.instance(params["DBInstanceIdentifier"])
        if self.engines.kinds[instance.engine].log_file is None:
            raise refuse("InvalidAction", f"The sandbox does not have this of {instance.engine} yet.")
        if instance.status in ("creating", "deleting") or instance.server is None:
            raise refuse("DBInstanceNotReady", f"DB instance {instance.name} is not ready.")
        return instance

    def _log_files(self, instance: Instance) -> list[LogFile]:
        self.turn_log(instance)
        with self.lock:
            return list(instance.log_files)


def _offset(marker: str) -> int:
    if marker == "0":
        return 0
    found = MARKER.fullmatch(marker)
    if found is None:
        raise invalid_value(f"Invalid Marker: {marker}")
    return int(found[1])
