"""Secrets Manager: the rotation's own login, and the secret in which applications find the database's address.

No value of a secret is ever part of a message, a log line or the state; field names and the host are.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeGuard

from lambdas.rotation.aws.client import calls, client
from lambdas.rotation.errors import AccessRefused, AwsRefused, ConnectivityChanged, LoginRefused
from lambdas.rotation.hosts import are_same, normalised
from lambdas.rotation.ports import Clock
from lambdas.rotation.state import Database, EndpointSecret, Finding, ManagedRotation

_ABOUT_TO_ROTATE = timedelta(hours=2)
_NAMESPACE = uuid.UUID("6f1c2a52-6d0e-4d0c-9c58-0d6a3a9b2a11")
_ADDRESS_FIELDS = ("host", "port", "dbInstanceIdentifier")


class SecretsManager:
    """`ports.Secrets`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def login(self, secret_id: str) -> tuple[str, str]:
        try:
            text, _, _ = _current(secret_id)
        except AwsRefused as refused:
            raise LoginRefused(f"the login secret cannot be read: {refused}") from refused
        fields = _fields(text)
        user, password = (None, None) if fields is None else (fields.get("username"), fields.get("password"))
        if not _is_text(user) or not _is_text(password):
            raise LoginRefused(f"{secret_id} needs the JSON fields username and password, each a text")
        return user, password

    def describe_endpoint(self, secret_id: str) -> EndpointSecret:
        """The address that applications read from the secret.

        Raises:
            ConnectivityChanged: terminal; it is not JSON with a ``host``.
        """
        text, arn, version_id = _current(secret_id)
        fields = _fields(text)
        host = None if fields is None else fields.get("host")
        if fields is None or not _is_text(host):
            raise ConnectivityChanged(f"{secret_id} is not a JSON object with a field host")
        return EndpointSecret(arn=arn, version_id=version_id, host=host, port=_port(fields.get("port")))

    def limitations(self, secret_id: str, *, purpose: str) -> Sequence[Finding]:
        """Why this secret cannot serve as ``login`` or as ``endpoint`` during a rotation."""
        tag = "key-rotation:login-secret" if purpose == "login" else "key-rotation:endpoint-secret"
        try:
            facts = _facts(secret_id)
            text, _, _ = _current(secret_id)
        except AccessRefused as refused:
            return [
                Finding(
                    name="SecretNotAllowed",
                    message=str(refused),
                    advice=f"add it to {purpose}_secret_names in the stack's configuration (and its key to "
                    "secret_key_arns)",
                )
            ]
        except AwsRefused as refused:
            return [Finding(name="SecretUnknown", message=str(refused), advice=f"create it, or correct {tag}")]
        return [*self._content_limitations(secret_id, text, purpose), *self._rotation_limitations(secret_id, facts)]

    def _content_limitations(self, secret_id: str, text: str, purpose: str) -> Sequence[Finding]:
        fields = _fields(text)
        needed = ("username", "password") if purpose == "login" else ("host",)
        missing = [name for name in needed if fields is None or not _is_text(fields.get(name))]
        if fields is None or missing:
            return [
                Finding(
                    name="SecretIncomplete",
                    message=f"{secret_id} is not a JSON object with the texts {' and '.join(needed)}",
                    advice=f"add or correct {', '.join(missing)}",
                )
            ]
        if purpose != "endpoint":
            return []
        address = normalised(fields["host"])
        elsewhere = [
            _printable(name)
            for name, value in fields.items()
            if name not in _ADDRESS_FIELDS and isinstance(value, str) and address in value.lower()
        ]
        return [
            Finding(
                name="SecretNamesHostElsewhere",
                message=f"{secret_id} holds the database's address in {name} too, which a rotation does not change",
                advice="let applications build it from host and port",
            )
            for name in elsewhere
        ]

    def _rotation_limitations(self, secret_id: str, facts: Mapping[str, Any]) -> Sequence[Finding]:
        """A password that changes between fence and release would lock the rotation or the applications out."""
        due = facts.get("NextRotationDate") if facts.get("RotationEnabled") else None
        findings = []
        why = _under_way(facts)
        if why is None and due is not None and due < self._clock.now() + _ABOUT_TO_ROTATE:
            why = f"will be rotated at {due.isoformat()}"
        if why is not None:
            findings.append(
                Finding(
                    name="SecretAboutToRotate",
                    message=f"{secret_id} {why}",
                    advice="let it finish, or start two hours before or after",
                )
            )
        owner = facts.get("OwningService")
        if owner or (facts.get("RotationEnabled") and not facts.get("RotationLambdaARN")):
            findings.append(
                Finding(
                    name="SecretOwnedByService",
                    message=f"{owner or 'a service'} manages {secret_id}, and its rotation of it cannot be suspended",
                    advice="use a secret of your own, that nobody or a function of your own rotates",
                )
            )
        return findings

    # -- Secrets Manager's own rotation of a secret --

    def managed_rotation(self, secret_id: str) -> ManagedRotation | None:
        facts = _facts(secret_id)
        if not facts.get("RotationEnabled"):
            return None
        return ManagedRotation(
            secret_arn=facts["ARN"],
            function_arn=facts.get("RotationLambdaARN") or None,
            rules=_accepted_rules(facts.get("RotationRules") or {}),
        )

    def rotation_under_way(self, secret_id: str) -> str | None:
        why = _under_way(_facts(secret_id))
        return None if why is None else f"{secret_id} {why}"

    def suspend_rotation(self, managed: ManagedRotation) -> None:
        if not _facts(managed.secret_arn).get("RotationEnabled"):
            return  # an earlier attempt, whose answer got lost
        with calls("secretsmanager:CancelRotateSecret"):
            client("secretsmanager").cancel_rotate_secret(SecretId=managed.secret_arn)

    def restore_rotation(self, managed: ManagedRotation) -> None:
        if managed.function_arn is None or _facts(managed.secret_arn).get("RotationEnabled"):
            return
        with calls("secretsmanager:RotateSecret"):
            client("secretsmanager").rotate_secret(
                SecretId=managed.secret_arn,
                RotationLambdaARN=managed.function_arn,
                RotationRules=managed.rules,
                # Left out it means true: the password would change at this very moment.
                RotateImmediately=False,
            )

    def write_endpoint(self, secret: EndpointSecret, database: Database) -> None:
        """Lead readers of the secret to the database, as a new version; every other field stays as it is. Repeatable.

        Raises:
            ConnectivityChanged: terminal; the secret's host is not the one written down. Nothing was written.
        """
        address: dict[str, Any] = {"host": database.address, "port": database.port}
        self._rewrite(secret, secret.host, database.address, address | {"dbInstanceIdentifier": database.identifier})

    def restore_endpoint(self, secret: EndpointSecret, database: Database) -> None:
        """Lead readers back to what was written down, if the secret leads to ``database`` now. Repeatable.

        The other fields stay as they are *now*: a password may have been changed since.
        """
        with calls("secretsmanager:GetSecretValue"):
            before = client("secretsmanager").get_secret_value(SecretId=secret.arn, VersionId=secret.version_id)
        old = _fields(before["SecretString"]) or {}
        self._rewrite(
            secret, database.address, secret.host, {name: old[name] for name in _ADDRESS_FIELDS if name in old}
        )

    def _rewrite(self, secret: EndpointSecret, expected: str, wanted: str, address: Mapping[str, Any]) -> None:
        text, _, version_id = _current(secret.arn)
        fields = _fields(text)
        host = None if fields is None else fields.get("host")
        if fields is None or not _is_text(host):
            raise ConnectivityChanged(f"{secret.arn} is no longer a JSON object with a field host")
        if are_same(host, wanted):
            return
        if not are_same(host, expected):
            raise ConnectivityChanged(f"{secret.arn} leads to {host}, not to {expected} as this rotation wrote down")
        changes: dict[str, Any] = {}
        for name, value in address.items():
            if name in fields:  # a field that was not there is not invented
                changes[name] = str(value) if isinstance(fields[name], str) else value
        with calls("secretsmanager:PutSecretValue"):
            client("secretsmanager").put_secret_value(
                SecretId=secret.arn,
                SecretString=_written_like(text, fields, fields | changes),
                # The same change of the same version is one version, however often it is asked for.
                ClientRequestToken=str(uuid.uuid5(_NAMESPACE, f"{secret.arn} {version_id} {wanted}")),
            )


