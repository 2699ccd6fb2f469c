"""The typed configuration of one environment: ``config/<env>.yaml``, checked before anything is constructed."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidationInfo, field_validator

CONFIG_DIRECTORY = Path(__file__).resolve().parent.parent / "config"

Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Arn = Annotated[str, StringConstraints(pattern=r"^arn:[a-z-]+:[a-z0-9-]+:[a-z0-9-]*:(\d{12})?:.+$")]


class ConfigInvalid(Exception):
    """The configuration cannot be used; the message has one line for each thing to correct."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Section):
    """When ``rotate_fleet`` starts."""

    expression: str = "cron(0 0 1 */3 ? *)"
    time_zone: str = "UTC"
    state: Literal["enabled", "disabled"] = "enabled"

    @field_validator("expression")
    @classmethod
    def _is_a_recurring_expression(cls, value: str) -> str:
        if not value.startswith(("cron(", "rate(")) or not value.endswith(")"):
            raise ValueError("has to be cron(...) or rate(...)")
        return value


class Defaults(_Section):
    """What holds for a database whose tags do not say otherwise (docs: the ``key-rotation:`` tags)."""

    strategy: Literal["read-replica", "blue-green", "snapshot", "catch-up", "auto"] = "read-replica"
    grace_days: float = Field(7, ge=0, le=300)
    min_age_days: int = Field(30, ge=0, le=36_500)
    write_outage_budget_seconds: int = Field(120, ge=5, le=600)
    retire_key: Literal["auto", "true", "false"] = "auto"


class Subnet(_Section):
    subnet_id: str = Field(pattern=r"^subnet-[0-9a-f]+$")
    availability_zone: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d[a-z]$")
    route_table_id: str = Field(pattern=r"^rtb-[0-9a-f]+$")


class Vpc(_Section):
    """Where the functions that speak SQL run, and how they reach AWS from there.

    ``nat``: through the subnets' own way out. ``endpoints``: through endpoints that exist.
    ``create-endpoints``: this stack makes the ones that the permission matrix implies.
    """

    vpc_id: str = Field(pattern=r"^vpc-[0-9a-f]+$")
    subnets: tuple[Subnet, ...] = Field(min_length=1)
    security_group_id: str = Field(pattern=r"^sg-[0-9a-f]+$")
    aws_access: Literal["nat", "endpoints", "create-endpoints"]


class Alarms(_Section):
    """Who is told. Addresses subscribe to the topic; the pager's topic gets alarms only, and exists already."""

    emails: tuple[str, ...] = ()
    pager_topic_arn: Arn | None = None
    replica_lag_bytes: int = Field(2**30, gt=0)


