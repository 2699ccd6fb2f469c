"""Alarms for what a person has to look at, and one dashboard."""

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.config import Config
from infra.task_function import METRICS_NAMESPACE

FIVE_MINUTES = cdk.Duration.minutes(5)
A_QUARTER_OF_AN_HOUR = cdk.Duration.minutes(15)
"""A target that takes its time is looked at every five minutes: in a period of five there may be no look."""


class Observability(Construct):
    """One alarm per way in which a rotation can need somebody; each goes to the topic and to the pager, if any."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        config: Config,
        rotate_key: sfn.StateMachine,
        rotate_fleet: sfn.StateMachine,
        undelivered: sqs.Queue,
        sweep: lambda_.IFunction,
        topics: Sequence[sns.ITopic],
    ) -> None:
        super().__init__(scope, construct_id)
        prefix = config.name_prefix

        def alarm(
            name: str, description: str, metric: cloudwatch.IMetric, threshold: float = 0, periods: int = 1
        ) -> cloudwatch.Alarm:
            made = cloudwatch.Alarm(
                self,
                name,
                alarm_name=f"{prefix}-{name}",
                alarm_description=description,
                metric=metric,
                threshold=threshold,
                evaluation_periods=periods,
                comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            )
            for topic in topics:
                made.add_alarm_action(actions.SnsAction(topic))
            return made

        def of_workflows(metric: str) -> cloudwatch.MathExpression:
            return cloudwatch.MathExpression(
                expression="key + fleet",
                label=metric,
                period=FIVE_MINUTES,
                using_metrics={
                    "key": rotate_key.metric(metric, statistic="Sum", period=FIVE_MINUTES),
                    "fleet": rotate_fleet.metric(metric, statistic="Sum", period=FIVE_MINUTES),
                },
            )

        def promise(
            metric: str, statistic: str, period: cdk.Duration = FIVE_MINUTES, each: str = ""
        ) -> cloudwatch.MathExpression:
            """A metric of the functions over all strategies and engines; ``each``: one time series per value of it."""
            series = f' GROUP BY "{each}" ORDER BY {statistic}() DESC' if each else ""
            return cloudwatch.MathExpression(
                expression=f'SELECT {statistic}({metric}) FROM "{METRICS_NAMESPACE}"{series}',  # noqa: S608 (CloudWatch's)
                label=metric,
                period=period,
                using_metrics={},
            )

        alarms = [
            alarm("failed", "A rotation or the fleet failed: read its notification.", of_workflows("ExecutionsFailed")),
            alarm(
                "timed-out",
                "An execution ran into its time limit; of a rotation a recovery took over.",
                of_workflows("ExecutionsTimedOut"),
            ),
            alarm(
                "stopped",
                "Somebody stopped an execution; of a rotation a recovery took over.",
                of_workflows("ExecutionsAborted"),
            ),
            alarm(
                "undelivered",
                "A schedule or rule could not start its target: read the queue, and start the recovery by hand.",
                undelivered.metric_approximate_number_of_messages_visible(statistic="Maximum", period=FIVE_MINUTES),
            ),
            alarm(
                "unrecovered",
                "The hourly look into the ledger could not read, or recover, an unfinished rotation: read its log.",
                sweep.metric_errors(statistic="Sum", period=FIVE_MINUTES),
            ),
            alarm(
                "undecided",
                "A rollback cannot tell whether the target was promoted; both sides stay fenced until it can.",
                promise("RotationUndecided", "SUM"),
            ),
            alarm(
                "write-outage-over-budget",
                "A cutover kept clients from writing for longer than its budget.",
                promise("WriteOutageOverBudgetSeconds", "MAX"),
            ),
            alarm(
                "replica-lag",
                "For an hour a target has not caught up with its source: no fence is raised before it has.",
                # The least of each: a peak is none that lasts, and one that does must not hide behind others.
                promise("ReplicationLagBytes", "MIN", A_QUARTER_OF_AN_HOUR, each="source"),
                threshold=config.alarms.replica_lag_bytes,
                periods=4,
            ),
        ]

        dashboard = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=prefix)
        dashboard.add_widgets(cloudwatch.AlarmStatusWidget(title="Needs somebody", width=24, alarms=list(alarms)))
        dashboard.add_widgets(
            cloudwatch.GraphWidget(
                title="Rotations",
                width=12,
                left=[promise("RotationCompleted", "SUM"), promise("RotationRolledBack", "SUM")],
            ),
            cloudwatch.GraphWidget(
                title="Write outage in seconds", width=12, left=[promise("WriteOutageSeconds", "MAX")]
            ),
            cloudwatch.GraphWidget(
                title="Executions of rotate_key",
                width=12,
                left=[
                    rotate_key.metric(name, statistic="Sum", period=FIVE_MINUTES)
                    for name in ("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed")
                ],
            ),
            cloudwatch.GraphWidget(
                title="Lag in bytes before the fence", width=12, left=[promise("ReplicationLagBytes", "MAX")]
            ),
        )