def _current(secret_id: str) -> tuple[str, str, str]:
    """Text, ARN and version id of the current value; a binary secret has an empty text."""
    with calls("secretsmanager:GetSecretValue"):
        value = client("secretsmanager").get_secret_value(SecretId=secret_id)
    return value.get("SecretString") or "", value["ARN"], value["VersionId"]


def _facts(secret_id: str) -> Mapping[str, Any]:
    with calls("secretsmanager:DescribeSecret"):
        facts: Mapping[str, Any] = client("secretsmanager").describe_secret(SecretId=secret_id)
    return facts


def _fields(text: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # the latter is for brackets within brackets; the text is nobody's login
        return None
    return fields if isinstance(fields, dict) else None


def _is_text(value: Any) -> TypeGuard[str]:
    """A text that can be sent: JSON can spell half a surrogate pair, and no login and no host holds a NUL."""
    return isinstance(value, str) and bool(value) and "\0" not in value and _printable(value) == value


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _port(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):  # OverflowError: JSON's 1e999
        return None


def _under_way(facts: Mapping[str, Any]) -> str | None:
    staged = [stage for stages in (facts.get("VersionIdsToStages") or {}).values() for stage in stages]
    if "AWSPENDING" in staged and not _pending_is_current(facts):
        return "is being rotated (a version is AWSPENDING)"
    return None


def _accepted_rules(rules: Mapping[str, Any]) -> dict[str, Any]:
    """What DescribeSecret says, as RotateSecret takes it: it computes the days of a schedule, and refuses both.

    >>> _accepted_rules({"AutomaticallyAfterDays": 4, "ScheduleExpression": "rate(4 days)", "Duration": "2h"})
    {'ScheduleExpression': 'rate(4 days)', 'Duration': '2h'}
    """
    computed = "AutomaticallyAfterDays" if rules.get("ScheduleExpression") else ""
    return {name: value for name, value in rules.items() if value and name != computed}


def _pending_is_current(facts: Mapping[str, Any]) -> bool:
    """A finished rotation may leave AWSPENDING on the version that is AWSCURRENT; nothing is going on then."""
    return any({"AWSPENDING", "AWSCURRENT"} <= set(s) for s in (facts.get("VersionIdsToStages") or {}).values())


def _written_like(text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """``after`` in the order and, where it is recognised, the very spelling in which ``before`` was written.

    >>> _written_like('{"a":1,"b":"ä"}', {"a": 1, "b": "ä"}, {"a": 2, "b": "ä"})
    '{"a":2,"b":"ä"}'
    """
    styles: list[dict[str, Any]] = [
        {"ensure_ascii": ascii_only, "separators": separators, "indent": indent}
        for ascii_only in (True, False)
        for separators, indent in (((", ", ": "), None), ((",", ":"), None), ((",", ": "), 2), ((",", ": "), 4))
    ]
    style = next((style for style in styles if json.dumps(before, **style) == text.strip()), styles[0])
    return json.dumps(after, **style)
