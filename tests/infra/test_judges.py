"""What other people's tools say about the template and the state machines."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra import embed
from infra.config import Config
from infra.layer import ROOT
from tests.infra.conftest import Template, empty_layer, new_app

pytestmark = pytest.mark.slow


def rendered(workflow: str) -> str:
    """The machine with every placeholder replaced by something of the right shape."""
    text = embed.as_text(embed.definition(workflow))
    values = {
        name: f"arn:aws:lambda:eu-central-1:123456789012:function:{name}:1" for name in embed.placeholders(text)
    } | {
        "LambdaInvoke": "arn:aws:states:::lambda:invoke",
        "StartExecutionAndWait": "arn:aws:states:::states:startExecution.waitForTaskToken",
        "RotateKeyArn": "arn:aws:states:eu-central-1:123456789012:stateMachine:x",
    }
    return embed.render(workflow, {name: values[name] for name in embed.placeholders(text)})


@pytest.mark.parametrize("workflow", ["rotate_key", "rotate_fleet"])
def test_asl_validator_accepts(workflow: str, tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(rendered(workflow))

    done = validate(tmp_path / "machine.json")

    assert 0 == done.returncode, done.stdout + done.stderr


def test_asl_validator_would_notice(tmp_path: Path) -> None:
    """A judge that accepts everything is none."""
    broken = rendered("rotate_key").replace('"Next": "Preflight"', '"Next": "Preflihgt"')
    (tmp_path / "machine.json").write_text(broken)

    assert 0 != validate(tmp_path / "machine.json").returncode


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    command = ["npx", "--no-install", "asl-validator", "--json-path", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("which", ["template", "example_template"])
def test_cfn_lint_accepts(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    template: Template = request.getfixturevalue(which)
    (tmp_path / "template.json").write_text(json.dumps(template))

    command = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", "eu-central-1"]
    # W3005: the CDK lets every function depend on its role, which the reference to the role implies as well.
    command += ["--ignore-checks", "W3005", "--template", str(tmp_path / "template.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stdout)


REASONS: dict[str, str] = {
    r"AwsSolutions-L1": "3.13 is what the layer is built and tested for; a newer runtime is a change of its own",
    r"AwsSolutions-SQS3": "it is the dead-letter queue",
    r"AwsSolutions-IAM4\[Policy::arn:.*AWSLambdaENIManagementAccess\]": "what a function needs to get into a VPC",
    r"AwsSolutions-IAM5\[Resource::\*\]": (
        "traces, log delivery, task tokens and account-wide reads know no resources; test_permissions.py checks each"
    ),
    r"AwsSolutions-IAM5\[Resource::arn:aws:lambda:.*:function:rds-key-rotation-[a-z-]+:\*\]": (
        "any published version of this function: running executions go on with older ones"
    ),
    r"AwsSolutions-IAM5\[Resource::arn:aws:(rds|kms|backup):[^:]*:[^:]*:[a-z-]+[:/]\*\]": (
        "databases opt in by tag: their names, keys and snapshots are not known when the stack is deployed; "
        "what changes or ends something is bound to names or tags besides"
    ),
    r"AwsSolutions-IAM5\[Resource::arn:aws:cloudwatch:[^:]*:[^:]*:(alarm:|dashboard/)\*\]": (
        "read only: whatever watches a database may have any name"
    ),
    (
        r"AwsSolutions-IAM5\[Resource::arn:aws:rds:.*:(db|cluster|(cluster-)?snapshot)"
        r":\*-rot-\*(-interim|-replica)?(-instance-\*)?\]"
    ): "names that only a rotation gives",
    r"AwsSolutions-IAM5\[Resource::arn:aws:kms:.*:alias/rds-rotation/\*\]": "names that only a rotation gives",
    r"AwsSolutions-IAM5\[Resource::arn:aws:scheduler:.*:schedule/rds-key-rotation-recovery/\*\]": (
        "one schedule per rotation, in a group of their own"
    ),
    r"AwsSolutions-IAM5\[Resource::arn:aws:states:.*:execution:rds-key-rotation-rotate-key:\*\]": (
        "executions of our own state machine"
    ),
    r"AwsSolutions-IAM5\[Resource::arn:aws:secretsmanager:.*:secret:rds-key-rotation/(login|endpoint)/\*\]": (
        "the operator's choice: login_secret_names and endpoint_secret_names of the configuration"
    ),
    r"AwsSolutions-IAM5\[Resource::arn:aws:secretsmanager:.*:secret:rds!db-\*\]": (
        "names that only RDS gives, to the secrets of the master passwords that it manages"
    ),
}


def test_cdk_nag_finds_nothing_that_is_not_justified(example_config: Config, tmp_path: Path) -> None:
    """Every finding is fixed or has its reason in REASONS; a reason that nothing needs any more has to go."""
    import aws_cdk as cdk
    from cdk_nag import AwsSolutionsChecks

    from infra.rotation_stack import RotationStack

    app = new_app(tmp_path / "out")
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(verbose=True))
    RotationStack(app, "RdsKeyRotation", config=example_config, layer_dir=empty_layer(tmp_path / "layer"))
    with pytest.raises(RuntimeError, match="Validation"):
        app.synth()  # the acknowledgments are ours, below: here everything has to be found
    report = json.loads((tmp_path / "out" / "validation-report.json").read_text())
    found = json.dumps(report)

    findings = set(re.findall(r"AwsSolutions-[A-Z0-9]+(?:\[[^\]]*\])?", found))
    unjustified = {one for one in findings if not any(re.fullmatch(pattern, one) for pattern in REASONS)}
    needless = {pattern for pattern in REASONS if not any(re.fullmatch(pattern, one) for one in findings)}
    assert (set(), set()) == (unjustified, needless)
