"""What the stack promises an operator, read off the template that is deployed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.config import Config
from infra.layer import ROOT
from infra.network import endpoint_services
from infra.task_function import METRICS_NAMESPACE, environment_of
from infra.tasks import permission_matrix
from lambdas.rotation import ports
from lambdas.rotation.readiness import SELDOM_SECONDS
from tests.infra.conftest import Template

FUNCTION, ROLE, LOG_GROUP = "AWS::Lambda::Function", "AWS::IAM::Role", "AWS::Logs::LogGroup"


def of_type(template: Template, kind: str) -> dict[str, Any]:
    return {name: one for name, one in template["Resources"].items() if one["Type"] == kind}


def properties(template: Template, kind: str) -> list[Any]:
    """Of all resources of a kind, of which there has to be one: what holds for each holds for none, too."""
    found = [one["Properties"] for one in of_type(template, kind).values()]
    assert found, kind
    return found


def text(value: Any) -> str:
    return json.dumps(value)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def test_there_is_room_in_the_template(example_template: Template) -> None:
    """CloudFormation takes 1 MB and 500 resources of a stack, the state machine being most of the one."""
    assert len(text(example_template)) < 0.8 * 2**20
    assert len(example_template["Resources"]) < 0.8 * 500


# -- functions --


def test_there_is_a_function_for_every_row_and_no_other(template: Template, sandbox_config: Config) -> None:
    """The CDK adds functions of its own for some conveniences; they would have roles that nobody wrote."""
    handlers = {f"lambdas.{task.package}.handler.handler" for task in permission_matrix(sandbox_config)}

    assert handlers == {function["Handler"] for function in properties(template, FUNCTION)}


def test_every_function_has_a_role_of_its_own(template: Template) -> None:
    roles = [function["Role"]["Fn::GetAtt"][0] for function in properties(template, FUNCTION)]

    assert len(roles) == len(set(roles))


def test_no_role_has_more_than_what_is_written_into_it(template: Template) -> None:
    """One policy is the exception: the CDK lets the rule start the state machine by a policy beside its role."""
    assert [] == [role for role in properties(template, ROLE) if role.get("ManagedPolicyArns")]
    (beside,) = properties(template, "AWS::IAM::Policy")
    assert ["states:StartExecution"] == [s["Action"] for s in beside["PolicyDocument"]["Statement"]]


def test_a_function_in_a_vpc_may_have_its_network_interface_and_nothing_else(
    example_template: Template, example_config: Config
) -> None:
    """Without it the function cannot start; and only functions that speak SQL have any business in the network."""
    for task in permission_matrix(example_config):
        (function,) = (
            one
            for one in properties(example_template, FUNCTION)
            if one["Handler"].startswith(f"lambdas.{task.package}.")
        )
        role = example_template["Resources"][function["Role"]["Fn::GetAtt"][0]]["Properties"]

        assert task.connects_to_databases == ("VpcConfig" in function)
        managed = [arn.rpartition("/")[2] for arn in strings(role.get("ManagedPolicyArns", [])) if "/" in arn]
        assert (["AWSLambdaENIManagementAccess"] if task.connects_to_databases else []) == managed


def test_functions_run_on_one_runtime_with_the_layer_and_traces(template: Template) -> None:
    for function in properties(template, FUNCTION):
        assert ("python3.13", ["arm64"], "Active") == (
            function["Runtime"],
            function["Architectures"],
            function["TracingConfig"]["Mode"],
        )
        assert 1 == len(function["Layers"])


def test_the_environment_is_what_the_ports_read(template: Template) -> None:
    """A variable that is missing would be noticed by the one step that needs it, perhaps under the fence."""
    read = {
        "LEDGER_TABLE",
        "TOPIC_ARN",
        "CA_BUNDLE",
        "ROTATION_DEFAULTS",
        "ROTATE_KEY_ARN",
        "RECOVERY_ROLE_ARN",
        "RECOVERY_GROUP",
        "RECOVERY_DLQ_ARN",
    }
    assert all(f'"{name}"' in Path(ports.__file__).read_text() for name in read)

    for function in properties(template, FUNCTION):
        variables = function["Environment"]["Variables"]
        assert read == {name for name in variables if not name.startswith("POWERTOOLS_")}
        assert METRICS_NAMESPACE == variables["POWERTOOLS_METRICS_NAMESPACE"]


def test_the_defaults_say_which_networks_are_configured(example_template: Template, example_config: Config) -> None:
    """Preflight refuses a database in any other VPC, because no function could reach it."""
    assert example_config.vpc is not None
    for function in properties(example_template, FUNCTION):
        defaults = json.loads(function["Environment"]["Variables"]["ROTATION_DEFAULTS"])
        assert [example_config.vpc.vpc_id] == defaults["vpc_ids"]


def test_the_longest_list_of_regions_fits_into_the_environment(example_config: Config) -> None:
    """Lambda takes 4 KB; a list that is longer than the configuration allows would fail the deployment."""
    (most,) = [one.max_length for one in Config.model_fields["backup_regions"].metadata if hasattr(one, "max_length")]
    regions = tuple(f"ap-southeast-{n}" for n in range(most))

    environment = environment_of(example_config.model_copy(update={"backup_regions": regions}), "sg-" + "0" * 17)

    assert regions[-1] in environment["ROTATION_DEFAULTS"]
    assert sum(len(name) + len(value) for name, value in environment.items()) < 4096 / 2


def test_state_machines_call_published_versions_that_stay(template: Template) -> None:
    """An execution waits out its grace period while deployments go on, and then needs the code it was started with."""
    versions = of_type(template, "AWS::Lambda::Version")
    for machine in properties(template, "AWS::StepFunctions::StateMachine"):
        for name, value in machine["DefinitionSubstitutions"].items():
            assert not name.endswith("FunctionArn") or value["Ref"] in versions
    assert {"Retain"} == {version["DeletionPolicy"] for version in versions.values()}


# -- state machines, and what starts them --


def test_state_machines_may_invoke_their_functions_by_version_only(template: Template) -> None:
    """A right to the bare function would reach code that no execution was started with."""
    reached = [
        [arn for one in role["Policies"] for statement in one["PolicyDocument"]["Statement"]
         if "lambda:InvokeFunction" in text(statement["Action"]) for arn in statement["Resource"]]
        for role in properties(template, ROLE) if "states.amazonaws.com" in text(role)
    ]  # fmt: skip

    assert 2 == len(reached)
    for arns in reached:
        assert arns
        assert all(arn.endswith(":*") and ":function:rds-key-rotation-" in arn for arn in arns)


def test_only_the_fleet_may_start_a_rotation(template: Template) -> None:
    roles = {
        name: text(role)
        for name, role in of_type(template, ROLE).items()
        if "states.amazonaws.com" in text(role["Properties"]["AssumeRolePolicyDocument"])
    }

    assert ["RotateFleet"] == [name.partition("Role")[0] for name, role in roles.items() if "StartExecution" in role]


def test_logs_of_executions_leave_the_state_out(template: Template) -> None:
    for machine in properties(template, "AWS::StepFunctions::StateMachine"):
        assert ("ALL", False) == (
            machine["LoggingConfiguration"]["Level"],
            machine["LoggingConfiguration"]["IncludeExecutionData"],
        )
        assert machine["TracingConfiguration"]["Enabled"]


def test_the_fleet_starts_quarterly_in_the_configured_time_zone(example_template: Template) -> None:
    (schedule,) = (
        one for one in properties(example_template, "AWS::Scheduler::Schedule") if "rotate-fleet" in one["Name"]
    )

    assert "cron(0 0 1 */3 ? *)" == schedule["ScheduleExpression"]
    assert "Europe/Berlin" == schedule["ScheduleExpressionTimezone"]
    assert "DISABLED" == schedule["State"]
    assert "<aws.scheduler.scheduled-time>" in schedule["Target"]["Input"]


def test_nothing_that_is_not_delivered_is_lost(template: Template) -> None:
    for schedule in properties(template, "AWS::Scheduler::Schedule"):
        assert schedule["Target"]["DeadLetterConfig"]
    (rule,) = properties(template, "AWS::Events::Rule")
    assert rule["Targets"][0]["DeadLetterConfig"]


def test_an_execution_that_ends_unfinished_is_recovered_but_a_recovery_is_not(template: Template) -> None:
    """A recovery that fails pages; recovering it again would go in a circle at the speed of EventBridge."""
    (rule,) = properties(template, "AWS::Events::Rule")
    detail = rule["EventPattern"]["detail"]

    assert {"ABORTED", "TIMED_OUT", "FAILED"} == set(detail["status"])
    assert [{"anything-but": {"prefix": '{"Recover"'}}] == detail["input"]
    assert '{"Recover":<detail-executionArn>}' == rule["Targets"][0]["InputTransformer"]["InputTemplate"]


# -- data --


def test_every_log_is_encrypted_and_ends(template: Template) -> None:
    for group in properties(template, LOG_GROUP):
        assert group["KmsKeyId"]
        assert 365 == group["RetentionInDays"]


def test_every_function_and_machine_writes_to_a_log_group_of_ours(template: Template) -> None:
    """A log group that Lambda makes by itself is neither encrypted with our key nor does it ever end."""
    used = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in properties(template, FUNCTION)]

    assert len(properties(template, FUNCTION)) == len(set(used))
    assert set(used) < set(of_type(template, LOG_GROUP))


def test_the_ledger_survives_a_mistake(template: Template) -> None:
    (table,) = of_type(template, "AWS::DynamoDB::Table").values()
    given = table["Properties"]

    assert ("Retain", "Retain") == (table["DeletionPolicy"], table["UpdateReplacePolicy"])
    assert given["DeletionProtectionEnabled"]
    assert given["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"]
    assert ("KMS", True) == (given["SSESpecification"]["SSEType"], given["SSESpecification"]["SSEEnabled"])
    assert [("database", "HASH"), ("record", "RANGE")] == [
        (key["AttributeName"], key["KeyType"]) for key in given["KeySchema"]
    ]


@pytest.mark.parametrize("kind", ["AWS::SNS::Topic", "AWS::SQS::Queue"])
def test_topic_and_queue_are_under_the_stacks_key(template: Template, kind: str) -> None:
    for one in properties(template, kind):
        assert one["KmsMasterKeyId"]["Fn::GetAtt"][0].startswith("Key")


def test_the_stacks_key_is_kept_and_rotated(template: Template) -> None:
    """The ledger is kept, and without its key it would be noise."""
    (key,) = of_type(template, "AWS::KMS::Key").values()

    assert "Retain" == key["DeletionPolicy"]
    assert key["Properties"]["EnableKeyRotation"]


# -- configuration --


def test_a_permissions_boundary_is_on_every_role(
    sandbox_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also on those that the CDK makes: an account that demands a boundary refuses the whole stack otherwise."""
    from tests.infra.conftest import synthesized

    bounded = sandbox_config.model_copy(update={"permissions_boundary": "ceiling"})
    template = synthesized(bounded, tmp_path_factory.mktemp("bounded"))

    assert all("policy/ceiling" in text(role["PermissionsBoundary"]) for role in properties(template, ROLE))


