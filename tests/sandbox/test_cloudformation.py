"""What is deployed is the template: whole, with nothing silently left out, or not at all."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import step_functions
from sandbox.api import Api
from sandbox.clock import VirtualClock
from sandbox.cloudformation import Aws, Deployment, DeploymentRefused, deploy

REGION, ACCOUNT = "eu-central-1", "123456789012"


def service_role(service: str, **rest: Any) -> dict[str, Any]:
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    return {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": document} | rest}


def grant(action: str, resource: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {"Version": "2012-10-17", "Statement": [statement]}


DEFINITION = {
    "StartAt": "Work",
    "States": {
        "Work": {"Type": "Task", "Resource": "${Invoke}", "Parameters": {"FunctionName": "${Function}"}, "End": True}
    },
}

RESOURCES: dict[str, Any] = {
    "Role": service_role(
        "lambda.amazonaws.com",
        ManagedPolicyArns=["arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"],
        Policies=[{"PolicyName": "grants", "PolicyDocument": grant("sns:Publish", {"Ref": "Topic"})}],
    ),
    "Layer": {
        "Type": "AWS::Lambda::LayerVersion",
        "Properties": {"Content": {"S3Bucket": "assets", "S3Key": "layer.zip"}, "CompatibleRuntimes": ["python3.13"]},
    },
    "Function": {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "FunctionName": "work",
            "Code": {"S3Bucket": "assets", "S3Key": "code.zip"},
            "Handler": "work.handler",
            "Runtime": "python3.13",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "Layers": [{"Ref": "Layer"}],
            "Timeout": 25,
            "TracingConfig": {"Mode": "Active"},
            "Architectures": ["arm64"],
            "Environment": {"Variables": {"TOPIC_ARN": {"Ref": "Topic"}}},
        },
    },
    "Version": {"Type": "AWS::Lambda::Version", "Properties": {"FunctionName": {"Ref": "Function"}}},
    "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "news"}},
    "TopicPolicy": {
        "Type": "AWS::SNS::TopicPolicy",
        "Properties": {"Topics": [{"Ref": "Topic"}], "PolicyDocument": grant("sns:Publish", "*")},
    },
    "Key": {
        "Type": "AWS::KMS::Key",
        "Properties": {"EnableKeyRotation": True, "KeyPolicy": grant("kms:*", "*"), "Description": "ours"},
    },
    "MachineRole": service_role("states.amazonaws.com"),
    "MachinePolicy": {
        "Type": "AWS::IAM::Policy",
        "Properties": {
            "PolicyName": "invoke",
            "PolicyDocument": grant("lambda:InvokeFunction", {"Ref": "Version"}),
            "Roles": [{"Ref": "MachineRole"}],
        },
    },
    "Machine": {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "StateMachineName": "workflow",
            "DefinitionString": json.dumps(DEFINITION),
            "DefinitionSubstitutions": {"Function": {"Ref": "Version"}, "Invoke": "arn:aws:states:::lambda:invoke"},
            "RoleArn": {"Fn::GetAtt": ["MachineRole", "Arn"]},
            "LoggingConfiguration": {"Level": "ALL", "IncludeExecutionData": False},
        },
    },
    "Group": {"Type": "AWS::Scheduler::ScheduleGroup", "Properties": {"Name": "recovery"}},
    "Schedule": {
        "Type": "AWS::Scheduler::Schedule",
        "Properties": {
            "Name": "quarterly",
            "ScheduleExpression": "cron(0 0 1 */3 ? *)",
            "ScheduleExpressionTimezone": "Europe/Berlin",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {"Arn": {"Ref": "Machine"}, "RoleArn": {"Fn::GetAtt": ["MachineRole", "Arn"]}},
        },
    },
    "Alarm": {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": "undelivered",
            "Namespace": "AWS/SQS",
            "MetricName": "ApproximateNumberOfMessagesVisible",
            "ComparisonOperator": "GreaterThanThreshold",
            "EvaluationPeriods": 1,
            "Threshold": 0,
            "Period": 60,
            "Statistic": "Maximum",
        },
    },
    "Metadata": {"Type": "AWS::CDK::Metadata", "Properties": {"Analytics": "v2"}},
}


def assembly(
    directory: Path, resources: dict[str, Any], outputs: dict[str, Any] | None = None, name: str = "S"
) -> Path:
    """A ``cdk.out`` as the CDK writes it, with one code asset (a directory) and one layer asset (a zip file)."""
    directory.mkdir()
    parameter = {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/cdk-bootstrap/hnb659fds/version"}
    template = {"Resources": resources, "Outputs": outputs or {}, "Parameters": {"BootstrapVersion": parameter}}
    (directory / f"{name}.template.json").write_text(json.dumps(template))
    (directory / "asset.code").mkdir()
    (directory / "asset.code" / "work.py").write_text("def handler(event, context): return event\n")
    with zipfile.ZipFile(directory / "asset.layer.zip", "w") as archive:
        archive.writestr("python/dependency.py", "")
    files = {
        "code": ("asset.code", "zip", "code.zip"),
        "layer": ("asset.layer.zip", "file", "layer.zip"),
    }
    assets = {
        key: {
            "source": {"path": path, "packaging": packaging},
            "destinations": {"current": {"bucketName": "assets", "objectKey": object_key}},
        }
        for key, (path, packaging, object_key) in files.items()
    }
    (directory / f"{name}.assets.json").write_text(json.dumps({"files": assets}))
    artifacts = {
        f"{name}.assets": {"type": "cdk:asset-manifest", "properties": {"file": f"{name}.assets.json"}},
        name: {"type": "aws:cloudformation:stack", "properties": {"templateFile": f"{name}.template.json"}},
    }
    (directory / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    return directory


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    clock, api = VirtualClock(), Api()
    api.start()
    step_functions.install(clock, api.endpoint_url, None, lambda execution: None)
    yield Aws(api.endpoint_url, REGION, ACCOUNT)
    api.stop()
    clock.stop()


@pytest.fixture(scope="module")
def deployed(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    outputs = {"VersionArn": {"Value": {"Ref": "Version"}}, "MachineArn": {"Value": {"Ref": "Machine"}}}
    return deploy(assembly(tmp_path_factory.mktemp("cdk") / "out", RESOURCES, outputs), aws)


def test_everything_is_made(deployed: Deployment) -> None:
    """moto leaves out a third of these types, and says CREATE_COMPLETE."""
    assert deployed.resources.keys() == RESOURCES.keys() - {"Metadata"}


def test_the_machine_calls_the_published_version(aws: Aws, deployed: Deployment) -> None:
    """Substituted, and known to the backend that executes: moto forgets the one and picks another."""
    machine = aws.client("stepfunctions").describe_state_machine(stateMachineArn=deployed.outputs["MachineArn"])

    parameters = json.loads(machine["definition"])["States"]["Work"]["Parameters"]
    assert deployed.outputs["VersionArn"] == f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:work:1"
    assert parameters == {"FunctionName": deployed.outputs["VersionArn"]}
    assert machine["loggingConfiguration"]["level"] == "ALL"


def test_the_function_has_its_layer_its_role_and_its_environment(aws: Aws, deployed: Deployment) -> None:
    """Without the layer nothing could be imported; without its own role permissions would mean nothing."""
    function = aws.client("lambda").get_function_configuration(FunctionName="work", Qualifier="1")

    assert [layer["Arn"] for layer in function["Layers"]] == [deployed.resources["Layer"]]
    assert function["Role"] == f"arn:aws:iam::{ACCOUNT}:role/{deployed.resources['Role']}"
    assert function["Environment"]["Variables"] == {"TOPIC_ARN": f"arn:aws:sns:{REGION}:{ACCOUNT}:news"}
    assert (function["TracingConfig"]["Mode"], function["Timeout"]) == ("Active", 25)


def test_policies_are_documents(aws: Aws, deployed: Deployment) -> None:
    """moto stores something that only looks like JSON, and drops the managed ones: nobody could decide by them."""
    iam, role = aws.client("iam"), deployed.resources["Role"]

    grants = iam.get_role_policy(RoleName=role, PolicyName="grants")["PolicyDocument"]
    invoke = iam.get_role_policy(RoleName=deployed.resources["MachineRole"], PolicyName="invoke")["PolicyDocument"]
    key_policy = aws.client("kms").get_key_policy(KeyId=deployed.resources["Key"], PolicyName="default")["Policy"]

    assert grants["Statement"][0]["Resource"] == f"arn:aws:sns:{REGION}:{ACCOUNT}:news"
    assert invoke["Statement"][0]["Resource"] == deployed.outputs["VersionArn"]
    assert json.loads(key_policy)["Statement"][0]["Action"] == "kms:*"
    assert len(iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]) == 1


def test_the_code_is_the_asset(aws: Aws, deployed: Deployment) -> None:
    location = aws.client("s3").get_object(Bucket="assets", Key="code.zip")

    with zipfile.ZipFile(io.BytesIO(location["Body"].read())) as archive:
        assert archive.namelist() == ["work.py"]


def test_a_schedule_and_an_alarm_exist(aws: Aws, deployed: Deployment) -> None:
    schedule = aws.client("scheduler").get_schedule(Name="quarterly")

    assert schedule["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert schedule["Target"]["Arn"] == deployed.outputs["MachineArn"]
    assert aws.client("cloudwatch").describe_alarms(AlarmNames=["undelivered"])["MetricAlarms"]


def test_an_unknown_type_is_refused_before_anything_is_made(aws: Aws, tmp_path: Path) -> None:
    """What cannot be had here would otherwise be missed only on the day that it matters."""
    resources = {"Topic": RESOURCES["Topic"], "Cluster": {"Type": "AWS::EKS::Cluster", "Properties": {}}}

    with pytest.raises(DeploymentRefused, match=r"AWS::EKS::Cluster \(Cluster\)"):
        deploy(assembly(tmp_path / "out", resources, name="Unknown"), aws)

    names = [stack["StackName"] for stack in aws.client("cloudformation").describe_stacks()["Stacks"]]
    assert "Unknown" not in names


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        ({"Type": "AWS::Scheduler::ScheduleGroup", "Properties": {"Name": "x", "Colour": "red"}}, "Colour"),
        ({"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": {}, "Colour": "red"}}, "Colour"),
        ({"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": "-", "Colour": "red"}}, "Colour"),
        (
            {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "-", "SecurityGroupIngress": [{"IpProtocol": "-1", "Colour": 1}]},
            },
            "Colour",
        ),
    ],
)
def test_a_property_that_the_api_does_not_know_is_refused(
    aws: Aws, tmp_path: Path, resource: dict[str, Any], reason: str
) -> None:
    """A misspelled property is a setting that is not there."""
    with pytest.raises(DeploymentRefused, match=reason):
        deploy(
            assembly(tmp_path / "out", {"Only": resource}, name=f"Bad{resource['Type'][-4:]}{len(str(resource))}"), aws
        )


def test_a_security_group_has_the_rules_of_the_template_and_no_others(aws: Aws, tmp_path: Path) -> None:
    """One that is to isolate a database must let nobody in, and nothing out; EC2 gives every group a way out."""
    disallow = {"CidrIp": "255.255.255.255/32", "IpProtocol": "icmp", "FromPort": 252, "ToPort": 86}
    resources = {
        "Isolation": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "Lets nobody in",
                "SecurityGroupEgress": [disallow],
                "Tags": [{"Key": "team", "Value": "orders"}],
            },
        },
        "App": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "Applications",
                "GroupName": "app",
                "SecurityGroupIngress": [
                    {
                        "IpProtocol": "tcp",
                        "FromPort": 1521,
                        "ToPort": 1521,
                        "SourceSecurityGroupId": {"Fn::GetAtt": ["Isolation", "GroupId"]},
                    },
                    {"IpProtocol": "-1", "CidrIpv6": "2001:db8::/32"},
                ],
            },
        },
    }
    outputs = {"GroupId": {"Value": {"Fn::GetAtt": ["Isolation", "GroupId"]}}}

    made = deploy(assembly(tmp_path / "out", resources, outputs, name="Groups"), aws)

    ec2, ids = aws.client("ec2"), list(made.resources.values())
    groups = {one["GroupId"]: one for one in ec2.describe_security_groups(GroupIds=ids)["SecurityGroups"]}
    isolation, app = groups[made.outputs["GroupId"]], groups[made.resources["App"]]
    assert made.resources["Isolation"] == made.outputs["GroupId"]
    assert isolation["IpPermissions"] == []
    assert [rule["IpRanges"] for rule in isolation["IpPermissionsEgress"]] == [[{"CidrIp": "255.255.255.255/32"}]]
    assert {"Key": "team", "Value": "orders"} in isolation["Tags"]
    assert app["GroupName"] == "app"
    let_in, anything = app["IpPermissions"]
    assert (let_in["FromPort"], let_in["UserIdGroupPairs"][0]["GroupId"]) == (1521, made.outputs["GroupId"])
    assert anything["Ipv6Ranges"] == [{"CidrIpv6": "2001:db8::/32"}]
    assert app["IpPermissionsEgress"][0]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]

    aws.client("cloudformation").delete_stack(StackName="Groups")
    left = {one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]}
    assert not left & set(ids)
