"""``python -m sandbox up | demo | bench | sweep``."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="An AWS on your laptop, for one stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run until interrupted")
    up.add_argument("--json", action="store_true", help="print one JSON line when ready, and nothing else")
    up.add_argument("--faults", metavar="FILE|JSON", help="what goes wrong, and where (sandbox/faults.py)")
    up.add_argument("--crossings", metavar="FILE", type=Path, help="note each invocation's calls and SQL statements")
    up.add_argument("--until-eof", action="store_true", help="also end when standard input ends")
    commands.add_parser("demo", add_help=False, help="rotate the key of a database under load, and report")
    commands.add_parser("bench", add_help=False, help="compare flows side by side")
    commands.add_parser(
        "sweep", add_help=False, help="let a rotation fail everywhere, in every way, and look at what is lost"
    )
    options, rest = parser.parse_known_args(argv)
    if options.command != "up":
        # Each has options of its own, and imports of its own.
        module = {"demo": "sandbox.demo", "bench": "sandbox.demo.bench", "sweep": "sandbox.sweep"}[options.command]
        return int(importlib.import_module(module).main(rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Bring a sandbox up and keep it until SIGINT or SIGTERM. 0 after a clean end, 1 if it did not start."""
    if not sys.platform.startswith("linux"):
        print("python -m sandbox runs on Linux only", file=sys.stderr)
        return 2
    ended = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda *_: _end(ended))
    if options.until_eof:
        threading.Thread(target=_await_eof, args=(ended,), daemon=True).start()

    from sandbox.cloudformation import DeploymentRefused
    from sandbox.faults import FaultInvalid, read_faults
    from sandbox.server import Sandbox, environment_of
    from sandbox.synthesis import SandboxFailed

    if not options.json:
        print("starting: layer, synthesis, deployment …", file=sys.stderr)
    try:
        faults = read_faults(options.faults) if options.faults else ()
        with Sandbox(faults=faults, crossings=options.crossings) as sandbox:
            _ready.set()
            # moto and the deployment are here to stay, and what comes after leaves few cycles: looking for those
            # all the time was a tenth of all the work.
            gc.collect()
            gc.freeze()
            gc.set_threshold(100_000, 50, 100)
            ready = sandbox.ready
            if options.json:
                print(ready.as_json(), flush=True)
            else:
                for name, value in environment_of(vars(ready)).items():
                    print(f"export {name}={value}")
                print(f"# DNS {ready.dns['host']}:{ready.dns['port']}, certificates {ready.ca_bundle}")
                print("# ready; interrupt to end", flush=True)
            ended.wait()
    except Interrupted:
        return 1
    except (SandboxFailed, DeploymentRefused, FaultInvalid) as failure:
        print(f"python -m sandbox: {failure}", file=sys.stderr)
        return 1
    return 0


class Interrupted(Exception):
    """Asked to end before it was ready."""


def _end(ended: threading.Event) -> None:
    first = not ended.is_set()
    ended.set()
    # A start takes seconds; nobody should have to wait for it only to see it end.
    if first and not _ready.is_set():
        raise Interrupted


_ready = threading.Event()


def _await_eof(ended: threading.Event) -> None:
    # Not through sys.stdin: the interpreter could not end while this waits.
    while os.read(0, 4096):
        pass
    ended.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
