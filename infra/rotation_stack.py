"""The stack: wires the functions, the two state machines, what starts them, and what they share."""

import json
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra import embed
from infra.config import Config
from infra.network import Network, isolation_group
from infra.observability import Observability
from infra.rotation_workflow import RotationWorkflow
from infra.task_function import ARCHITECTURE, RUNTIME, TaskFunction
from infra.tasks import Task, permission_matrix

ROOT = Path(__file__).resolve().parent.parent

NOT_IN_THE_CODE = ["*", "!lambdas", "!lambdas/**", "**/__pycache__", "lambdas/requirements.*"]
"""The code asset is the repository reduced to ``lambdas/``, so that handlers are imported as they are in tests."""

LAMBDA_INVOKE = "states:::lambda:invoke"
START_AND_WAIT = "states:::states:startExecution.waitForTaskToken"


class RotationStack(cdk.Stack):
    """Everything that one account and Region needs."""

    def __init__(self, scope: Construct, construct_id: str, *, config: Config, layer_dir: Path) -> None:
        super().__init__(
            scope,
            construct_id,
            env=cdk.Environment(account=config.account, region=config.region),
            stack_name=config.name_prefix,
            description="Moves opted-in RDS databases onto fresh KMS keys",
        )
        if config.permissions_boundary:
            boundary = iam.ManagedPolicy.from_managed_policy_name(self, "Boundary", config.permissions_boundary)
            iam.PermissionsBoundary.of(self).apply(boundary)
        tasks = permission_matrix(config)
        key = _key(self, config)
        _ledger(self, config, key)
        topic = _topic(self, config, key)
        undelivered = _undelivered(self, config, key)
        functions = _functions(self, config, tasks, key, layer_dir)
        rotate_key = self._workflow("RotateKey", "rotate_key", config, functions, key)
        rotate_fleet = self._workflow(
            "RotateFleet", "rotate_fleet", config, functions, key, starts=[config.state_machine_arn("rotate_key")]
        )
        _what_starts_the_fleet(self, config, rotate_fleet, undelivered)
        _what_recovers(self, config, rotate_key, functions["RecoverRotations"], undelivered)
        pager = config.alarms.pager_topic_arn
        topics: list[sns.ITopic] = [topic]
        if pager:
            topics.append(sns.Topic.from_topic_arn(self, "Pager", pager))
        Observability(
            self,
            "Observability",
            config=config,
            rotate_key=rotate_key.machine,
            rotate_fleet=rotate_fleet.machine,
            undelivered=undelivered,
            sweep=functions["RecoverRotations"].function,
            topics=topics,
        )
        cdk.CfnOutput(self, "RotateKeyArn", value=config.state_machine_arn("rotate_key"))
        cdk.CfnOutput(self, "RotateFleetArn", value=config.state_machine_arn("rotate_fleet"))
        cdk.CfnOutput(self, "TopicArn", value=config.topic_arn)
        cdk.CfnOutput(self, "LedgerTable", value=config.name("ledger"))

    def _workflow(
        self,
        construct_id: str,
        workflow: str,
        config: Config,
        functions: dict[str, TaskFunction],
        key: kms.IKey,
        starts: list[str] | None = None,
    ) -> RotationWorkflow:
        wanted = embed.placeholders(embed.as_text(embed.definition(workflow)))
        others = {
            "LambdaInvoke": f"arn:{config.partition}:{LAMBDA_INVOKE}",
            "StartExecutionAndWait": f"arn:{config.partition}:{START_AND_WAIT}",
            "RotateKeyArn": config.state_machine_arn("rotate_key"),
        }
        return RotationWorkflow(
            self,
            construct_id,
            workflow=workflow,
            config=config,
            functions=[made for made in functions.values() if made.task.placeholder in wanted],
            others={name: value for name, value in others.items() if name in wanted},
            key=key,
            starts=starts or [],
        )


