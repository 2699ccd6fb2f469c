"""How long RDS takes. One table, so that a scenario can change it."""

from dataclasses import dataclass


@dataclass
class Durations:
    """Virtual minutes, except where the name says otherwise.

    They pass on the virtual clock, and only while an execution runs: without one that clock does not jump, and an
    operation takes the real time of its work and ``unattended_seconds`` for each status.
    """

    create: float = 5
    replica: float = 10
    green: float = 15
    """Each member of a blue/green deployment."""

    deployment_deletion: float = 1
    restore: float = 8
    storage_initialization: float = 2
    backup: float = 3
    snapshot: float = 5
    copy: float = 10
    modify: float = 1
    security_groups: float = 0.5
    """Until other VPC security groups are in force."""

    rename: float = 2
    rename_until_resolvable: float = 8
    reboot: float = 1
    stop: float = 2
    start: float = 3
    delete: float = 3
    proxy_registration: float = 1
    """Until a proxy leads to a database."""

    inaccessible_key: float = 120
    """From a key that cannot be used to the status that says so."""

    promotion_seconds: float = 1.0
    """Real: between the fence and the release the clock does not jump."""

    switchover_seconds: float = 1.0
    """Real: nobody can connect to either side of a blue/green deployment meanwhile."""

    longest_switchover_seconds: float = 3600
    """Real: it is given up after that, however much time the request allows."""

    stale_status_seconds: float = 0.2
    """Real: for a moment after a call the status is still the one from before."""

    parameters_seconds: float = 0.5
    """Real: from a change of a parameter group to its effect on the servers."""

    key_propagation_seconds: float = 1.0
    """Real: a key younger than this is not known everywhere; its first use fails."""

    unattended_seconds: float = 0.1
    """Real."""
