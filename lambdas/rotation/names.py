"""Names that the rotation gives, and the tags it sets and reads. Pure."""

import hashlib
import re
from collections.abc import Mapping, Sequence

OPT_IN = "key-rotation:"
"""Prefix of the tags that a database's owner sets (design: opt-in and policy)."""

OURS = "rds-key-rotation:"
"""Prefix of the tags that only a rotation sets; permissions are bound to them."""

ROTATION_ID_TAG = OURS + "rotation-id"
BASE_NAME_TAG = OURS + "base-name"
DECOMMISSION_TAG = OURS + "decommission"
"""Set on a source after its cutover, with the rotation's id; without it no function may delete a database."""

RELEASED_TAG = OURS + "released"
"""Set on a target after its release: no rollback may delete what applications write to."""

DEPLOYMENT_TAG = OURS + "deployment"
"""Set on every member of a blue/green deployment, with the rotation's id; the right to switch over is bound to it."""

GREEN_TAG = OURS + "green"
"""Set on green only, and gone at the switchover, when RDS gives green blue's tags: what has it is no production."""

NETWORK_FENCE_TAG = OURS + "network-fence"
"""Set on a source before its network fence, with the base name; the right to change its security groups is bound to
it."""

TAGS_AT_MOST = 50
"""On a resource, AWS's own not counted (RDS and KMS: quotas)."""

CONTROL_DATABASE = "rds_key_rotation"
"""The rotation's own database on the server: ``claim``, ``marker`` and ``decision``, and what a catch-up notes."""

CAPTURE = "rds_key_rotation_"
"""Beginning of the names of what captures a source's commits: publication, slots, subscription."""

CLUSTER = "cluster/"
"""Before the base name of a cluster: an instance may have the same identifier, and is another database."""

_IDENTIFIER_LENGTH = 63
_CLUSTERS_LENGTH = 52
"""Of a Multi-AZ DB cluster, whose instances RDS names after it (RDS API reference: CreateDBCluster)."""
_DEPLOYMENT_NAME_LENGTH = 60


def rotation_id_of(execution_arn: str) -> str:
    """Eight hex digits that follow from the execution, so that StartExecution's own idempotency covers the rotation.

    >>> rotation_id_of("arn:aws:states:eu-central-1:123456789012:execution:rotate-key:first")
    '83bcb8d2'
    """
    return hashlib.sha256(execution_arn.encode()).hexdigest()[:8]


def capture_name(rotation_id: str) -> str:
    """Of a publication and a subscription, and the beginning of a slot's.

    >>> capture_name("83bcb8d2")
    'rds_key_rotation_83bcb8d2'
    """
    return CAPTURE + rotation_id


def shortened(name: str, length: int) -> str:
    """``name``, or its beginning and a hash of the whole where it is longer than ``length``.

    >>> shortened("orders", 10), shortened("o" * 70, 20)
    ('orders', 'ooooooooooo-52555027')
    """
    if len(name) <= length:
        return name
    return f"{name[: length - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def identifier_of(base_name: str) -> str:
    """As RDS names it.

    >>> identifier_of("orders"), identifier_of("cluster/orders")
    ('orders', 'orders')
    """
    return base_name.removeprefix(CLUSTER)


def target_identifier(base_name: str, rotation_id: str) -> str:
    """``<base>-rot-<id>``; never built on the name of an earlier target.

    >>> target_identifier("orders", "10c59dbe")
    'orders-rot-10c59dbe'
    """
    return _with(base_name, f"-rot-{rotation_id}")


def _with(base_name: str, suffix: str) -> str:
    length = _CLUSTERS_LENGTH if base_name.startswith(CLUSTER) else _IDENTIFIER_LENGTH
    return shortened(identifier_of(base_name), length - len(suffix)) + suffix


def member_identifier(identifier: str, rotation_id: str) -> str:
    """Of the target's instance that takes the place of this one of the source; an earlier rotation may have named that.

    >>> member_identifier("orders-1", "10c59dbe"), member_identifier("orders-1-rot-83bcb8d2", "10c59dbe")
    ('orders-1-rot-10c59dbe', 'orders-1-rot-10c59dbe')
    """
    return target_identifier(re.sub(r"-rot-[0-9a-f]{8}$", "", identifier), rotation_id)


def successor_identifier(replica: str, rotation_id: str) -> str:
    """Of what takes a replica's place, until it has the name; never a target's, whatever the replica is called.

    >>> successor_identifier("orders", "10c59dbe")
    'orders-rot-10c59dbe-replica'
    """
    return _with(replica, f"-rot-{rotation_id}-replica")


def replaced_identifier(replica: str, rotation_id: str) -> str:
    """Of a replica that has given its name away.

    >>> replaced_identifier("reports", "10c59dbe")
    'reports-old-10c59dbe'
    """
    return _with(replica, f"-old-{rotation_id}")


def deployment_name(base_name: str, rotation_id: str) -> str:
    """Of the rotation's blue/green deployment, by which a repeated request finds it.

    >>> deployment_name("orders", "10c59dbe")
    'orders-rot-10c59dbe'
    """
    suffix = f"-rot-{rotation_id}"
    return shortened(identifier_of(base_name), _DEPLOYMENT_NAME_LENGTH - len(suffix)) + suffix


def interim_cluster(base_name: str, rotation_id: str) -> str:
    """Of what a snapshot is restored as for a moment, where RDS copies none under a key.

    >>> interim_cluster("cluster/orders", "10c59dbe")
    'orders-rot-10c59dbe-interim'
    """
    return _with(base_name, f"-rot-{rotation_id}-interim")


