"""One sandbox: every part started, the template deployed, nothing left behind."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sandbox.clock import VirtualClock
from sandbox.context import ACCOUNT_ID, DEFAULT_REGION, Context
from sandbox.synthesis import SandboxFailed, Synthesis

if TYPE_CHECKING:
    from sandbox.cloudformation import Aws, Deployment
    from sandbox.faults import Fault

LOG = logging.getLogger("sandbox.server")

NAME_PREFIX = "rds-key-rotation"
"""The configuration's ``name_prefix``, which that environment leaves as it is."""

DURATIONS = {
    "replica": 1.2, "green": 1.2, "restore": 1.2, "backup": 0.4, "modify": 0.4, "snapshot": 0.7, "copy": 1.2,
    "delete": 0.7, "reboot": 0.1, "security_groups": 0.1,
}  # fmt: skip
"""Virtual minutes, shorter than RDS's: each further poll of the state machine costs real work and shows nothing.

The last two pass in real time, because a rotation waits for them by looking every few seconds."""
KEY_PROPAGATION_SECONDS = 0.0
"""Whether a key is too new for RDS would depend on how fast this machine is, and with it where a fault strikes. A
scenario plays that refusal."""

ADMINISTRATOR = "administrator"
_EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@dataclass(frozen=True)
class Ready:
    """What a client needs to know. ``asdict`` of it is the line that ``up --json`` prints."""

    endpoint_url: str
    region: str
    credentials: dict[str, str]
    dns: dict[str, Any]
    ca_bundle: str
    state_machines: dict[str, str]
    template: str

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class Sandbox:
    """An AWS account in this process, with the product deployed. A context manager; ``ready`` is set inside.

    The clock governs the whole process, so this belongs into a process of its own: tests use
    :class:`sandbox.client.SandboxProcess`.
    """

    ready: Ready
    context: Context
    deployment: Deployment

    def __init__(
        self, region: str = DEFAULT_REGION, faults: Sequence[Fault] = (), crossings: Path | None = None
    ) -> None:
        self.region = region
        self._faults, self._crossings = tuple(faults), crossings
        self._stack = ExitStack()

    def __enter__(self) -> Sandbox:
        if not sys.platform.startswith("linux"):
            raise SandboxFailed("the sandbox runs on Linux only: it needs loopback addresses 127.x.y.z and fork")
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything that was started, in reverse order, and remove the directory."""
        self._stack.close()

    def client(self, service: str) -> Any:
        """An SDK client of the administrator."""
        return self._aws.client(service)

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        from sandbox.reaper import Reaper
        from sandbox.tls_front import CertificateAuthority

        began = time.monotonic()
        _forget_the_users_aws(self.region)
        work_dir = Path(tempfile.mkdtemp(prefix="rds-key-rotation-sandbox-"))
        reaper = Reaper(work_dir)
        self._stack.callback(reaper.close)
        self._stack.callback(log_to(work_dir))

        ca = CertificateAuthority(work_dir / "ca")
        # The longest part by far, and it needs nothing of the rest: it goes on while moto is imported.
        synthesis = Synthesis(work_dir, ca.bundle)
        self._stack.callback(synthesis.cancel)

        from sandbox.api import Api
        from sandbox.aws_gaps import install_gaps
        from sandbox.cloudformation import Aws, deploy
        from sandbox.cloudtrail import Trail
        from sandbox.dns import DnsServer, NameTable, install_route53
        from sandbox.faults import FaultInjector
        from sandbox.iam import Authorizer
        from sandbox.kms import install_kms
        from sandbox.lambda_runtime import LambdaRuntime
        from sandbox.rds import install_rds
        from sandbox.rds.durations import Durations
        from sandbox.scheduler import EventBridge
        from sandbox.secrets_manager import install_secrets
        from sandbox.step_functions import install as install_step_functions
        from sandbox.step_functions import stop_executions

        clock = VirtualClock(work_dir / "clock.offset")
        self._stack.callback(clock.stop)
        clock.govern_process()
        names = NameTable(work_dir / "names.json")
        authorizer = Authorizer(self.region, ACCOUNT_ID, clock.time)
        keys = RoleKeys(authorizer, self.region)
        self.context = Context(work_dir, self.region, ACCOUNT_ID, clock, names, ca, authorizer, reaper)

        trail = self.context.trail = Trail(self.context)

        api = Api()
        install_kms(self.context)
        self.rds = install_rds(self.context, Durations(**DURATIONS, key_propagation_seconds=KEY_PROPAGATION_SECONDS))
        self._stack.callback(self._close_rds)
        install_route53(self.context)
        install_gaps()
        install_secrets(self.context)
        api.start()
        self._stack.callback(api.stop)
        dns = DnsServer(names)
        self._stack.callback(dns.close)

        self.runtime = LambdaRuntime(work_dir, api.endpoint_url, self.region, keys.service_credentials)
        self.runtime.start()
        self._stack.callback(self.runtime.stop)
        # An invocation is real work, also one that nobody waits for any more.
        self.runtime.invoke = _holding(clock, self.runtime.invoke)  # type: ignore[method-assign]
        self.runtime.install()

        self.events = EventBridge(clock, api.endpoint_url, self.region, ACCOUNT_ID, keys)
        install_step_functions(clock, api.endpoint_url, keys, self.events.execution_changed)

        LOG.info("the APIs are up after %.1f s", time.monotonic() - began)
        self._aws = make_administrator(Aws(api.endpoint_url, self.region, ACCOUNT_ID))
        assembly = synthesis.result()
        LOG.info("synthesized after %.1f s", time.monotonic() - began)
        self.deployment = deploy(assembly, self._aws)
        LOG.info("deployed after %.1f s", time.monotonic() - began)
        self._warm_up()
        # Nobody has permissions before the deployment; from here on everybody has exactly theirs.
        authorizer.install()
        self._stack.callback(authorizer.uninstall)
        trail.install()
        self._stack.callback(trail.uninstall)
        injector = FaultInjector(
            self._faults, runtime=self.runtime, rds=self.rds, administrator=self.client,
            lose_event=self.events.lose, name_prefix=NAME_PREFIX, crossings=self._crossings,
        )  # fmt: skip
        injector.install()
        self._stack.callback(injector.uninstall)
        self.events.start()
        self._stack.callback(self.events.stop)
        # First of all at the end: what is still running shall not find its world half taken down, and complain.
        self._stack.callback(stop_executions)
        self._stack.callback(api.expect_failures)

        self.ready = Ready(
            endpoint_url=api.endpoint_url,
            region=self.region,
            credentials={
                "access_key_id": self._aws.access_key_id,
                "secret_access_key": self._aws.secret_access_key,
            },
            dns={"host": dns.host, "port": dns.port},
            ca_bundle=str(ca.bundle),
            state_machines={
                "rotate_key": self.deployment.outputs["RotateKeyArn"],
                "rotate_fleet": self.deployment.outputs["RotateFleetArn"],
            },
            template=str(next(assembly.glob("*.template.json"))),
        )

    def _warm_up(self) -> None:
        """Start the parent of the Lambda processes; its imports would else be paid for by the first state."""
        from moto.awslambda.utils import get_backend

        function = next(iter(get_backend(ACCOUNT_ID, self.region).list_functions()))

        def warm_up() -> None:
            try:
                self.runtime.warm_up(function)
            except (RuntimeError, OSError) as ended:
                LOG.info("warm-up: %s", ended)  # the sandbox ended before it was warm

        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()

    def _close_rds(self) -> None:
        for failure in self.rds.failures:
            LOG.error("an operation of RDS failed:\n%s", failure)
        self.rds.close()


class RoleKeys:
    """Keys of a new session of a role, for the service that the role trusts."""

    _SERVICES = {name: f"{name}.amazonaws.com" for name in ("states", "events", "scheduler")}

    def __init__(self, authorizer: Any, region: str) -> None:
        self._authorizer = authorizer
        self._region = region

    def service_credentials(self, role_arn: str, session: str, source_arn: str | None = None) -> dict[str, str]:
        """Keys by which ``states``, ``events``, ``scheduler``, or else a Lambda function of that name, acts as a role.

        ``source_arn``: the state machine, rule or schedule group on whose behalf.

        Raises:
            PermissionError: the role does not exist, or does not trust the service.
        """
        from moto.iam.exceptions import NotFoundException
        from moto.sts.models import sts_backends

        service = self._SERVICES.get(session, "lambda.amazonaws.com")
        try:
            trusted = self._authorizer.trusts(role_arn, service, source_arn)
        except NotFoundException:
            trusted = False
        if not trusted:
            raise PermissionError(f"{service} cannot assume {role_arn}")
        made = sts_backends[role_arn.split(":")[4]]["aws"].assume_role(
            region_name=self._region,
            role_session_name=session[:64],
            role_arn=role_arn,
            policy=None,
            duration=3600,
            external_id="",
        )
        return {
            "AWS_ACCESS_KEY_ID": made.access_key_id,
            "AWS_SECRET_ACCESS_KEY": made.secret_access_key,
            "AWS_SESSION_TOKEN": made.session_token,
        }


def make_administrator(aws: Aws) -> Aws:
    """Make the one IAM user who may do everything, and be that user from here on."""
    iam = aws.client("iam")
    iam.create_user(UserName=ADMINISTRATOR)
    iam.put_user_policy(UserName=ADMINISTRATOR, PolicyName="everything", PolicyDocument=json.dumps(_EVERYTHING))
    key = iam.create_access_key(UserName=ADMINISTRATOR)["AccessKey"]
    return replace(aws, access_key_id=key["AccessKeyId"], secret_access_key=key["SecretAccessKey"])


def _holding(clock: VirtualClock, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def held(*args: Any, **kwargs: Any) -> Any:
        with clock.busy():
            return function(*args, **kwargs)

    return held


def _forget_the_users_aws(region: str) -> None:
    """No profile, key or endpoint of whoever started this may reach the sandbox, nor the sandbox anything of theirs."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MOTO_"))]:
        del os.environ[name]
    os.environ |= {
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "TZ": "UTC",
    }
    time.tzset()


def log_to(work_dir: Path) -> Callable[[], None]:
    """Log to ``sandbox.log``, and failures of the sandbox itself also to stderr. The result undoes it."""
    file = logging.FileHandler(work_dir / "sandbox.log")
    file.setLevel(logging.INFO)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loud = logging.StreamHandler(sys.stderr)
    loud.setLevel(logging.ERROR)
    loud.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    for handler in (file, loud):
        root.addHandler(handler)
    root.setLevel(min(root.level, logging.WARNING))
    logging.getLogger("sandbox").setLevel(logging.INFO)
    # The interpreter reports every error of every state as its own, also the ones that are caught.
    logging.getLogger("moto.stepfunctions").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)

    def undo() -> None:
        logging.captureWarnings(False)
        for handler in (file, loud):
            root.removeHandler(handler)
            handler.close()

    return undo


def environment_of(ready: Mapping[str, Any]) -> dict[str, str]:
    """What the AWS CLI and the SDKs need in their environment to use a sandbox."""
    return {
        "AWS_ENDPOINT_URL": ready["endpoint_url"],
        "AWS_DEFAULT_REGION": ready["region"],
        "AWS_ACCESS_KEY_ID": ready["credentials"]["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": ready["credentials"]["secret_access_key"],
    }
