"""The layer is what the functions run on, in AWS and in the sandbox."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra import layer
from tests.infra.calls import CLIENTS

LAMBDAS = layer.ROOT / "lambdas"
MAKES_A_CLIENT = CLIENTS | {"resource", "pages"}
"""boto3.client("x"), boto3.resource("x"), and the helpers of lambdas/rotation/aws/client.py."""


def services_used(source: str) -> set[str]:
    """Every service that a call names with a literal."""
    return {
        call.args[0].value
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", getattr(call.func, "attr", None)) in MAKES_A_CLIENT
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def test_carries_the_model_of_every_service_that_is_called_and_of_no_other() -> None:
    """A trimmed model fails only at run time, with UnknownServiceError, in a function that may be a rollback's."""
    used = set().union(*(services_used(path.read_text()) for path in LAMBDAS.rglob("*.py")))

    assert used == set(layer.SERVICES)


def test_sees_a_client_however_it_is_made() -> None:
    """The test above is worth what this function sees."""
    assert {"rds", "kms", "sns"} == services_used('client("rds")\nboto3.resource("kms").x\nself.pages("sns", "y")')


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer of this host, with a made-up authority."""
    directory = tmp_path_factory.mktemp("layer")
    ca = directory / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    layer.build("host", str(ca), directory / "out")
    return directory / "out"


@pytest.mark.slow
@pytest.mark.parametrize("platform", sorted(layer.PLATFORMS))
def test_is_at_most_12_mb_zipped(platform: str, built: Path, tmp_path: Path) -> None:
    out = built
    if platform != "host":
        out = tmp_path / "layer"
        layer.build(platform, str(built.parent / "ca.pem"), out)
    archive = tmp_path / "layer.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in out.rglob("*"):
            bundle.write(path, path.relative_to(out))

    assert archive.stat().st_size <= 12_000_000


@pytest.mark.slow
def test_works_without_anything_else_installed(built: Path) -> None:
    """Trimming must not take away what an import needs (botocore/docs is such a thing)."""
    code = "\n".join(
        [
            "import aws_lambda_powertools, aws_xray_sdk, boto3, pg8000.native, pydantic, pymysql",
            f"for service in {sorted(layer.SERVICES)}:",
            "    boto3.client(service, region_name='eu-central-1')",
            f"assert pydantic.__file__.startswith({str(built)!r})",
        ]
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path.insert(0, {str(built / 'python')!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.slow
def test_holds_nothing_but_dependencies_and_certificates(built: Path) -> None:
    assert {"python", "rds-ca"} == {path.name for path in built.iterdir()}
    assert not list(built.rglob("__pycache__"))
    assert (built / "rds-ca" / "ca-bundle.pem").read_text().startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.slow
def test_rds_authorities_come_from_the_pinned_package() -> None:
    """Without them no function could verify a database, and there is no code path that does not verify."""
    assert layer.certificates("aws").count("-----BEGIN CERTIFICATE-----") > 100


def test_refuses_a_file_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("hello")

    with pytest.raises(layer.LayerFailed, match=r"no\.pem is no file of PEM certificates"):
        layer.certificates(str(tmp_path / "no.pem"))


@pytest.mark.parametrize("lock", ["lambdas/requirements.txt", "package-lock.json"])
def test_locks_name_no_registry(lock: str) -> None:
    """A lock has to work wherever packages come from."""
    text = (layer.ROOT / lock).read_text()

    assert "index-url" not in text
    assert '"resolved"' not in text
