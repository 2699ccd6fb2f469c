"""How the functions that speak SQL reach the databases and AWS."""

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from infra.config import Config, Vpc
from infra.tasks import Task

GATEWAY_SERVICES = frozenset({"dynamodb"})
ENDPOINT_NAMES = {"cloudwatch": "monitoring"}
WITHOUT_CALLS = frozenset({"iam"})
"""iam:PassRole is a permission, not a call."""


def endpoint_services(tasks: tuple[Task, ...]) -> list[str]:
    """The endpoints that functions in the VPC need: what their rows allow, no more, because each costs by the hour."""
    grants = [grant for task in tasks if task.connects_to_databases for grant in task.grants]
    prefixes = {action.split(":")[0] for grant in grants for action in grant.actions}
    return sorted(ENDPOINT_NAMES.get(prefix, prefix) for prefix in prefixes - WITHOUT_CALLS)


def isolation_group(scope: Construct, config: Config) -> str | None:
    """Id of a security group that lets nobody in, in the databases' VPC, and nobody out; else in the default one."""
    if not config.network_fence:
        return None
    group = ec2.CfnSecurityGroup(
        scope,
        "IsolationGroup",
        group_description="Closes a database whose key is being rotated. Never add a rule.",
        vpc_id=config.vpc.vpc_id if config.vpc else None,
        # Left out, EC2 lets everybody out; CloudFormation takes rules for a VPC that it knows.
        security_group_egress=[
            ec2.CfnSecurityGroup.EgressProperty(ip_protocol="-1", cidr_ip="127.0.0.1/32", description="Nowhere")
        ]
        if config.vpc
        else None,
    )
    # A database of before may still have it: the source, until its grace period is over.
    group.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    return group.attr_group_id


class Network(Construct):
    """Where functions that speak SQL run. Imported, not made: it is the databases' network."""

    def __init__(self, scope: Construct, given: Vpc, config: Config, tasks: tuple[Task, ...]) -> None:
        super().__init__(scope, "Network")
        self.vpc = ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=given.vpc_id,
            availability_zones=[subnet.availability_zone for subnet in given.subnets],
            private_subnet_ids=[subnet.subnet_id for subnet in given.subnets],
            private_subnet_route_table_ids=[subnet.route_table_id for subnet in given.subnets],
        )
        # Immutable: the group is not ours, and no rule is added to it behind its owner's back.
        self.security_group = ec2.SecurityGroup.from_security_group_id(
            self, "SecurityGroup", given.security_group_id, mutable=False
        )
        if given.aws_access == "create-endpoints":
            self._create_endpoints(given, config, endpoint_services(tasks))

    def _create_endpoints(self, given: Vpc, config: Config, services: list[str]) -> None:
        group = ec2.SecurityGroup(
            self, "Endpoints", vpc=self.vpc, allow_all_outbound=False, description="AWS endpoints of the key rotation"
        )
        group.add_ingress_rule(self.security_group, ec2.Port.tcp(443), "functions of the key rotation")
        for service in services:
            name = f"com.amazonaws.{config.region}.{service}"
            if service in GATEWAY_SERVICES:
                ec2.CfnVPCEndpoint(
                    self,
                    service,
                    vpc_id=given.vpc_id,
                    service_name=name,
                    vpc_endpoint_type="Gateway",
                    route_table_ids=sorted({subnet.route_table_id for subnet in given.subnets}),
                )
            else:
                ec2.CfnVPCEndpoint(
                    self,
                    service,
                    vpc_id=given.vpc_id,
                    service_name=name,
                    vpc_endpoint_type="Interface",
                    private_dns_enabled=True,
                    subnet_ids=[subnet.subnet_id for subnet in given.subnets],
                    security_group_ids=[group.security_group_id],
                )
