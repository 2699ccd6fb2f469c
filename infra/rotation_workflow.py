"""A state machine made from its file, with a role that may invoke the functions it names."""

from collections.abc import Mapping, Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra import embed
from infra.config import Config
from infra.task_function import TaskFunction, retention_of

# Step Functions writes its log through CloudWatch's vended log delivery, which knows no resource-level permissions.
LOG_DELIVERY = (
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
)
# Nor does X-Ray.
TRACING = (
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
)


class RotationWorkflow(Construct):
    """One of ``statemachine/*.asl.json`` as it runs: fragments embedded, placeholders filled in by CloudFormation.

    ``functions`` are behind its ``…FunctionArn`` placeholders, ``others`` has the values of all other placeholders, and
    ``starts`` lists the state machines it may start.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        workflow: str,
        config: Config,
        functions: Sequence[TaskFunction],
        others: Mapping[str, str],
        key: kms.IKey,
        starts: Sequence[str] = (),
    ) -> None:
        super().__init__(scope, construct_id)
        text = embed.as_text(embed.definition(workflow))
        values = {made.task.placeholder: made.version.function_arn for made in functions} | dict(others)
        embed.refuse_mismatch(workflow, embed.placeholders(text), set(values))
        name = config.name(workflow.replace("_", "-"))
        log_group = logs.LogGroup(
            self,
            "Logs",
            # This prefix keeps it out of the account's one resource policy for log delivery, whose size is limited.
            log_group_name=f"/aws/vendedlogs/states/{name}",
            retention=retention_of(config),
            encryption_key=key,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        # Any published version, not only the newest: after its grace period an execution goes on with the versions that
        # it was started with, and deployments have exchanged this policy under it.
        invocable = [config.arn("lambda", f"function:{made.task.function_name(config)}:*") for made in functions]
        statements = [
            iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=invocable),
            iam.PolicyStatement(actions=list(LOG_DELIVERY), resources=["*"]),
            iam.PolicyStatement(actions=list(TRACING), resources=["*"]),
        ]
        if starts:
            statements.append(iam.PolicyStatement(actions=["states:StartExecution"], resources=list(starts)))
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal(
                "states.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": config.account},
                    "ArnLike": {"aws:SourceArn": config.arn("states", "stateMachine:*")},
                },
            ),
            inline_policies={"workflow": iam.PolicyDocument(statements=statements)},
        )
        self.machine = sfn.StateMachine(
            self,
            "StateMachine",
            state_machine_name=name,
            # Inline, not as an asset: the template then shows what runs, to `cdk diff` and to every judge of it.
            definition_body=sfn.DefinitionBody.from_string(text),
            definition_substitutions=values,
            role=role.without_policy_updates(),
            tracing_enabled=True,
            # No execution data: the state names databases and keys, and the journal has it anyway.
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=False),
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
