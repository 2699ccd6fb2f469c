"""The commands for whoever has to remove by hand what a rotation could not."""

from lambdas.rotation.names import CONTROL_DATABASE, NETWORK_FENCE_TAG
from lambdas.rotation.state import Database, Plan

_PSQL = "psql postgres -c 'DROP DATABASE {} WITH (FORCE)'"
_DROP = {"aurora-postgresql": _PSQL, "mariadb": "mariadb -e 'DROP DATABASE {}'", "postgres": _PSQL}


def removal_of_control_database(database: Database, plan: Plan) -> str:
    if plan.fence == "network":
        command = f"aws rds remove-tags-from-resource --resource-name {database.arn} --tag-keys {NETWORK_FENCE_TAG}"
        return f"{command}  # and of its instances" if database.is_cluster else command
    return _DROP[database.engine].format(CONTROL_DATABASE)
