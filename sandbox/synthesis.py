"""The assembly that is deployed: the real app, with the sandbox's own certificate authority in the layer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = "sandbox"
"""The environment in ``config/`` that is deployed."""


class SandboxFailed(Exception):
    """The sandbox cannot be started; the message says why, and what to do."""


class Synthesis:
    """Runs the real app, for a layer with the sandbox's authorities in it; in the background.

    Layer and assembly are kept under the hash of everything they are made from: to make them takes longer than all the
    rest of a start.
    """

    def __init__(self, work_dir: Path, ca_bundle: Path) -> None:
        self._work_dir, self._ca_bundle = work_dir, ca_bundle
        self._error: Exception | None = None
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = False
        self._thread = threading.Thread(target=self._work, name="synthesis", daemon=True)
        self._thread.start()

    def result(self) -> Path:
        """Wait for it. The assembly.

        Raises:
            SandboxFailed: one of the two failed; the message has its own words.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._work_dir / "cdk.out"

    def cancel(self) -> None:
        """End it, and wait: the directory must not be written to after it was removed."""
        self._cancelled = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join()

    def _work(self) -> None:
        try:
            assembly = self._work_dir / "cdk.out"
            # The same files under another name: nobody writes to them.
            shutil.copytree(self._assembly(), assembly, copy_function=_link)
            (authorities,) = assembly.glob("*/rds-ca/ca-bundle.pem")
            authorities.unlink()
            shutil.copy(self._ca_bundle, authorities)
        except Exception as error:
            self._error = error

    def _assembly(self) -> Path:
        """As `app.py` writes it, with a layer without authorities."""
        layer = self._layer()

        def make(into: Path) -> None:
            context = json.dumps({"env": ENVIRONMENT, "layer_dir": str(layer)})
            self._run("app.py", CDK_OUTDIR=str(into), CDK_CONTEXT_JSON=context, CDK_VALIDATION="false")

        return _kept("assembly", [layer.name.encode(), *map(_content, synthesis_inputs())], make)

    def _layer(self) -> Path:
        """As `infra.layer` builds it, without authorities."""

        def make(into: Path) -> None:
            none = into.with_suffix(".pem")
            none.write_text("-----BEGIN CERTIFICATE-----\n")
            self._run("-m", "infra.layer", "--platform", "host", "--ca", str(none), "--out", str(into))

        inputs = [ROOT / "lambdas" / "requirements.txt", ROOT / "infra" / "layer.py"]
        return _kept("layer", [*map(_content, inputs), sys.version.encode(), sys.executable.encode()], make)

    def _run(self, *arguments: str, **environment: str) -> None:
        if self._cancelled:
            raise SandboxFailed("cancelled")
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise SandboxFailed(f"python {' '.join(arguments[:2])} failed:\n{printed.strip()}")


def synthesis_inputs() -> list[Path]:
    """Every file of this checkout that the app reads, or that decides what it runs on."""
    single = ("app.py", "cdk.json", "package.json", "requirements.txt", "requirements-dev.txt")
    trees = ("config", "infra", "lambdas", "statemachine")
    below = (path for tree in trees for path in (ROOT / tree).rglob("*") if "__pycache__" not in path.parts)
    return sorted(path for path in [*(ROOT / name for name in single), *below] if path.is_file())


def _content(path: Path) -> bytes:
    return str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes()


def _kept(name: str, inputs: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """The directory that ``make`` makes from these inputs; made once. What nobody has used for a day is removed."""
    parent = ROOT / "build" / "sandbox"
    digest = hashlib.sha256()
    for one in inputs:
        digest.update(hashlib.sha256(one).digest())
    kept = parent / f"{name}-{digest.hexdigest()[:16]}"
    if not kept.is_dir():
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as temporary:
            make(fresh := Path(temporary, name))
            with suppress(OSError):  # another sandbox was faster
                fresh.rename(kept)
    os.utime(kept)
    for old in parent.glob(f"{name}-*"):
        if old.stat().st_mtime < time.time() - 86_400:
            shutil.rmtree(old, ignore_errors=True)
    return kept


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