def _key(stack: cdk.Stack, config: Config) -> kms.Key:
    """The stack's own key: ledger, topic, queue and logs. It has nothing to do with the keys of databases."""
    key = kms.Key(
        stack,
        "Key",
        alias=config.name_prefix,
        description="Ledger, notifications and logs of the key rotation",
        enable_key_rotation=True,
        removal_policy=cdk.RemovalPolicy.RETAIN,  # the ledger is kept, and cannot be read without it
    )
    services = [f"{service}.{config.region}.amazonaws.com" for service in ("dynamodb", "sns", "sqs")]
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="WhoeverMayUseTheTableTopicOrQueue",
            principals=[iam.AnyPrincipal()],
            actions=[
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            resources=["*"],
            conditions={"StringEquals": {"kms:CallerAccount": config.account, "kms:ViaService": services}},
        )
    )
    groups = [f"/aws/lambda/{config.name('*')}", f"/aws/vendedlogs/states/{config.name('*')}"]
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Logs",
            principals=[iam.ServicePrincipal(f"logs.{config.region}.amazonaws.com")],
            actions=[
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            resources=["*"],
            conditions={
                "ArnLike": {
                    "kms:EncryptionContext:aws:logs:arn": [config.arn("logs", f"log-group:{g}") for g in groups]
                }
            },
        )
    )
    for sid, service, source in (
        ("AlarmsToTheTopic", "cloudwatch", config.arn("cloudwatch", f"alarm:{config.name('*')}")),
        ("RuleToTheQueue", "events", config.arn("events", f"rule/{config.name('*')}")),
    ):
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                resources=["*"],
                conditions={
                    "StringEquals": {"aws:SourceAccount": config.account},
                    "ArnLike": {"aws:SourceArn": source},
                },
            )
        )
    return key


def _ledger(stack: cdk.Stack, config: Config, key: kms.IKey) -> dynamodb.Table:
    return dynamodb.Table(
        stack,
        "Ledger",
        table_name=config.name("ledger"),
        partition_key=dynamodb.Attribute(name="database", type=dynamodb.AttributeType.STRING),
        sort_key=dynamodb.Attribute(name="record", type=dynamodb.AttributeType.STRING),
        billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
        encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
        encryption_key=key,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        deletion_protection=True,
        removal_policy=cdk.RemovalPolicy.RETAIN,  # the lineage of keys outlives the stack
    )


def _topic(stack: cdk.Stack, config: Config, key: kms.IKey) -> sns.Topic:
    topic = sns.Topic(
        stack,
        "Notifications",
        topic_name=config.name("notifications"),
        display_name="RDS key rotation",
        master_key=key,
        enforce_ssl=True,
    )
    # With enforce_ssl the topic has a policy of its own, which replaces the one that lets the account publish.
    topic.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Alarms",
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["sns:Publish"],
            resources=[topic.topic_arn],
            conditions={
                "StringEquals": {"aws:SourceAccount": config.account},
                "ArnLike": {"aws:SourceArn": config.arn("cloudwatch", f"alarm:{config.name('*')}")},
            },
        )
    )
    for address in config.alarms.emails:
        topic.add_subscription(subscriptions.EmailSubscription(address))
    return topic


def _undelivered(stack: cdk.Stack, config: Config, key: kms.IKey) -> sqs.Queue:
    """Where a schedule or a rule leaves what it could not deliver; an alarm watches it."""
    return sqs.Queue(
        stack,
        "Undelivered",
        queue_name=config.name("undelivered"),
        encryption=sqs.QueueEncryption.KMS,
        encryption_master_key=key,
        enforce_ssl=True,
        retention_period=cdk.Duration.days(14),
    )


def _functions(
    stack: cdk.Stack, config: Config, tasks: tuple[Task, ...], key: kms.IKey, layer_dir: Path
) -> dict[str, TaskFunction]:
    code = lambda_.Code.from_asset(str(ROOT), exclude=NOT_IN_THE_CODE, ignore_mode=cdk.IgnoreMode.GIT)
    layer = lambda_.LayerVersion(
        stack,
        "Dependencies",
        code=lambda_.Code.from_asset(str(layer_dir)),
        compatible_runtimes=[RUNTIME],
        compatible_architectures=[ARCHITECTURE],
        description="lambdas/requirements.txt and the RDS certificate authorities",
    )
    network = Network(stack, config.vpc, config, tasks) if config.vpc else None
    group = isolation_group(stack, config)
    return {
        task.state_name: TaskFunction(
            stack, task, config=config, code=code, layer=layer, key=key, network=network, isolation_group=group
        )
        for task in tasks
    }


