"""CloudFormation: deploys an assembly of the CDK, whole or not at all.

moto creates what it knows and shrugs about the rest. Here a type, attribute or property that cannot be had is an error,
and what the stacks of this project need beyond moto is made through the same public APIs that anybody would use.
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import moto.stepfunctions.models as stepfunctions_models
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.validate import ParamValidator
from moto.awslambda.models import LambdaVersion
from moto.awslambda.utils import get_backend as lambda_backend
from moto.cloudformation import parsing
from moto.cloudformation.models import Stack
from moto.core.common_models import CloudFormationModel
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.stepfunctions.parser.models import stepfunctions_parser_backends

BOOTSTRAP_PARAMETER = "/cdk-bootstrap/hnb659fds/version"
BOOTSTRAP_VERSION = "30"
# No resource of the account: what the CDK writes about itself.
_WITHOUT_RESOURCE = frozenset({"AWS::CDK::Metadata"})


class DeploymentRefused(Exception):
    """The template needs something that this sandbox does not have; the message names it."""


@functools.cache
def _session() -> boto3.session.Session:
    # One for all: each would read the SDK's endpoint rules anew.
    return boto3.session.Session()


@dataclass(frozen=True)
class Aws:
    """Clients of one administrator in one account and Region."""

    endpoint_url: str
    region: str
    account_id: str
    access_key_id: str = "deployment"
    secret_access_key: str = "deployment"

    @functools.cache  # noqa: B019
    def client(self, service: str) -> Any:
        return _session().client(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=120),
        )


# -- deploying ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deployment:
    """One stack as deployed: what it made (logical id -> physical id) and its outputs."""

    stack_name: str
    template: dict[str, Any]
    resources: dict[str, str]
    outputs: dict[str, str]


def deploy(assembly: Path, aws: Aws) -> Deployment:
    """Create the one stack of a CDK assembly (a ``cdk.out`` directory), its assets first.

    Raises:
        DeploymentRefused: a resource type is unknown, or the stack did not complete.
    """
    stack_name, template_path, assets_path = _stack_of(assembly)
    template = json.loads(template_path.read_text(encoding="utf-8"))
    _install(aws)
    refuse_unknown_types(template)
    if BOOTSTRAP_PARAMETER in json.dumps(template.get("Parameters", {})):
        aws.client("ssm").put_parameter(
            Name=BOOTSTRAP_PARAMETER, Value=BOOTSTRAP_VERSION, Type="String", Overwrite=True
        )
    if assets_path is not None:
        upload_assets(json.loads(assets_path.read_text(encoding="utf-8")), assembly, aws)
    formation = aws.client("cloudformation")
    _refusals.clear()
    try:
        formation.create_stack(
            StackName=stack_name,
            TemplateBody=json.dumps(_without_metadata(template)),
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
    except (ClientError, BotoCoreError, ResponseParserError) as failure:
        raise DeploymentRefused(f"{stack_name}: {'; '.join(_refusals) or failure}") from failure
    return _check_complete(formation, stack_name, template)


def _stack_of(assembly: Path) -> tuple[str, Path, Path | None]:
    artifacts = json.loads((assembly / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    stacks = {name: artifact for name, artifact in artifacts.items() if artifact["type"] == "aws:cloudformation:stack"}
    if len(stacks) != 1:
        raise DeploymentRefused(f"the assembly has {len(stacks)} stacks; this deploys exactly one")
    ((name, stack),) = stacks.items()
    assets = [a["properties"]["file"] for a in artifacts.values() if a["type"] == "cdk:asset-manifest"]
    return (
        stack["properties"].get("stackName", name),
        assembly / stack["properties"]["templateFile"],
        assembly / assets[0] if assets else None,
    )


def refuse_unknown_types(template: Mapping[str, Any]) -> None:
    known = set(parsing.get_model_map()) | _WITHOUT_RESOURCE | set(parsing.NULL_MODELS)
    unknown = {name: resource["Type"] for name, resource in template["Resources"].items()}
    refused = sorted(f"{type_} ({name})" for name, type_ in unknown.items() if type_ not in known)
    if refused:
        raise DeploymentRefused("no support for " + ", ".join(refused))


def _without_metadata(template: dict[str, Any]) -> dict[str, Any]:
    kept = {name: one for name, one in template["Resources"].items() if one["Type"] not in _WITHOUT_RESOURCE}
    return template | {"Resources": kept}


def upload_assets(manifest: Mapping[str, Any], assembly: Path, aws: Aws) -> None:
    """Put every file asset where the template will look for it; directories are zipped."""
    s3 = aws.client("s3")
    buckets: set[str] = set()
    for asset in manifest.get("files", {}).values():
        source = asset["source"]
        path = assembly / source["path"]
        body = _zipped(path) if source["packaging"] == "zip" else path.read_bytes()
        for destination in asset["destinations"].values():
            bucket = _concrete(destination["bucketName"], aws)
            if bucket not in buckets:
                with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
                    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": aws.region})
                buckets.add(bucket)
            s3.put_object(Bucket=bucket, Key=_concrete(destination["objectKey"], aws), Body=body)


def _concrete(text: str, aws: Aws) -> str:
    for placeholder, value in (
        ("${AWS::AccountId}", aws.account_id),
        ("${AWS::Region}", aws.region),
        ("${AWS::Partition}", "aws"),
    ):
        text = text.replace(placeholder, value)
    return text


def _zipped(directory: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(directory))
    return buffer.getvalue()


def _check_complete(formation: Any, stack_name: str, template: Mapping[str, Any]) -> Deployment:
    (stack,) = formation.describe_stacks(StackName=stack_name)["Stacks"]
    if stack["StackStatus"] != "CREATE_COMPLETE":
        raise DeploymentRefused(f"{stack_name} is {stack['StackStatus']}: {stack.get('StackStatusReason', '')}")
    made = {
        resource["LogicalResourceId"]: resource["PhysicalResourceId"]
        for page in formation.get_paginator("list_stack_resources").paginate(StackName=stack_name)
        for resource in page["StackResourceSummaries"]
    }
    wanted = {
        name
        for name, resource in template["Resources"].items()
        if resource["Type"] not in _WITHOUT_RESOURCE and "Condition" not in resource
    }
    if missing := sorted(wanted - made.keys()):
        raise DeploymentRefused(f"{stack_name} is complete without {', '.join(missing)}")
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    return Deployment(stack_name, dict(template), made, outputs)


# -- what moto lacks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A resource: what ``Ref`` and ``Fn::GetAtt`` answer."""

    physical_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


