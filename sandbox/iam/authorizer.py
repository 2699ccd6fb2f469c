"""Who may: moto authenticates a request, this decides on it, remembers the decision and denies as the service would.

Decided are the policies of the principal (inline, attached, of its groups), its permissions boundary, a session
policy, and for a KMS key the key's own policy. Not known here: service control policies, other resource policies (a
queue, a topic and a bucket are reached by the identity's policies alone), grants as permissions, several accounts.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.exceptions import ServiceException
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import determine_request_protocol
from moto.core.responses import ActionResult, BaseResponse
from moto.core.utils import get_service_model
from moto.iam.access_control import IAMRequest, S3IAMRequest
from moto.iam.exceptions import NotFoundException

from sandbox.iam.evaluate import Context, Effect, Statement, Verdict, as_list, evaluate, statements
from sandbox.iam.inventory import Inventory
from sandbox.iam.table import ANY, TABLE, Call, Check

PREFIXES = {"monitoring": "cloudwatch", "tagging": "tag"}
"""Signing names that are not the prefix of the service's actions."""

_GLOBAL = frozenset({"iam", "route53"})

ALWAYS_ALLOWED = frozenset({("sts", "GetCallerIdentity")})


@dataclass(frozen=True)
class Principal:
    """An IAM user or the session of a role, with everything that decides on its calls."""

    arn: str
    account_id: str
    identity: tuple[Statement, ...]
    role_arn: str | None = None
    boundary: tuple[Statement, ...] | None = None
    session: tuple[Statement, ...] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def role_name(self) -> str | None:
        return None if self.role_arn is None else self.role_arn.rsplit("/", 1)[-1]

    @property
    def names(self) -> frozenset[str]:
        """What a resource policy may call it."""
        return frozenset({self.arn, *([self.role_arn] if self.role_arn else [])})

    def context(self) -> dict[str, str | list[str]]:
        context: dict[str, str | list[str]] = {
            "aws:PrincipalArn": self.role_arn or self.arn,
            "aws:PrincipalAccount": self.account_id,
            "aws:PrincipalType": "AssumedRole" if self.role_arn else "User",
            **{f"aws:PrincipalTag/{key}": value for key, value in self.tags.items()},
        }
        if self.role_arn is None:
            context["aws:username"] = self.arn.rsplit("/", 1)[-1]
        return context


@dataclass(frozen=True)
class Decision:
    """One permission asked for, and the answer. ``at``: seconds since the epoch on the sandbox's clock."""

    principal_arn: str
    role_name: str | None
    action: str
    resource: str
    allowed: bool
    service: str
    operation: str
    at: float
    statement: Statement | None = None
    """The statement that decided; None if none matched."""
    context: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


class AccessDenied(ServiceException):  # type: ignore[misc]
    """A denial in the words of AWS. moto writes it in the protocol of the service that was called."""

    def __init__(self, principal: Principal, check: Check, reason: str, service: str) -> None:
        self.principal, self.check = principal, check
        self.code, self.status = _error_code(service)
        super().__init__(
            f"User: {principal.arn} is not authorized to perform: {check.action} on resource: {check.resource} {reason}"
        )


class MissingAuthenticationToken(ServiceException):  # type: ignore[misc]
    code = "MissingAuthenticationToken"
    message = "Request is missing Authentication Token"
    status = 403


class UnknownOperation(ServiceException):  # type: ignore[misc]
    code = "SandboxDoesNotKnow"
    status = 400

    def __init__(self, service: str, operation: str) -> None:
        super().__init__(f"which permissions {service}:{operation} needs is not known: teach sandbox/iam/table.py")


@dataclass(frozen=True)
class _Request:
    principal: Principal
    service: str
    operation: str
    region: str = ""
    """Where it was sent to; where nobody says, the sandbox's own."""


_REQUEST: ContextVar[_Request | None] = ContextVar("request", default=None)


