"""The customer's way into an AWS account: what ``python -m sandbox up --json`` prints, and the clients made of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Account:
    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    dns_host: str
    dns_port: int
    ca_bundle: str
    rotate_key_arn: str = ""
    rotate_fleet_arn: str = ""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Account":
        """From the JSON line of ``up``."""
        machines = facts.get("state_machines", {})
        return cls(
            endpoint_url=facts["endpoint_url"],
            region=facts["region"],
            access_key_id=facts["credentials"]["access_key_id"],
            secret_access_key=facts["credentials"]["secret_access_key"],
            dns_host=facts["dns"]["host"],
            dns_port=int(facts["dns"]["port"]),
            ca_bundle=str(facts["ca_bundle"]),
            rotate_key_arn=machines.get("rotate_key", ""),
            rotate_fleet_arn=machines.get("rotate_fleet", ""),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @cached_property
    def _clients(self) -> dict[str, Any]:
        return {}

    def client(self, service: str, region: str | None = None) -> Any:
        """A boto3 client of this account's administrator; one per service and Region."""
        named = f"{service} {region or self.region}"
        if named not in self._clients:
            import boto3
            from botocore.config import Config

            self._clients[named] = boto3.client(
                service,
                region_name=region or self.region,
                endpoint_url=self.endpoint_url,
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
                config=Config(retries={"mode": "standard", "max_attempts": 3}, read_timeout=60),
            )
        return self._clients[named]