class Config(_Section):
    account: str = Field(pattern=r"^\d{12}$")
    region: Region
    name_prefix: str = Field("rds-key-rotation", pattern=r"^[a-z][a-z0-9-]{1,30}$")
    schedule: Schedule = Field(default_factory=Schedule)
    defaults: Defaults = Field(default_factory=lambda: Defaults.model_validate({}))
    vpc: Vpc | None = None
    network_fence: bool = False
    """Make the security group by which databases can be closed that nobody logs in to, and grant what that takes."""
    backup_regions: tuple[Region, ...] = Field((), max_length=10)
    """Where automated backups of databases may be replicated to: a rotation makes a key there, and begins anew."""
    login_secret_names: tuple[str, ...] = ()
    endpoint_secret_names: tuple[str, ...] = ()
    """Those that functions may write to, too; what both lists name they may read."""
    secret_key_arns: tuple[Arn, ...] = ()
    secret_rotation_function_arns: tuple[Arn, ...] = ()
    hosted_zone_ids: tuple[str, ...] = ()
    record_names: tuple[str, ...] = ()
    """Of CNAMEs in those zones, ``*`` for anything: a zone holds others' names, too, and proofs of who owns it."""

    @field_validator("record_names")
    @classmethod
    def _are_normalized(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """As Route 53 compares them (Route 53 Developer Guide: normalized record names)."""
        if any(name != name.lower() or name.endswith(".") for name in value):
            raise ValueError("has to list names in small letters, without a dot at the end")
        return value

    proxy_arns: tuple[Arn, ...] = ()
    monitoring_role_arns: tuple[Arn, ...] = ()
    associated_role_arns: tuple[Arn, ...] = ()
    retirable_key_arns: tuple[Arn, ...] = ()
    log_retention: Literal[
        "one-month", "three-months", "six-months", "one-year", "two-years", "five-years", "ten-years"
    ] = "one-year"
    alarms: Alarms = Field(default_factory=lambda: Alarms.model_validate({}))
    permissions_boundary: str | None = None

    @field_validator("proxy_arns")
    @classmethod
    def _has_both_of_each_proxy(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """A proxy without its target group could lose its target, and get no other one."""
        kinds = [arn.split(":")[5] for arn in value]
        if set(kinds) - {"db-proxy", "target-group"} or kinds.count("db-proxy") != kinds.count("target-group"):
            raise ValueError("has to list each db-proxy with its target-group")
        return value

    @field_validator("backup_regions")
    @classmethod
    def _are_other_regions(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        own = str(info.data.get("region"))
        if len(set(value)) != len(value) or own in value:
            raise ValueError("has to list other Regions than the stack's, each once")
        if any(_partition(region) != _partition(own) for region in value):
            raise ValueError("has to list Regions of the stack's partition: RDS replicates to no other")
        return value

    def arn(self, service: str, resource: str, region: str | None = None) -> str:
        """The ARN of something regional in this account. Written out, so that the template can be read."""
        return f"arn:{self.partition}:{service}:{region or self.region}:{self.account}:{resource}"

    @property
    def partition(self) -> str:
        return _partition(self.region)

    # Names are explicit where something is named before it exists: functions, schedules, rules and permissions would
    # otherwise refer to each other in a circle. Nothing else is named by hand.

    def name(self, what: str) -> str:
        """``rotate-key`` -> ``<prefix>-rotate-key``."""
        return f"{self.name_prefix}-{what}"

    def state_machine_arn(self, workflow: str) -> str:
        return self.arn("states", f"stateMachine:{self.name(workflow.replace('_', '-'))}")

    @property
    def ledger_table_arn(self) -> str:
        return self.arn("dynamodb", f"table/{self.name('ledger')}")

    @property
    def topic_arn(self) -> str:
        return self.arn("sns", self.name("notifications"))

    @property
    def dashboards_arn(self) -> str:
        """Dashboards belong to no Region."""
        return f"arn:{self.partition}:cloudwatch::{self.account}:dashboard/*"

    @property
    def recovery_group(self) -> str:
        """The schedule group of the one-time schedules that recover a rotation between fence and release."""
        return self.name("recovery")

    @property
    def recovery_role_name(self) -> str:
        """IAM is global: without the Region a second Region's stack could not be deployed."""
        return f"{self.name('recovery')}-{self.region}"

    @property
    def recovery_role_arn(self) -> str:
        return f"arn:{self.partition}:iam::{self.account}:role/{self.recovery_role_name}"

    @property
    def dead_letter_arn(self) -> str:
        return self.arn("sqs", self.name("undelivered"))


def _partition(region: str) -> str:
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def load(env: str, directory: Path = CONFIG_DIRECTORY) -> Config:
    """Read ``<directory>/<env>.yaml``.

    Raises:
        ConfigInvalid: the file is missing, is no YAML, or holds an unknown field or a wrong value.
    """
    path = directory / f"{env}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in directory.glob("*.yaml"))) or "none"
        raise ConfigInvalid(
            f"no configuration '{env}' ({path.name} does not exist in {directory.name}/; there are: {known})"
        )
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as broken:  # dates that are none, bytes that are not UTF-8
        raise ConfigInvalid(f"{path.name} is not YAML: {broken}") from broken
    try:
        return Config.model_validate(content)
    except ValidationError as invalid:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']} (got {e['input']!r})" for e in invalid.errors()]
        raise ConfigInvalid(f"{path.name} cannot be used:\n  " + "\n  ".join(lines)) from invalid
