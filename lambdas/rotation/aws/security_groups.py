"""EC2's security groups, as far as a network fence depends on them."""

from collections.abc import Sequence

from lambdas.rotation.aws.client import pages


class Ec2SecurityGroups:
    """`ports.SecurityGroups`."""

    def inbound_rules(self, group_id: str) -> Sequence[str]:
        """A group that does not exist is refused by EC2 (AwsRefused), and is no empty one."""
        filters = [{"Name": "group-id", "Values": [group_id]}]
        found = pages("ec2", "describe_security_group_rules", "SecurityGroupRules", Filters=filters)
        return [rule["SecurityGroupRuleId"] for rule in found if not rule["IsEgress"]]