def _what_starts_the_fleet(
    stack: cdk.Stack, config: Config, rotate_fleet: RotationWorkflow, undelivered: sqs.Queue
) -> None:
    role = _schedule_role(stack, "FleetScheduleRole", config, "default", config.state_machine_arn("rotate_fleet"))
    schedule = scheduler.CfnSchedule(
        stack,
        "FleetSchedule",
        name=config.name("rotate-fleet"),
        description="Rotates the keys of all opted-in databases",
        schedule_expression=config.schedule.expression,
        schedule_expression_timezone=config.schedule.time_zone,
        state=config.schedule.state.upper(),
        flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
        target=scheduler.CfnSchedule.TargetProperty(
            arn=config.state_machine_arn("rotate_fleet"),
            role_arn=role.role_arn,
            # The time that was meant, however often and late it is delivered: execution names follow from it.
            input=json.dumps({"scheduled_at": "<aws.scheduler.scheduled-time>"}),
            dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(arn=config.dead_letter_arn),
            retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_event_age_in_seconds=3600, maximum_retry_attempts=10
            ),
        ),
    )
    schedule.node.add_dependency(rotate_fleet.machine, undelivered)


def _what_recovers(
    stack: cdk.Stack, config: Config, rotate_key: RotationWorkflow, sweep: TaskFunction, undelivered: sqs.Queue
) -> None:
    """Three ways, one place: `rotate_key` with ``{"Recover": <execution ARN>}``."""
    # 1. An execution that ended without finishing. Not a recovery's own end: that pages, instead of going in a circle.
    events.Rule(
        stack,
        "EndedUnfinished",
        rule_name=config.name("ended-unfinished"),
        description="Recovers a rotation whose execution ended before the rotation did",
        event_pattern=events.EventPattern(
            source=["aws.states"],
            detail_type=["Step Functions Execution Status Change"],
            detail={
                "stateMachineArn": [config.state_machine_arn("rotate_key")],
                "status": ["ABORTED", "TIMED_OUT", "FAILED"],
                "input": [{"anything-but": {"prefix": '{"Recover"'}}],
            },
        ),
        targets=[
            targets.SfnStateMachine(
                rotate_key.machine,
                input=events.RuleTargetInput.from_object(
                    {"Recover": events.EventField.from_path("$.detail.executionArn")}
                ),
                dead_letter_queue=undelivered,
                retry_attempts=10,
                max_event_age=cdk.Duration.hours(1),
            )
        ],
    )
    # 2. The one-time schedules that PauseApplicationWrites makes before the fence: their group, and their role.
    group = scheduler.CfnScheduleGroup(stack, "RecoverySchedules", name=config.recovery_group)
    _schedule_role(
        stack,
        "RecoveryScheduleRole",
        config,
        config.recovery_group,
        config.state_machine_arn("rotate_key"),
        name=config.recovery_role_name,
    ).node.add_dependency(group)
    # 3. The hourly look into the ledger.
    role = _schedule_role(
        stack, "SweepScheduleRole", config, "default", sweep.version.function_arn, action="lambda:InvokeFunction"
    )
    scheduler.CfnSchedule(
        stack,
        "SweepSchedule",
        name=config.name("recover-rotations"),
        description="Recovers rotations that nobody carries on",
        schedule_expression="rate(1 hour)",
        flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
        target=scheduler.CfnSchedule.TargetProperty(
            arn=sweep.version.function_arn,
            role_arn=role.role_arn,
            input="{}",
            dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(arn=config.dead_letter_arn),
            # The next hour looks again anyway.
            retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_event_age_in_seconds=900, maximum_retry_attempts=2
            ),
        ),
    ).node.add_dependency(undelivered)


def _schedule_role(
    stack: cdk.Stack,
    construct_id: str,
    config: Config,
    group: str,
    target: str,
    *,
    action: str = "states:StartExecution",
    name: str | None = None,
) -> iam.Role:
    """What EventBridge Scheduler assumes for one group's schedules: start the target, or leave it in the queue."""
    return iam.Role(
        stack,
        construct_id,
        role_name=name,
        assumed_by=iam.ServicePrincipal(
            "scheduler.amazonaws.com",
            conditions={
                "StringEquals": {
                    "aws:SourceAccount": config.account,
                    "aws:SourceArn": config.arn("scheduler", f"schedule-group/{group}"),
                }
            },
        ),
        inline_policies={
            "schedule": iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(actions=[action], resources=[target]),
                    iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[config.dead_letter_arn]),
                ]
            )
        },
    )
