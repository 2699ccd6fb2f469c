"""One Task of a state machine as a Lambda function with a role of its own."""

import json

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.config import Config
from infra.network import Network
from infra.tasks import Grant, Task

RUNTIME = lambda_.Runtime.PYTHON_3_13
ARCHITECTURE = lambda_.Architecture.ARM_64
MEMORY_MIB = 512

METRICS_NAMESPACE = "RdsKeyRotation"


def statement(grant: Grant) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        actions=list(grant.actions), resources=list(grant.resources), conditions=dict(grant.conditions) or None
    )


def eni_access() -> iam.IManagedPolicy:
    """What a function needs to get its network interface in a VPC, and nothing else."""
    return iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AWSLambdaENIManagementAccess")


def environment_of(config: Config, isolation_group: str | None = None) -> dict[str, str]:
    """What every function is told; read in ``lambdas/rotation/ports.py`` and nowhere else."""
    defaults = config.defaults.model_dump() | {
        "name_prefix": config.name_prefix,
        "vpc_ids": [config.vpc.vpc_id] if config.vpc else [],
        "secret_rotation_function_arns": list(config.secret_rotation_function_arns),
        "isolation_group": isolation_group,
        "record_names": list(config.record_names),
        "endpoint_secret_names": list(config.endpoint_secret_names),
        "backup_regions": list(config.backup_regions),
    }
    return {
        "LEDGER_TABLE": config.name("ledger"),
        "TOPIC_ARN": config.topic_arn,
        "CA_BUNDLE": "/opt/rds-ca/ca-bundle.pem",
        "ROTATION_DEFAULTS": json.dumps(defaults, sort_keys=True),
        "ROTATE_KEY_ARN": config.state_machine_arn("rotate_key"),
        "RECOVERY_ROLE_ARN": config.recovery_role_arn,
        "RECOVERY_GROUP": config.recovery_group,
        "RECOVERY_DLQ_ARN": config.dead_letter_arn,
        "POWERTOOLS_SERVICE_NAME": config.name_prefix,
        "POWERTOOLS_METRICS_NAMESPACE": METRICS_NAMESPACE,
    }


def retention_of(config: Config) -> logs.RetentionDays:
    return logs.RetentionDays[config.log_retention.replace("-", "_").upper()]


def _platform(log_group: logs.ILogGroup) -> list[iam.PolicyStatement]:
    """What any function needs to be seen: calls that Lambda makes for it, so the sandbox never sees them."""
    return [
        iam.PolicyStatement(actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[log_group.log_group_arn]),
        # X-Ray has no resource-level permissions.
        iam.PolicyStatement(actions=["xray:PutTraceSegments", "xray:PutTelemetryRecords"], resources=["*"]),
    ]


class TaskFunction(Construct):
    """A Task's Lambda. ``task.grants`` is its whole authority over anything but its own logs and traces.

    State machines call ``version``, never the function: an execution waits for weeks while deployments go on, and goes
    on with the code that wrote its state. Old versions are kept for the same reason; they go with their function, so a
    row stays for as long as an execution may name it (docs/extending.md). The function itself is not retained: its name
    would be taken when the stack is deployed again.
    """

    def __init__(
        self,
        scope: Construct,
        task: Task,
        *,
        config: Config,
        code: lambda_.Code,
        layer: lambda_.ILayerVersion,
        key: kms.IKey,
        network: Network | None,
        isolation_group: str | None,
    ) -> None:
        super().__init__(scope, task.state_name)
        self.task = task
        inside = network if task.connects_to_databases else None
        name = task.function_name(config)
        # Named, so that the key's policy can name it. Gone with the stack, so that the stack can be deployed again:
        # what has to outlive it is in the ledger.
        log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/lambda/{name}",
            retention=retention_of(config),
            encryption_key=key,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        role = iam.Role(
            self,
            "Role",
            description=f"The authority of {task.state_name}, as infra/tasks.py grants it",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            # The CDK gives a role of our own no managed policy, not even the one that a VPC function needs to start.
            managed_policies=[eni_access()] if inside else None,
            inline_policies={
                "grants": iam.PolicyDocument(statements=[statement(grant) for grant in task.grants]),
                "platform": iam.PolicyDocument(statements=_platform(log_group)),
            },
        )
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            description=task.purpose,
            runtime=RUNTIME,
            architecture=ARCHITECTURE,
            code=code,
            layers=[layer],
            handler=f"lambdas.{task.package}.handler.handler",
            memory_size=MEMORY_MIB,
            timeout=cdk.Duration.seconds(task.timeout_seconds),
            environment=environment_of(config, isolation_group),
            tracing=lambda_.Tracing.ACTIVE,
            # The role above is complete; nothing the CDK would add to it silently gets in.
            role=role.without_policy_updates(),
            log_group=log_group,
            vpc=inside.vpc if inside else None,
            vpc_subnets=ec2.SubnetSelection(subnets=inside.vpc.private_subnets) if inside else None,
            security_groups=[inside.security_group] if inside else None,
            current_version_options=lambda_.VersionOptions(removal_policy=cdk.RemovalPolicy.RETAIN),
        )
        self.version = self.function.current_version
