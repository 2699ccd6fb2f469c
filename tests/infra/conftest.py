"""One synth per session: the CDK takes seconds, the tests that look at its template do not."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.config import Config, load

if TYPE_CHECKING:
    import aws_cdk as cdk

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")

Template = dict[str, Any]


def empty_layer(directory: Path) -> Path:
    (directory / "python").mkdir(parents=True)
    (directory / "python" / "nothing.txt").write_text("the template does not depend on what is in the layer")
    return directory


def new_app(out: Path, **more: Any) -> "cdk.App":
    """An app with the feature flags of cdk.json: without them another template would be judged than is deployed."""
    import aws_cdk as cdk  # late: tests that need no template do not pay for it

    from app import feature_flags

    return cdk.App(outdir=str(out), context=feature_flags() | more, builtin_cloud_formation_validation=False)


def synthesized(config: Config, tmp: Path) -> Template:
    from aws_cdk.assertions import Template as CdkTemplate

    from infra.rotation_stack import RotationStack

    stack = RotationStack(new_app(tmp / "out"), "RdsKeyRotation", config=config, layer_dir=empty_layer(tmp / "layer"))
    return dict(CdkTemplate.from_stack(stack).to_json())


@pytest.fixture(scope="session")
def sandbox_config() -> Config:
    return load("sandbox")


@pytest.fixture(scope="session")
def example_config() -> Config:
    return load("example")


@pytest.fixture(scope="session")
def template(sandbox_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The stack without a VPC, as the sandbox deploys it."""
    return synthesized(sandbox_config, tmp_path_factory.mktemp("sandbox"))


@pytest.fixture(scope="session")
def example_template(example_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The stack in a VPC whose endpoints it makes."""
    return synthesized(example_config, tmp_path_factory.mktemp("example"))