class Authorizer:
    """Decides on every call once :meth:`install` was called; before that, everything passes and nothing is recorded."""

    def __init__(
        self, region: str = "eu-central-1", account_id: str = "123456789012", clock: Callable[[], float] = time.time
    ) -> None:
        self.inventory = Inventory(account_id, region)
        self._clock = clock
        self._decisions: list[Decision] = []
        self._lock = threading.Lock()
        self._originals: list[tuple[type, str, Any]] = []

    # -- what was decided ----------------------------------------------------------------------------------------------

    @property
    def decisions(self) -> list[Decision]:
        """Every decision so far, oldest first; a copy."""
        with self._lock:
            return list(self._decisions)

    @property
    def denied(self) -> list[Decision]:
        return [decision for decision in self.decisions if not decision.allowed]

    # -- deciding ------------------------------------------------------------------------------------------------------

    def current_principal(self) -> Principal | None:
        """Whose request this thread is serving; None outside a request and before :meth:`install`."""
        request = _REQUEST.get()
        return None if request is None else request.principal

    @contextmanager
    def acting_as(self, principal_arn: str | None) -> Iterator[None]:
        """Let this thread go on in the name of a role or user (None: of the sandbox), as services do later on."""
        now = _REQUEST.get()
        later = None if principal_arn is None else self.principal(principal_arn)
        token = _REQUEST.set(
            None
            if later is None
            else _Request(later, now.service if now else "", now.operation if now else "", now.region if now else "")
        )
        try:
            yield
        finally:
            _REQUEST.reset(token)

    def require(self, action: str, resource: str, context: Context | None = None) -> None:
        """Ask for one more permission in the name of whoever is being served; passes when nobody is.

        For calls that a service makes for its caller, such as ``kms:CreateGrant`` with ``kms:ViaService`` in the
        context. Tags and properties of the resource are looked up.

        Raises:
            AccessDenied: recorded, and in the words of the service that is serving.
        """
        request = _REQUEST.get()
        if request is not None:
            self._decide(request, Check(action, resource, context or {}))

    def allows(self, action: str, resource: str, context: Context | None = None) -> bool:
        """Whether whoever is being served may; nothing is recorded. True when nobody is."""
        request = _REQUEST.get()
        return (
            request is None
            or self._evaluate(
                request.principal, Check(action, resource, context or {}), request.region or self.inventory.region
            )[0].allowed
        )

    def check(
        self,
        principal: str | Principal | Sequence[Mapping[str, Any]],
        action: str,
        resource: str,
        context: Context | None = None,
    ) -> Verdict:
        """What would be decided for a principal (its ARN, or policy documents), without recording it."""
        if isinstance(principal, str):
            principal = self.principal(principal)
        elif not isinstance(principal, Principal):
            documents = tuple(statement for document in principal for statement in statements(document))
            principal = Principal("documents", self.inventory.account_id, documents)
        return self._evaluate(principal, Check(action, resource, context or {}), self.inventory.region)[0]

    def trusts(self, role_arn: str, service: str, source_arn: str | None = None) -> bool:
        """Whether the role lets a service, such as ``lambda.amazonaws.com``, assume it on behalf of ``source_arn``."""
        role = self.inventory.backend("iam").get_role_by_arn(role_arn)
        policy = [one for one in _statements(role.assume_role_policy_document) if _names_service(one, service)]
        context = {"aws:SourceAccount": self.inventory.account_id}
        if source_arn:
            context["aws:SourceArn"] = source_arn
        return evaluate(policy, "sts:AssumeRole", role_arn, context).allowed

    def principal(self, arn: str) -> Principal:
        """A user, a role, or a session of a role, with the policies it has now.

        Raises:
            LookupError: there is none of this name.
        """
        backend = self.inventory.backend("iam")
        kind, _, name = arn.split(":", 5)[-1].partition("/")
        try:
            if kind == "user":
                user_name = name.rsplit("/", 1)[-1]
                return self._user(backend, arn, user_name)
            role_name = name.split("/")[0] if kind == "assumed-role" else name.rsplit("/", 1)[-1]
            return self._role_session(backend, arn, backend.get_role(role_name))
        except NotFoundException:
            raise LookupError(f"no principal {arn}") from None

    def _user(self, backend: Any, arn: str, name: str) -> Principal:
        documents = [_document(backend.get_user_policy(name, policy)) for policy in backend.list_user_policies(name)]
        documents += [_document(policy) for policy in backend.list_attached_user_policies(name)[0]]
        for group in backend.get_groups_for_user(name):
            documents += [
                _document(backend.get_group_policy(group.name, policy))
                for policy in backend.list_group_policies(group.name)
            ]
            documents += [_document(policy) for policy in backend.list_attached_group_policies(group.name)[0]]
        return Principal(arn, self.inventory.account_id, _all_statements(documents))

    def _role_session(self, backend: Any, arn: str, role: Any, session_policy: str | None = None) -> Principal:
        documents = [
            _document(backend.get_role_policy(role.name, policy)[1]) for policy in backend.list_role_policies(role.name)
        ]
        documents += [_document(policy) for policy in backend.list_attached_role_policies(role.name)[0]]
        boundary = (
            _document(backend.get_policy(role.permissions_boundary_arn)) if role.permissions_boundary_arn else None
        )
        if ":role/" in arn:
            arn = f"arn:aws:sts::{self.inventory.account_id}:assumed-role/{role.name}/sandbox"
        return Principal(
            arn, self.inventory.account_id, _all_statements(documents), role.arn,
            boundary=None if boundary is None else _all_statements([boundary]),
            session=_all_statements([session_policy]) if session_policy else None,
            tags=self.inventory.tags(role.arn),
        )  # fmt: skip

    def _decide(self, request: _Request, check: Check) -> None:
        region = request.region or self.inventory.region
        verdict, reason, context = self._evaluate(request.principal, check, region)
        decision = Decision(
            request.principal.arn, request.principal.role_name, check.action, check.resource, verdict.allowed,
            request.service, request.operation, self._clock(), verdict.statement, context,
        )  # fmt: skip
        with self._lock:
            self._decisions.append(decision)
        if not verdict.allowed:
            raise AccessDenied(request.principal, check, reason, request.service)

    def _evaluate(self, principal: Principal, check: Check, region: str) -> tuple[Verdict, str, Context]:
        """The verdict, why not in AWS's words, and the context that it was reached in."""
        action, resource = check.action, check.resource
        context: dict[str, str | Sequence[str]] = {
            "aws:CurrentTime": str(self._clock()),
            "aws:EpochTime": str(int(self._clock())),
            "aws:SecureTransport": "true",
            "aws:RequestedRegion": region,
            "aws:PrincipalIsAWSService": "false",
            "aws:ViaAWSService": "true" if "kms:ViaService" in check.context else "false",
            **principal.context(),
            **self.inventory.context(resource),
            **check.context,
        }
        if resource != ANY:
            context["aws:ResourceAccount"] = self.inventory.account_id
        if action.startswith("kms:"):
            context["kms:CallerAccount"] = principal.account_id

        layers = {
            "an identity-based policy": evaluate(principal.identity, action, resource, context),
            "a permissions boundary": _layer(principal.boundary, action, resource, context),
            "a session policy": _layer(principal.session, action, resource, context),
        }
        by_resource = self._resource_policy(principal, action, resource, context)
        for name, verdict in {**layers, "a resource-based policy": by_resource.verdict}.items():
            if verdict is not None and verdict.effect is Effect.EXPLICIT_DENY:
                return verdict, f"with an explicit deny in {name}", context
        for name in ("a permissions boundary", "a session policy"):
            limit = layers[name]
            if limit is not None and not limit.allowed:
                return limit, f"because no {name.removeprefix('a ')} allows the {action} action", context
        if by_resource.verdict is not None and by_resource.verdict.allowed:
            return by_resource.verdict, "", context
        identity = layers["an identity-based policy"]
        assert identity is not None
        if not identity.allowed:
            return identity, f"because no identity-based policy allows the {action} action", context
        if not by_resource.leaves_it_to_identities:
            return (
                Verdict(Effect.IMPLICIT_DENY),
                f"because no resource-based policy allows the {action} action",
                context,
            )
        return identity, "", context

    def _resource_policy(self, principal: Principal, action: str, resource: str, context: Context) -> _ByResource:
        """What the policy of a KMS key, or the trust policy of a role that is assumed, has to say."""
        if action == "sts:AssumeRole":
            role = self.inventory.backend("iam").get_role_by_arn(resource)
            policy = _statements(role.assume_role_policy_document)
        elif ":key/" in resource and action.startswith("kms:"):
            document = self.inventory.at(resource).key_policy(resource)
            if not document:
                # No such key, or one whose policy is AWS's own: who may call is up to identities.
                return _ByResource(None, True)
            policy = tuple(statements(document))
        else:
            return _ByResource(None, True)
        account_root = frozenset({f"arn:aws:iam::{principal.account_id}:root", principal.account_id})
        to_it = [one for one in policy if _names(one, principal.names)]
        to_account = [one for one in policy if _names(one, account_root, anybody=False)]
        verdict = evaluate(to_it, action, resource, context)
        denied_to_all = evaluate(to_account, action, resource, context)
        if denied_to_all.effect is Effect.EXPLICIT_DENY:
            return _ByResource(denied_to_all, True)
        return _ByResource(verdict, denied_to_all.allowed)

    # -- moto ----------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Decide on every request from now on. After the deployment, which nobody has permissions for yet."""
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        ActionAuthenticatorMixin.request_count = 0
        authorizer = self
        call_action = BaseResponse.call_action

        def serve(response: Any) -> Any:
            token = _REQUEST.set(None)
            try:
                return call_action(response)
            except (AccessDenied, MissingAuthenticationToken, UnknownOperation) as denial:
                _, headers, body = response.serialized(ActionResult(denial))
                return denial.status, {**headers, "status": str(denial.status)}, body
            finally:
                _REQUEST.reset(token)

        def authorize(response: Any, _resource: str = "*") -> None:
            authorizer._authorize(response)

        def authorize_s3(response: Any, bucket_name: str | None = None, key_name: str | None = None) -> None:
            request = authorizer._authenticate(response, S3IAMRequest)
            if not authorizer._may_do_everything(request):
                request._raise_access_denied()

        self._replace(BaseResponse, "call_action", serve)
        self._replace(ActionAuthenticatorMixin, "_authenticate_and_authorize_normal_action", authorize)
        self._replace(ActionAuthenticatorMixin, "_authenticate_and_authorize_s3_action", authorize_s3)

    def uninstall(self) -> None:
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)
        settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")

    def _replace(self, owner: type, name: str, replacement: Any) -> None:
        self._originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, replacement)

    def _authenticate(self, response: Any, request_class: type[IAMRequest]) -> Any:
        if "Authorization" not in response.headers:
            raise MissingAuthenticationToken
        url = response.raw_path + (f"?{response.parsed_url.query}" if response.parsed_url.query else "")
        # Where there is neither body nor form moto takes the headers for one, and no signature of a GET fits.
        form = response.data if response.normalized_request.form else {}
        request = request_class(
            account_id=response.current_account, method=response.method, path=url, data=form, body=response.raw_body,
            headers=response.headers, action=response._get_action() or "",
        )  # fmt: skip
        request.check_signature()
        return request

    def _authorize(self, response: Any) -> None:
        signed = self._authenticate(response, IAMRequest)
        service = PREFIXES.get(signed._service, signed._service)
        operation = response._get_action()
        request = _Request(self._caller(signed._access_key), service, operation, response.region)
        _REQUEST.set(request)
        if (service, operation) in ALWAYS_ALLOWED:
            return
        needs = TABLE.get((service, operation))
        if needs is None:
            # Only for those who may do everything is it of no importance what the call needs.
            if not _may_do_everything(request.principal):
                raise UnknownOperation(service, operation)
            self._decide(request, Check(f"{service}:{operation}", ANY))
            return
        # What belongs to no Region is asked for wherever the client happens to be.
        inventory = self.inventory if service in _GLOBAL else self.inventory.of(response.region)
        for check in needs(Call(service, operation, _parameters(response, operation), inventory)):
            self._decide(request, check)

    def _caller(self, access_key: Any) -> Principal:
        backend = self.inventory.backend("iam")
        if role_name := getattr(access_key, "_owner_role_name", None):
            sessions = self.inventory.backend("sts").assumed_roles
            session = next(one for one in sessions if one.access_key_id == access_key._access_key_id)
            return self._role_session(backend, access_key.arn, backend.get_role(role_name), session.policy)
        return self._user(backend, access_key.arn, access_key._owner_user_name)

    def _may_do_everything(self, request: Any) -> bool:
        return _may_do_everything(self._caller(request._access_key))


