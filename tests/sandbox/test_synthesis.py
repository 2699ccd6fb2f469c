"""The assembly is kept from one sandbox to the next: a change that it does not notice would not be tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sandbox.synthesis import ENVIRONMENT, ROOT, synthesis_inputs

RUN_AND_TELL = """
import os, runpy, sys

def tell(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.add(os.path.abspath(os.fsdecode(arguments[0])))

opened = set()
sys.addaudithook(tell)
try:
    runpy.run_path("app.py", run_name="__main__")
finally:
    print("\\n".join(sorted(opened)))
"""
NOT_OURS = (".venv/", "node_modules/", "build/", ".git/")


def test_the_app_reads_nothing_else(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "python").mkdir(parents=True)
    (layer / "rds-ca").mkdir()
    (layer / "rds-ca" / "ca-bundle.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    context = json.dumps({"env": ENVIRONMENT, "layer_dir": str(layer)})
    environment = {"CDK_OUTDIR": str(tmp_path / "cdk.out"), "CDK_CONTEXT_JSON": context, "CDK_VALIDATION": "false"}

    told = subprocess.run(
        [sys.executable, "-c", RUN_AND_TELL],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )

    opened = {Path(line) for line in told.stdout.splitlines() if Path(line).is_file()}
    read = {path.relative_to(ROOT).as_posix() for path in opened if path.is_relative_to(ROOT)}
    read = {name for name in read if not name.startswith(NOT_OURS) and "__pycache__" not in name}
    assert {"app.py", f"config/{ENVIRONMENT}.yaml", "statemachine/rotate_key.asl.json"} <= read
    assert read <= {path.relative_to(ROOT).as_posix() for path in synthesis_inputs()}