_Create = Callable[[Aws, str, dict[str, Any]], Made]
_Delete = Callable[[Aws, Made], None]

_aws: Aws | None = None
_refusals: list[str] = []
_MODELS: list[type[Any]] = []


def _deployer() -> Aws:
    if _aws is None:
        raise RuntimeError("nothing is being deployed")
    return _aws


def _resource(type_name: str, name_property: str = "", delete: _Delete | None = None) -> Callable[[_Create], _Create]:
    """Teach moto's CloudFormation a resource type: ``create`` gets a name and the resolved properties."""

    def define(create: _Create) -> _Create:
        class Resource(CloudFormationModel):  # type: ignore[misc]
            def __init__(self, made: Made) -> None:
                self.made = made

            @property
            def physical_resource_id(self) -> str:
                return self.made.physical_id

            @staticmethod
            def cloudformation_type() -> str:
                return type_name

            @staticmethod
            def cloudformation_name_type() -> str:
                return name_property

            @classmethod
            def has_cfn_attr(cls, attr: str) -> bool:
                return True

            def get_cfn_attribute(self, attribute: str) -> str:
                if attribute not in self.made.attributes:
                    raise DeploymentRefused(f"{type_name} has no attribute {attribute} here")
                return self.made.attributes[attribute]

            @classmethod
            def create_from_cloudformation_json(
                cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
            ) -> Resource:
                properties = dict(cloudformation_json["Properties"])
                name = properties.get(name_property, resource_name)
                try:
                    return cls(create(_deployer(), name, properties))
                except Exception as refusal:
                    # moto's server would say no more than 500.
                    _refusals.append(f"{type_name} {name}: {refusal}")
                    raise

            @classmethod
            def update_from_cloudformation_json(cls, *_: Any, **__: Any) -> None:
                raise DeploymentRefused(f"{type_name} cannot be updated here")

            @classmethod
            def delete_from_cloudformation_json(cls, *_: Any, **__: Any) -> None:
                raise DeploymentRefused(f"{type_name} cannot be deleted here")

            def delete(self, *_: Any) -> None:
                if delete is None:
                    raise DeploymentRefused(f"{type_name} cannot be deleted here")
                delete(_deployer(), self.made)

            def is_created(self) -> bool:
                return True

        Resource.__qualname__ = Resource.__name__ = type_name.replace("::", "")
        _MODELS.append(Resource)
        return create

    return define