def test_endpoints_are_those_that_the_matrix_implies(example_template: Template, example_config: Config) -> None:
    """One missing would be noticed under the fence; one too many costs by the hour."""
    made = {one["ServiceName"].rpartition(".")[2] for one in properties(example_template, "AWS::EC2::VPCEndpoint")}

    assert set(endpoint_services(permission_matrix(example_config))) == made
    assert {"dynamodb", "rds", "secretsmanager"} <= made
    assert "route53" not in made  # its API is not in any VPC: functions that call it stay outside


def test_nobody_subscribes_who_is_not_configured(template: Template, sandbox_config: Config) -> None:
    subscribed = [one["Endpoint"] for one in properties(template, "AWS::SNS::Subscription")]

    assert list(sandbox_config.alarms.emails) == subscribed


def test_alarms_reach_the_topic(template: Template) -> None:
    alarms = properties(template, "AWS::CloudWatch::Alarm")

    expected = {
        "failed", "timed-out", "stopped", "undelivered", "unrecovered", "undecided", "write-outage-over-budget",
        "replica-lag",
    }  # fmt: skip
    assert {alarm["AlarmName"].removeprefix("rds-key-rotation-") for alarm in alarms} == expected
    assert all(alarm["AlarmActions"] for alarm in alarms)


def test_lag_counts_when_it_lasts_longer_than_the_pauses_between_two_looks(template: Template) -> None:
    """With a gap in every other period it would never ring."""
    [alarm] = [
        one for one in properties(template, "AWS::CloudWatch::Alarm") if one["AlarmName"].endswith("replica-lag")
    ]

    assert (alarm["EvaluationPeriods"], alarm["Threshold"]) == (4, 2**30)
    assert all(metric["Period"] > SELDOM_SECONDS for metric in alarm["Metrics"])


def test_a_lag_that_lasts_is_not_hidden_by_targets_that_do_not_lag(template: Template) -> None:
    """The least of all of them is that of the healthiest."""
    [alarm] = [
        one for one in properties(template, "AWS::CloudWatch::Alarm") if one["AlarmName"].endswith("replica-lag")
    ]

    [metric] = alarm["Metrics"]
    assert metric["Expression"].endswith(' GROUP BY "source" ORDER BY MIN() DESC')


def test_alarms_and_dashboard_use_every_metric_that_is_emitted_and_no_other(template: Template) -> None:
    """An alarm on a metric that nobody emits never rings; a metric that nobody looks at is noise."""
    shown = text(properties(template, "AWS::CloudWatch::Alarm")) + text(
        properties(template, "AWS::CloudWatch::Dashboard")
    )
    used = set(re.findall(r"SELECT [A-Z]+\((\w+)\)", shown))
    sources = "".join(path.read_text() for path in (ROOT / "lambdas").rglob("*.py"))

    assert set(re.findall(r'measure\(\w+, "(\w+)"', sources)) == used