def temporary_snapshot(target: str) -> str:
    """The source's last snapshot, still under the old key; deleted as soon as its copy is available."""
    return f"{target}-source"


def kept_snapshot(target: str) -> str:
    """The copy of the source's last snapshot under the new key."""
    return f"{target}-kept"


def rekeyed_snapshot(kept: str, rotation_id: str) -> str:
    """A kept snapshot of an earlier rotation, copied under the key of this one.

    >>> rekeyed_snapshot("orders-rot-83bcb8d2-kept", "0a1b2c3d")
    'orders-rot-83bcb8d2-kept-rekeyed-0a1b2c3d'
    >>> rekeyed_snapshot("orders-rot-83bcb8d2-kept-rekeyed-0a1b2c3d", "ffffffff")
    'orders-rot-83bcb8d2-kept-rekeyed-ffffffff'
    """
    # At the end only: a database may be named "orders-rekeyed-eu", and what it keeps must not all get one name.
    return re.sub(r"-rekeyed-[0-9a-f]{8}$", "", kept) + f"-rekeyed-{rotation_id}"


def is_kept_snapshot(name: str, base_name: str) -> bool:
    """Whether a rotation of this database gives this name to what it keeps, rekeyed by a later one or not.

    A snapshot that an owner takes of a target has our tags, because RDS copies them along; it has no name of ours.

    >>> [is_kept_snapshot(f"orders-rot-83bcb8d2-{end}", "orders") for end in ("kept", "kept-rekeyed-0a1b2c3d")]
    [True, True]
    >>> [is_kept_snapshot(f"orders-rot-83bcb8d2-{end}", "orders") for end in ("kept-2", "before-release", "source")]
    [False, False, False]
    >>> is_kept_snapshot("orders-rot-83bcb8d2-kept", "orders-eu")
    False
    """
    found = re.fullmatch(r"(.+-rot-([0-9a-f]{8}))-kept(?:-rekeyed-[0-9a-f]{8})?", name)
    return found is not None and found[1] == target_identifier(base_name, found[2])


_OUR_ALIASES = "alias/rds-rotation/"


def key_alias(base_name: str, rotation_id: str) -> str:
    return f"{_OUR_ALIASES}{base_name}/{rotation_id}"


def is_owners_alias(name: str) -> bool:
    """Neither a rotation's nor AWS's.

    >>> [is_owners_alias(name) for name in ("alias/prod-db", "alias/aws/rds", key_alias("orders", "10c59dbe"))]
    [True, False, False]
    """
    return not name.startswith((_OUR_ALIASES, "alias/aws/"))


def key_description(base_name: str, rotation_id: str, token: str) -> str:
    """By which a rotation knows its key again; ``token`` is in its journal alone, its id can be known before it begins.

    >>> key_description("orders", "10c59dbe", "5f0e")
    'RDS orders, rotation 10c59dbe (5f0e)'
    """
    return f"RDS {base_name}, rotation {rotation_id} ({token})"


def region_of(arn: str) -> str:
    """Of something that belongs to one.

    >>> region_of("arn:aws:rds:eu-west-1:123456789012:auto-backup:ab-1"), region_of("no ARN")
    ('eu-west-1', '')
    """
    return [*arn.split(":"), "", "", "", ""][3]


def our_tags(base_name: str, rotation_id: str) -> dict[str, str]:
    """What marks a resource as made by this rotation."""
    return {ROTATION_ID_TAG: rotation_id, BASE_NAME_TAG: base_name}


TAGS_OF_A_KEY = len(our_tags("", ""))
TAGS_OF_A_DATABASE = TAGS_OF_A_KEY + len((RELEASED_TAG, DECOMMISSION_TAG))
"""How many of ours there are at most: on a source that was a target before, when it is marked for its removal."""
TAGS_OF_A_MEMBER = TAGS_OF_A_DATABASE + len((DEPLOYMENT_TAG,))
"""Of a blue/green deployment. Green, which blue's tags come to, has ``GREEN_TAG`` and no mark for its removal."""


def tags_of_a_source(fence: str) -> int:
    """How many of ours it has at most, or an instance of it; by no blue/green deployment."""
    return TAGS_OF_A_DATABASE + (len((NETWORK_FENCE_TAG,)) if fence == "network" else 0)


def owners_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Neither AWS's nor a rotation's."""
    return {name: value for name, value in tags.items() if not name.startswith(("aws:", OURS))}


def opt_in_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if name.startswith(OPT_IN)}


def execution_name(base_name: str, scheduled_at: str) -> str:
    """An execution name (1-80 of ``[0-9A-Za-z_-]``) that is the same whenever the same schedule is delivered twice.

    >>> execution_name("orders", "2027-01-01T00:00:00Z")
    'fleet-20270101T000000Z-orders'
    >>> execution_name("cluster/orders", "2027-01-01T00:00:00Z")
    'fleet-20270101T000000Z-cluster_orders'
    """
    stamp = re.sub(r"[^0-9A-Za-z]", "", scheduled_at)
    # No identifier has an underscore: an instance named "cluster-orders" gets another name than this.
    return shortened(f"fleet-{stamp}-{base_name.replace('/', '_')}", 80)


_NAMED = 5


def named(found: Sequence[str]) -> str:
    """For a message, of which there may be too many: it becomes part of a state, which has its limits.

    >>> named(["a", "b"]), named(list("abcdefg"))
    ('a, b', 'a, b, c, d, e, …')
    """
    return ", ".join([*found[:_NAMED], *(["…"] if found[_NAMED:] else [])])
