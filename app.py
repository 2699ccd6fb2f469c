"""The CDK app. The CLI runs it (``npx cdk synth -c env=NAME``), and so may anything that sets CDK_OUTDIR."""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")

import aws_cdk as cdk

from infra.config import ConfigInvalid, load
from infra.rotation_stack import RotationStack

ROOT = Path(__file__).resolve().parent
STACK = "RdsKeyRotation"


def feature_flags() -> dict[str, Any]:
    """What the CLI passes from cdk.json; without the CLI the template would otherwise be another one."""
    context: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    return context


def main() -> int:
    # Context of the CLI and of CDK_CONTEXT_JSON wins over what is given here.
    app = cdk.App(
        context=feature_flags(),
        analytics_reporting=False,
        # The built-in validator takes as long as everything else; the CLI and one test want it, other callers do not.
        builtin_cloud_formation_validation="CDK_CLI_VERSION" in os.environ,
    )
    env = app.node.try_get_context("env") or "example"
    layer_dir = Path(app.node.try_get_context("layer_dir") or ROOT / "build" / "layer")
    if not (layer_dir / "python").is_dir():
        print(f"app.py: {layer_dir} is no layer: run `make layer`", file=sys.stderr)
        return 1
    try:
        config = load(env)
    except ConfigInvalid as invalid:
        print(f"app.py: {invalid}", file=sys.stderr)
        return 1
    RotationStack(app, STACK, config=config, layer_dir=layer_dir)
    app.synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