@dataclass(frozen=True)
class _ByResource:
    verdict: Verdict | None
    leaves_it_to_identities: bool


def _layer(policy: tuple[Statement, ...] | None, action: str, resource: str, context: Context) -> Verdict | None:
    return None if policy is None else evaluate(policy, action, resource, context)


def _may_do_everything(principal: Principal) -> bool:
    """An administrator without any limit: what a call needs does not matter."""
    unlimited = any(
        one["Effect"] == "Allow"
        and as_list(one.get("Action")) == ["*"]
        and as_list(one.get("Resource")) == ["*"]
        and "Condition" not in one
        for one in principal.identity
    )
    return (
        unlimited
        and principal.boundary is None
        and principal.session is None
        and all(one["Effect"] == "Allow" for one in principal.identity)
    )


def _error_code(service: str) -> tuple[str, int]:
    """The code and HTTP status by which a service refuses."""
    match service:
        case "sns":
            return "AuthorizationError", 403
        case "ec2":
            return "UnauthorizedOperation", 403
        case "rds" | "iam" | "sts" | "route53" | "cloudwatch" | "s3" | "sqs" | "cloudformation":
            return "AccessDenied", 403
        case "lambda" | "scheduler" | "backup" | "xray":
            return "AccessDeniedException", 403
    return "AccessDeniedException", 400


