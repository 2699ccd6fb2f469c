"""What a rotation by snapshot costs those who write."""

from collections.abc import Iterator

from lambdas.preflight.checks import instance, login
from lambdas.rotation import databases
from lambdas.rotation.errors import AccessRefused, LoginRefused
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation


def downtime(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """RDS takes a snapshot, copies all of it and restores the copy while nobody can write."""
    plan, _ = rotation.planned()
    if "downtime" not in plan.accept:
        yield Finding(
            name="Downtime",
            message=f"strategy snapshot keeps applications out of {source.database.identifier} "
            f"({_size(source)}) while RDS copies all of it: for minutes to hours, "
            f"{plan.write_outage_budget_seconds} s at most",
            advice='time it on a copy, set WriteOutageBudgetSeconds, then accept it: "Accept": ["downtime"]',
        )


def orderable(source: Instance, ports: Ports) -> Iterator[Finding]:
    """A restore makes new instances, of the version and the classes of today: RDS may have stopped making such ones.

    Else RDS would say so when it is asked for the target: of a snapshot under the fence, of a catch-up hours later.
    """
    database = source.database
    instances = databases.instances_of(source, ports) if database.is_cluster else [source]
    classes = {one.raw["DBInstanceClass"] for one in instances if one.raw.get("DBInstanceClass")}
    for name in sorted(classes):
        if not ports.rds.is_orderable(database.engine, database.engine_version, name):
            yield Finding(
                name="NotOrderable",
                message=f"RDS makes no new {name} of {database.engine} {database.engine_version}, as "
                f"{database.identifier} has it",
                advice="upgrade the version, or change the class, to what RDS still makes "
                "(aws rds describe-orderable-db-instance-options)",
            )


def master_password(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Where RDS manages it: of the target, too, from then on, in a secret of the target's own."""
    secret = source.raw.get("MasterUserSecret") or {}
    if not secret:
        return
    plan, database = rotation.planned()
    if "managed-master-password" not in plan.accept:
        yield Finding(
            name="ManagedMasterPassword",
            message=f"RDS manages the master password of {database.identifier}: the target gets another one, in a "
            f"secret of its own, and {secret.get('SecretArn')} goes with the source",
            advice="let whoever logs in with it find the target's secret (MasterUserSecret), and accept it: "
            '"Accept": ["managed-master-password"]',
        )
    if _logs_in_as_master(rotation, source, ports):
        yield Finding(
            name="LoginIsMaster",
            message=f"the rotation logs in to {database.identifier} as its master user, whose password on the target "
            "only RDS will know: it could not look at what it has restored",
            advice="give it a login of its own (key-rotation:login-secret)",
        )
    key = secret.get("KmsKeyId")
    if key is not None and ports.kms.describe_key(key).manager != "AWS":
        yield Finding(
            name="MasterSecretKey",
            message=f"the secret of {database.identifier}'s master password is under {key}, which the rotation may not "
            "lend to Secrets Manager for the target's",
            advice="turn the management off and on again without a key, or leave it off",
        )


def _logs_in_as_master(rotation: Rotation, source: Instance, ports: Ports) -> bool:
    login_secret = rotation.planned()[0].login_secret
    if login_secret is None:
        return False
    try:
        user, _ = ports.secrets.login(login_secret)
    except (AccessRefused, LoginRefused):
        return False  # said elsewhere
    return user == source.raw.get("MasterUsername")


def _size(source: Instance) -> str:
    if source.database.is_cluster and not source.database.is_multi_az_cluster:
        return "as large as its volume is"  # which RDS does not say
    return f"{instance.allocated_gib(source)} GiB"


def warnings(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    yield from login.warnings(rotation, ports)
    instead = "or choose read-replica" if rotation.planned()[0].fence == "server" else "before applications need them"
    yield from loads_lazily(source, instead)


def loads_lazily(source: Instance, instead: str) -> Iterator[Finding]:
    yield Finding(
        name="LoadsLazily",
        message=f"what is restored loads its storage while it is used: the target of {source.database.identifier} "
        "answers slowly at first",
        advice=f"read the tables that matter once after the cutover, {instead}",
    )