def _only(properties: Mapping[str, Any], *known: str) -> None:
    """A property that would be left out is an error, where no API says so."""
    if unknown := sorted(properties.keys() - set(known)):
        raise DeploymentRefused(f"no support for {', '.join(unknown)}")


def _tags(properties: dict[str, Any]) -> list[dict[str, str]]:
    tags: list[dict[str, str]] = properties.get("Tags", [])
    return tags


@_resource("AWS::Scheduler::Schedule", "Name")
def _schedule(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    arn = aws.client("scheduler").create_schedule(**properties | {"Name": name})["ScheduleArn"]
    return Made(name, {"Arn": arn})


@_resource("AWS::Scheduler::ScheduleGroup", "Name")
def _schedule_group(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    arn = aws.client("scheduler").create_schedule_group(**properties | {"Name": name})["ScheduleGroupArn"]
    return Made(name, {"Arn": arn})


@_resource("AWS::CloudWatch::Alarm", "AlarmName")
def _alarm(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    aws.client("cloudwatch").put_metric_alarm(**properties | {"AlarmName": name})
    return Made(name, {"Arn": f"arn:aws:cloudwatch:{aws.region}:{aws.account_id}:alarm:{name}"})


@_resource("AWS::CloudWatch::CompositeAlarm", "AlarmName")
def _composite_alarm(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    aws.client("cloudwatch").put_composite_alarm(**properties | {"AlarmName": name})
    return Made(name, {"Arn": f"arn:aws:cloudwatch:{aws.region}:{aws.account_id}:alarm:{name}"})


@_resource("AWS::SNS::TopicPolicy")
def _topic_policy(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    _only(properties, "Topics", "PolicyDocument")
    for topic in properties["Topics"]:
        aws.client("sns").set_topic_attributes(
            TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(properties["PolicyDocument"])
        )
    return Made(name)


@_resource("AWS::SNS::Subscription")
def _subscription(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    attributes = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in properties.items()
        if key not in ("TopicArn", "Protocol", "Endpoint")
    }
    arn = aws.client("sns").subscribe(
        TopicArn=properties["TopicArn"],
        Protocol=properties["Protocol"],
        Endpoint=properties["Endpoint"],
        Attributes=attributes,
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    return Made(arn, {"Arn": arn})


@_resource("AWS::SQS::QueuePolicy")
def _queue_policy(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    _only(properties, "Queues", "PolicyDocument")
    for queue in properties["Queues"]:
        aws.client("sqs").set_queue_attributes(
            QueueUrl=queue, Attributes={"Policy": json.dumps(properties["PolicyDocument"])}
        )
    return Made(name)


@_resource("AWS::S3::BucketPolicy")
def _bucket_policy(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    _only(properties, "Bucket", "PolicyDocument")
    aws.client("s3").put_bucket_policy(Bucket=properties["Bucket"], Policy=json.dumps(properties["PolicyDocument"]))
    return Made(name)


@_resource("AWS::Logs::MetricFilter", "FilterName")
def _metric_filter(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    _only(properties, "FilterName", "LogGroupName", "FilterPattern", "MetricTransformations")
    transformations = [
        {key[0].lower() + key[1:]: value for key, value in transformation.items()}
        for transformation in properties["MetricTransformations"]
    ]
    aws.client("logs").put_metric_filter(
        logGroupName=properties["LogGroupName"],
        filterName=name,
        filterPattern=properties["FilterPattern"],
        metricTransformations=transformations,
    )
    return Made(name)


@_resource("AWS::IAM::Role", "RoleName")
def _role(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    """moto's own leaves the managed policies out, and stores inline ones as something that is not JSON."""
    backend = iam_backends[aws.account_id]["aws"]
    policies, managed = properties.pop("Policies", []), properties.pop("ManagedPolicyArns", [])
    trust = json.dumps(properties.pop("AssumeRolePolicyDocument"))
    _validate("iam", "CreateRole", properties | {"RoleName": name, "AssumeRolePolicyDocument": trust})
    role = backend.create_role(
        role_name=name,
        assume_role_policy_document=trust,
        path=properties.get("Path", "/"),
        permissions_boundary=properties.get("PermissionsBoundary"),
        description=properties.get("Description", ""),
        tags=_tags(properties),
        max_session_duration=properties.get("MaxSessionDuration", 3600),
    )
    for policy in policies:
        backend.put_role_policy(name, policy["PolicyName"], json.dumps(policy["PolicyDocument"]))
    for arn in managed:
        backend.attach_role_policy(arn, name)
    return Made(name, {"Arn": role.arn, "RoleId": role.id})


@_resource("AWS::IAM::Policy", "PolicyName")
def _policy(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    _only(properties, "PolicyName", "PolicyDocument", "Roles")
    for role in properties["Roles"]:
        iam_backends[aws.account_id]["aws"].put_role_policy(role, name, json.dumps(properties["PolicyDocument"]))
    return Made(name)


def _validate(service: str, operation: str, parameters: Mapping[str, Any]) -> None:
    """What the SDK would refuse to send.

    Most types are made through the API, which checks that. There are dozens of roles and functions, at 20 ms per call.
    """
    shape = loaded_service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, shape)
    if report.has_errors():
        raise DeploymentRefused(f"{operation}: {report.generate_report()}")


@functools.cache
def loaded_service_model(service: str) -> Any:
    return _session()._session.get_service_model(service)


@_resource("AWS::KMS::Key")
def _key(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    """moto's own keeps the policy as something that is not JSON."""
    kms = aws.client("kms")
    rotation = properties.pop("EnableKeyRotation", False)
    properties.pop("PendingWindowInDays", None)  # for the deletion of the stack
    tags = [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.pop("Tags", [])]
    policy = json.dumps(properties.pop("KeyPolicy"))
    key = kms.create_key(Policy=policy, Tags=tags, **properties)["KeyMetadata"]
    if rotation:
        kms.enable_key_rotation(KeyId=key["KeyId"])
    return Made(key["KeyId"], {"Arn": key["Arn"], "KeyId": key["KeyId"]})


@_resource("AWS::Lambda::Function", "FunctionName")
def _function(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    """moto's own leaves out layers, tracing, architectures and logging."""
    tags = {tag["Key"]: tag["Value"] for tag in properties.pop("Tags", [])}
    code = dict(properties.pop("Code"))
    if "ZipFile" in code:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("index.py", code["ZipFile"])
        code["ZipFile"] = buffer.getvalue()
    spec = properties | {"FunctionName": name, "Code": code, "Tags": tags}
    _validate("lambda", "CreateFunction", spec)
    made = lambda_backend(aws.account_id, aws.region).create_function(spec)
    return Made(name, {"Arn": made.function_arn})


@_resource("AWS::Lambda::LayerVersion", "LayerName")
def _layer(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    made = aws.client("lambda").publish_layer_version(**properties | {"LayerName": name})
    return Made(made["LayerVersionArn"], {"LayerVersionArn": made["LayerVersionArn"]})


@_resource("AWS::Lambda::Alias")
def _alias(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    arn = aws.client("lambda").create_alias(**properties)["AliasArn"]
    return Made(arn, {"AliasArn": arn})


@_resource("AWS::Lambda::EventInvokeConfig")
def _event_invoke_config(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    aws.client("lambda").put_function_event_invoke_config(**properties)
    return Made(name)


@_resource("AWS::Lambda::Version")
def _version(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    """moto's own answers ``Ref`` with an object; a Version's Ref is its ARN."""
    _only(properties, "FunctionName", "Description", "CodeSha256")
    version = lambda_backend(aws.account_id, aws.region).publish_version(
        properties["FunctionName"], properties.get("Description", "")
    )
    arn = version.function_arn
    if not arn.endswith(f":{version.version}"):
        arn = f"{arn}:{version.version}"
    return Made(arn, {"Version": str(version.version), "FunctionArn": arn})


@_resource("AWS::SecretsManager::Secret", "Name")
def _secret(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    client = aws.client("secretsmanager")
    if generate := properties.pop("GenerateSecretString", None):
        generated = {key: value for key, value in generate.items() if key not in _TEMPLATE_OF_SECRET}
        value = client.get_random_password(**generated)["RandomPassword"]
        if "SecretStringTemplate" in generate:
            value = json.dumps(json.loads(generate["SecretStringTemplate"]) | {generate["GenerateStringKey"]: value})
        properties["SecretString"] = value
    arn = client.create_secret(**properties | {"Name": name})["ARN"]
    return Made(arn, {"Id": arn})


_TEMPLATE_OF_SECRET = ("SecretStringTemplate", "GenerateStringKey")


def _delete_security_group(aws: Aws, made: Made) -> None:
    aws.client("ec2").delete_security_group(GroupId=made.physical_id)


@_resource("AWS::EC2::SecurityGroup", "GroupName", _delete_security_group)
def _security_group(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    """moto's own leaves out the name, rules that let something out, and sources of version 6."""
    _only(
        properties, "GroupDescription", "GroupName", "VpcId", "SecurityGroupIngress", "SecurityGroupEgress", "Tags"
    )  # fmt: skip
    ec2 = aws.client("ec2")
    where = {"VpcId": properties["VpcId"]} if "VpcId" in properties else {}
    group = {
        "GroupId": ec2.create_security_group(
            GroupName=name, Description=properties["GroupDescription"], **where
        )["GroupId"]
    }  # fmt: skip
    if tags := _tags(properties):
        ec2.create_tags(Resources=[group["GroupId"]], Tags=tags)
    for rule in properties.get("SecurityGroupIngress", []):
        ec2.authorize_security_group_ingress(**group, IpPermissions=[_permission(rule, "Source")])
    if rules := properties.get("SecurityGroupEgress"):
        # In place of the one that EC2 gives to every group.
        (described,) = ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
        ec2.revoke_security_group_egress(**group, IpPermissions=described["IpPermissionsEgress"])
        for rule in rules:
            ec2.authorize_security_group_egress(**group, IpPermissions=[_permission(rule, "Destination")])
    return Made(group["GroupId"], group)


def _permission(rule: Mapping[str, Any], other: str) -> dict[str, Any]:
    """A rule of a template as the API has it. ``other``: what the names of its other end begin with."""
    ranges = {"CidrIp": "IpRanges", "CidrIpv6": "Ipv6Ranges"}
    _only(
        rule, "GroupId", "IpProtocol", "FromPort", "ToPort", "Description", *ranges, f"{other}SecurityGroupId",
        f"{other}PrefixListId",
    )  # fmt: skip
    permission: dict[str, Any] = {"IpProtocol": str(rule["IpProtocol"])}
    permission |= {key: int(rule[key]) for key in ("FromPort", "ToPort") if key in rule}
    described = {"Description": rule["Description"]} if "Description" in rule else {}
    for cidr, member in ranges.items():
        if cidr in rule:
            permission[member] = [{cidr: rule[cidr]} | described]
    if f"{other}SecurityGroupId" in rule:
        permission["UserIdGroupPairs"] = [{"GroupId": rule[f"{other}SecurityGroupId"]} | described]
    if f"{other}PrefixListId" in rule:
        permission["PrefixListIds"] = [{"PrefixListId": rule[f"{other}PrefixListId"]} | described]
    return permission


@_resource("AWS::EC2::SecurityGroupEgress")
def _egress(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    answer = aws.client("ec2").authorize_security_group_egress(
        GroupId=properties["GroupId"], IpPermissions=[_permission(properties, "Destination")]
    )
    rules = answer.get("SecurityGroupRules") or [{}]
    return Made(rules[0].get("SecurityGroupRuleId", name), {"Id": rules[0].get("SecurityGroupRuleId", name)})


@_resource("AWS::StepFunctions::StateMachine", "StateMachineName")
def _state_machine(aws: Aws, name: str, properties: dict[str, Any]) -> Made:
    """moto's own uses the backend that executes nothing, and forgets substitutions, logging and tracing."""
    _only(properties, "StateMachineName", "StateMachineType", "RoleArn", "Tags", *_DEFINITIONS, *_CONFIGURATIONS)
    definition = properties.get("DefinitionString") or json.dumps(properties.get("Definition") or {})
    if location := properties.get("DefinitionS3Location"):
        stored = s3_backends[aws.account_id]["aws"].get_object(location["Bucket"], location["Key"])
        definition = stored.value.decode()
    for placeholder, value in (properties.get("DefinitionSubstitutions") or {}).items():
        definition = definition.replace("${" + placeholder + "}", str(value))
    arn = aws.client("stepfunctions").create_state_machine(
        name=name,
        definition=definition,
        roleArn=properties["RoleArn"],
        type=properties.get("StateMachineType", "STANDARD"),
        tags=[{"key": tag["Key"], "value": tag["Value"]} for tag in _tags(properties)],
        **_camel_case(properties, *_CONFIGURATIONS),
    )["stateMachineArn"]
    return Made(arn, {"Arn": arn, "Name": name, "StateMachineRevisionId": "INITIAL"})


_DEFINITIONS = ("DefinitionString", "Definition", "DefinitionS3Location", "DefinitionSubstitutions")
_CONFIGURATIONS = ("LoggingConfiguration", "TracingConfiguration", "EncryptionConfiguration")


def _camel_case(properties: Mapping[str, Any], *names: str) -> dict[str, Any]:
    def first_lower(value: Any) -> Any:
        if isinstance(value, dict):
            return {key[0].lower() + key[1:]: first_lower(item) for key, item in value.items()}
        return [first_lower(item) for item in value] if isinstance(value, list) else value

    chosen: dict[str, Any] = first_lower({name: properties[name] for name in names if name in properties})
    return chosen


class _RefusingLogger:
    """moto's parser warns where CloudFormation fails."""

    def warning(self, message: str, *arguments: Any) -> None:
        _refusals.append(message % arguments if arguments else message)
        raise DeploymentRefused(_refusals[-1])


_parse_yaml = Stack.parse_template


def _parse_template(template: str) -> Any:
    """moto reads every template as YAML, which takes seconds for one of the CDK's."""
    try:
        return json.loads(template)
    except json.JSONDecodeError:
        return _parse_yaml(template)


def _install(aws: Aws) -> None:
    global _aws
    _aws = aws
    stepfunctions_models.stepfunctions_backends = stepfunctions_parser_backends
    parsing.logger = _RefusingLogger()
    Stack.parse_template = staticmethod(_parse_template)
    for cache in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
        cache.cache_clear()
    # moto takes the last class of a type: ours, defined after its own.
    if parsing.get_model_map()["AWS::Lambda::Version"] is LambdaVersion:
        raise RuntimeError("moto's resource types would win over the sandbox's own")