def _parameters(response: Any, operation: str) -> dict[str, Any]:
    """The request's parameters, named as in the SDK, for every protocol."""
    model = get_service_model(response.boto3_service_name)
    request = response.normalized_request
    parser = PROTOCOL_PARSERS[determine_request_protocol(model, request.content_type)]
    parsed = parser(model.operation_model(operation), map_type=dict).parse(
        {
            "method": request.method,
            "values": request.values,
            "headers": request.headers,
            "body": request.data,
            "url_path": request.path,
            "url_params": response.uri_match,
        }
    )
    return {**response.uri_match, **parsed}


def _document(policy: Any) -> str:
    """moto keeps managed policies as objects with versions, and inline ones in two other ways."""
    if isinstance(policy, str):
        return policy
    if isinstance(policy, Mapping):
        return str(policy["policy_document"])
    return str(next(version.document for version in policy.versions if version.is_default))


def _all_statements(documents: Sequence[str]) -> tuple[Statement, ...]:
    return tuple(statement for document in documents for statement in _statements(document))


@functools.lru_cache(maxsize=1024)
def _statements(document: str) -> tuple[Statement, ...]:
    return tuple(statements(json.loads(document)))


def _names(statement: Statement, names: frozenset[str], *, anybody: bool = True) -> bool:
    """Whether the statement of a resource policy speaks of a principal called by one of these names."""
    principal = statement.get("Principal")
    if principal is None:
        raise NotImplementedError("a resource policy without Principal (NotPrincipal is not known)")
    known = as_list(principal.get("AWS", [])) if isinstance(principal, Mapping) else as_list(principal)
    return bool(names & set(known)) or (anybody and "*" in known)


def _names_service(statement: Statement, service: str) -> bool:
    principal = statement.get("Principal", {})
    return isinstance(principal, Mapping) and service in as_list(principal.get("Service", []))
