"""The sandbox's Lambda must be as unforgiving as Lambda: what a function may see, share, outlive and leave behind."""

import io
import json
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.awslambda.utils import get_backend
from moto.core.exceptions import JsonRESTError

from sandbox.lambda_runtime import Fault, Faults, Invocation, LambdaRuntime
from sandbox.lambda_runtime.zygote import shape_of

REGION = "eu-central-1"
ACCOUNT = "123456789012"
TRIMMED_TO = {"sts", "kms", "dynamodb", "rds"}
IN_THE_LAYER = (
    "boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six", "urllib3", "aws-lambda-powertools",
    "aws-xray-sdk", "wrapt", "typing_extensions", "pydantic", "pydantic_core", "annotated-types", "typing-inspection",
    "pg8000", "scramp", "asn1crypto", "PyMySQL",
)  # fmt: skip

CODE = """
import os, sys, time, socket, threading, json
import boto3
from botocore.config import Config
from aws_lambda_powertools import Logger, Metrics, Tracer
from tempfile import gettempdir

logger, tracer, metrics = Logger(), Tracer(patch_modules=["botocore"]), Metrics()
CALLS = 0
CREDENTIALS_IN_PARENT = open(f"/proc/{os.getppid()}/environ").read()

@metrics.log_metrics
@tracer.capture_lambda_handler
@logger.inject_lambda_context
def handler(event, context):
    global CALLS
    CALLS += 1
    logger.info("serving", what=event.get("do"))
    return globals()[event.get("do", "echo")](event, context)

def echo(event, context):
    return {"pid": os.getpid(), "calls": CALLS, "event": event}

def facts(event, context):
    return {
        "environment": dict(os.environ), "path": sys.path, "tmp": gettempdir(),
        "time": time.time(), "time_ns": time.time_ns(),
        "monotonic": time.monotonic(), "request_id": context.aws_request_id, "arn": context.invoked_function_arn,
        "remaining": context.get_remaining_time_in_millis(), "memory": context.memory_limit_in_mb,
        "version": context.function_version,
        "group": context.log_group_name, "parent": CREDENTIALS_IN_PARENT, "modules": sorted(sys.modules),
        "opt": sorted(os.listdir(os.environ["BUNDLE"])), "boto3": boto3.__file__,
    }

def sleep(event, context):
    time.sleep(event["seconds"])
    if "witness" in event:
        open(event["witness"], "w").write("done")
    return {"pid": os.getpid()}

def resolve(event, context):
    return socket.getaddrinfo(event["name"], 5432, type=socket.SOCK_STREAM)[0][4]

def fail(event, context):
    raise LookupError("nothing there")

def leave(event, context):
    print("going")
    sys.exit(3)

def killed(event, context):
    os.kill(os.getpid(), 9)

def unjson(event, context):
    return {1, 2}

def statements(event, context):
    from pg8000.core import CoreConnection
    connection = object.__new__(CoreConnection)
    for n in range(3):
        try:
            connection.execute_simple("select 1")
        except AttributeError:
            open(event["witness"], "a").write(f"{n}")
    return "alive"

def aws_calls(event, context):
    once = Config(retries={"max_attempts": 0}, connect_timeout=2)
    client = boto3.client("sts", endpoint_url=event["endpoint"], config=once)
    for n in range(3):
        try:
            client.get_caller_identity()
        except Exception:
            pass
    return "alive"
"""


def _zip(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _layer() -> bytes:
    """What infra/layer.py builds, from what is installed here: pure reading, no network."""
    files: dict[str, str | bytes] = {"rds-ca/ca-bundle.pem": "certificates"}
    for name in IN_THE_LAYER:
        for file in metadata.files(name) or ():
            parts = Path(str(file)).parts
            if (
                ".." in parts
                or "__pycache__" in parts
                or (parts[1:2] == ("data",) and len(parts) > 3 and parts[2] not in TRIMMED_TO)
            ):
                continue
            files[f"python/{file}"] = Path(str(file.locate())).read_bytes()
    return _zip(files)


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sandbox")
    (directory / "clock.offset").write_bytes(struct.pack("<d", 0.0))
    (directory / "names.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def aws() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": REGION}.items():
            patch.setenv(f"AWS_{name}", value)
        with mock_aws(config={"lambda": {"use_docker": False}}):
            role = boto3.client("iam").create_role(RoleName="reader", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
            client = boto3.client("lambda", REGION)
            layer = client.publish_layer_version(LayerName="base", Content={"ZipFile": _layer()})["LayerVersionArn"]
            client.create_function(
                FunctionName="probe", Runtime="python3.13", Role=role, Handler="tasks.probe.handler",
                Timeout=2, MemorySize=256,
                Code={"ZipFile": _zip({"tasks/__init__.py": "", "tasks/probe.py": CODE})}, Layers=[layer],
                Environment={"Variables": {"BUNDLE": "/opt/rds-ca", "POWERTOOLS_SERVICE_NAME": "probe",
                                           "POWERTOOLS_METRICS_NAMESPACE": "Test", "AWS_REGION": "nowhere"}},
            )  # fmt: skip
            yield client


@pytest.fixture(scope="module")
def runtime(work_dir: Path, aws: Any) -> Iterator[LambdaRuntime]:
    def credentials(role_arn: str, session: str) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": f"of {role_arn}", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": session}

    runtime = LambdaRuntime(work_dir, "http://127.0.0.1:9", REGION, credentials)
    runtime.start()
    runtime.install()
    yield runtime
    runtime.stop()


@pytest.fixture
def probe(runtime: LambdaRuntime) -> Iterator[Any]:
    def call(event: dict[str, Any]) -> Invocation:
        function = get_backend(ACCOUNT, REGION).get_function("probe")
        return runtime.invoke(function, event)

    yield call
    runtime.faults = Faults()


def test_a_function_sees_its_own_zip_the_layer_and_its_own_environment(probe: Any, work_dir: Path) -> None:
    """Anything more would let a handler work here and fail in Lambda, or one role borrow another's rights."""
    facts = probe({"do": "facts"}).payload
    environment = facts["environment"]

    assert environment["AWS_ACCESS_KEY_ID"].endswith(":role/reader")
    assert environment["AWS_SESSION_TOKEN"] == "probe"
    assert environment["AWS_REGION"] == REGION
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "probe"
    assert facts["opt"] == ["ca-bundle.pem"]
    assert facts["boto3"].startswith(str(work_dir))
    assert facts["tmp"].startswith(str(work_dir))
    assert not [path for path in facts["path"] if "site-packages" in path]
    assert "AWS_" not in facts["parent"]
    assert not {"pg8000", "pymysql", "moto", "sandbox"} & set(facts["modules"])
    assert (facts["memory"], facts["version"], facts["group"]) == ("256", "$LATEST", "/aws/lambda/probe")
    assert facts["arn"].endswith(":function:probe")
    assert 1000 < facts["remaining"] <= 2000
    assert {"PWD", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"} & set(environment) == set()


def test_an_idle_process_is_used_again_and_concurrent_invocations_get_their_own(probe: Any) -> None:
    """Module state survives, as in Lambda; two executions never share a process at the same time."""
    first, second = probe({}).payload, probe({}).payload
    assert first["pid"] == second["pid"]
    assert second["calls"] == first["calls"] + 1

    pids: list[int] = []
    threads = [
        threading.Thread(target=lambda: pids.append(probe({"do": "sleep", "seconds": 0.3}).payload["pid"]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 3


def test_the_wall_clock_is_the_virtual_one_and_the_monotonic_clock_is_real(probe: Any, work_dir: Path) -> None:
    """A grace period is a jump of the offset; polling inside the write outage must take its real seconds."""
    week = 7 * 86400.0
    with (work_dir / "clock.offset").open("r+b") as file:
        file.write(struct.pack("<d", week))
    try:
        facts = probe({"do": "facts"}).payload
    finally:
        with (work_dir / "clock.offset").open("r+b") as file:
            file.write(struct.pack("<d", 0.0))

    assert facts["time"] == pytest.approx(time.time() + week, abs=5)
    assert facts["time_ns"] / 1e9 == pytest.approx(time.time() + week, abs=5)
    assert facts["monotonic"] == pytest.approx(time.monotonic(), abs=5)


def test_names_are_those_of_the_table_also_after_it_changed(probe: Any, work_dir: Path) -> None:
    """A process that lives through the cutover must see the name change, and never ask the laptop's resolver."""
    name = "orders.abc.eu-central-1.rds.amazonaws.com"
    assert probe({"do": "resolve", "name": name}).payload["errorType"] == "gaierror"
    for address in ("127.77.1.1", "127.77.1.2"):
        (work_dir / "names.json").write_text(json.dumps({name: address}))
        assert probe({"do": "resolve", "name": name.upper() + "."}).payload[0] == address
    assert probe({"do": "resolve", "name": "example.com"}).is_error
    assert probe({"do": "resolve", "name": "127.0.0.1"}).payload[0] == "127.0.0.1"


def test_errors_are_lambdas(probe: Any) -> None:
    """Step Functions matches these names; another name means another Retry."""
    failed = probe({"do": "fail"})
    assert failed.is_error
    assert (failed.payload["errorType"], failed.payload["errorMessage"]) == ("LookupError", "nothing there")
    assert "nothing there" in failed.payload["stackTrace"][-1]

    assert probe({"do": "unjson"}).payload["errorType"] == "Runtime.MarshalError"
    left = probe({"do": "leave"})
    assert left.payload["errorType"] == "Runtime.ExitError"
    assert left.payload["errorMessage"].endswith("Runtime exited with error: exit status 3")
    assert "going" in left.log
    assert probe({"do": "killed"}).payload["errorMessage"].endswith("Runtime exited with error: signal: kill")
    assert not probe({}).is_error


def test_a_function_is_killed_at_its_own_timeout(probe: Any, tmp_path: Path) -> None:
    """The rollback counts on it: whoever waits longer than the function's timeout knows that nobody acts any more."""
    before = time.monotonic()
    answer = probe({"do": "sleep", "seconds": 4, "witness": str(tmp_path / "late")})
    took = time.monotonic() - before

    assert answer.payload["errorType"] == "Sandbox.Timedout"
    assert answer.payload["errorMessage"].endswith("Task timed out after 2.00 seconds")
    assert 2 <= took < 3
    time.sleep(2.2)
    assert not (tmp_path / "late").exists()


def test_an_abandoned_invocation_runs_on(probe: Any, tmp_path: Path) -> None:
    """Stopping an execution does not stop its Lambda: a rotation that is rolled back may still meet it."""
    threading.Thread(
        target=probe, args=({"do": "sleep", "seconds": 0.5, "witness": str(tmp_path / "late")},), daemon=True
    ).start()
    time.sleep(1.0)
    assert (tmp_path / "late").exists()


def test_logs_are_structured_and_carry_metrics(probe: Any, work_dir: Path) -> None:
    """The log is what an operator has; powertools must believe that it is in Lambda."""
    answer = probe({"do": "echo"})
    lines = [json.loads(line) for line in answer.log.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("message") == "serving"]
    assert (line["service"], line["function_name"], line["what"]) == ("probe", "probe", "echo")
    assert answer.log in (work_dir / "logs" / "probe.log").read_text()


@pytest.mark.parametrize("when, heard", [("before", 1), ("after", 2)])
def test_a_process_can_be_made_to_die_around_a_call(runtime: LambdaRuntime, probe: Any, when: Any, heard: int) -> None:
    """Before: the call was not made. After: it was, and nobody heard of it. Recovery has to tell the two apart."""

    class SecondCall(Faults):
        def before_invoke(self, function_name: str, event: Any) -> Fault | None:
            return Fault("aws_call", 2, when)

    with socket.create_server(("127.0.0.1", 0)) as server:
        calls: list[str] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, peer = server.accept()
                    calls.append(str(peer))
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        event = {"do": "aws_calls", "endpoint": f"http://127.0.0.1:{server.getsockname()[1]}"}
        runtime.faults = SecondCall()
        assert probe(event).payload["errorType"] == "Runtime.ExitError"
        assert len(calls) == heard

        runtime.faults = Faults()
        assert probe(event).payload == "alive"
        assert len(calls) == heard + 3


def test_a_process_can_be_made_to_die_at_a_statement(runtime: LambdaRuntime, probe: Any, tmp_path: Path) -> None:
    """Between two statements of a fence there is nobody who could finish it."""

    class ThirdStatement(Faults):
        def before_invoke(self, function_name: str, event: Any) -> Fault | None:
            return Fault("statement", 3, "before")

    witness = tmp_path / "statements"
    runtime.faults = ThirdStatement()
    assert probe({"do": "statements", "witness": str(witness)}).payload["errorType"] == "Runtime.ExitError"
    assert witness.read_text() == "01"


def test_the_sandbox_can_act_while_a_process_waits_before_a_statement(
    runtime: LambdaRuntime, probe: Any, tmp_path: Path
) -> None:
    """A zombie wakes up between two statements, when its rotation has been rolled back."""
    witness = tmp_path / "statements"
    seen: list[str] = []
    answers: list[Invocation] = []

    class SecondOfItsShape(Faults):
        def deliver(
            self, function_name: str, event: Any, trace_id: str, once: Callable[[Fault | None], Invocation]
        ) -> Invocation:
            def reached() -> None:
                seen.append(witness.read_text())

            answers.append(once(Fault("statement", 2, "before", "report", "select ?", reached)))
            return answers[-1]

    runtime.faults = SecondOfItsShape()

    assert probe({"do": "statements", "witness": str(witness)}).payload == "alive"
    assert (seen, witness.read_text()) == (["0"], "012")
    assert (answers[0].struck, answers[0].statements) == (True, ("select ?",) * 3)


@pytest.mark.parametrize(
    ("statement", "shape"),
    [
        ('ALTER DATABASE "o""r 1"  CONNECTION LIMIT 0', "ALTER DATABASE ? CONNECTION LIMIT ?"),
        ("SELECT 'it''s', $1\n FROM t2", "SELECT ?, $? FROM t2"),
        ("COMMENT ON x IS $t$ a 'b' $t$", "COMMENT ON x IS ?"),
        ("CALL `my``sql 1`.`p`(12)", "CALL ?.?(?)"),
    ],
)
def test_statements_that_differ_in_names_and_values_have_one_shape(statement: str, shape: str) -> None:
    assert shape_of(statement) == shape


def test_a_published_version_keeps_its_code_and_environment(aws: Any, runtime: LambdaRuntime) -> None:
    """Executions wait for weeks while deployments go on; they call the version they began with."""
    role = boto3.client("iam").get_role(RoleName="reader")["Role"]["Arn"]
    source = (
        "import os\ndef handler(event, context):\n"
        "    return [{}, os.environ['WHO'], context.function_version, context.invoked_function_arn]"
    )
    aws.create_function(
        FunctionName="versioned", Runtime="python3.13", Role=role, Handler="main.handler",
        Code={"ZipFile": _zip({"main.py": source.format(1)})}, Environment={"Variables": {"WHO": "first"}},
    )  # fmt: skip
    arn = aws.publish_version(FunctionName="versioned")["FunctionArn"]
    aws.update_function_code(FunctionName="versioned", ZipFile=_zip({"main.py": source.format(2)}))
    aws.update_function_configuration(FunctionName="versioned", Environment={"Variables": {"WHO": "second"}})

    def invoke(name: str) -> Any:
        return json.load(aws.invoke(FunctionName=name)["Payload"])

    assert invoke(arn) == [1, "first", "1", arn]
    assert invoke("versioned") == [2, "second", "$LATEST", arn.removesuffix(":1")]


def test_an_asynchronous_invocation_is_tried_three_times(aws: Any, runtime: LambdaRuntime, tmp_path: Path) -> None:
    """Delivered at least once is what every handler has to live with."""
    role = boto3.client("iam").get_role(RoleName="reader")["Role"]["Arn"]
    source = "def handler(event, context):\n    open(event['witness'], 'a').write('x')\n    raise ValueError(event)"
    aws.create_function(
        FunctionName="async",
        Runtime="python3.13",
        Role=role,
        Handler="main.handler",
        Code={"ZipFile": _zip({"main.py": source})},
    )
    failed = threading.Event()
    runtime.on_event_failure = lambda name, event, invocation: failed.set()
    witness = tmp_path / "attempts"

    assert (
        aws.invoke(FunctionName="async", InvocationType="Event", Payload=json.dumps({"witness": str(witness)}))[
            "StatusCode"
        ]
        == 202
    )
    assert failed.wait(10)
    assert witness.read_text() == "xxx"


def test_an_error_at_import_is_reported_and_not_remembered(aws: Any, runtime: LambdaRuntime) -> None:
    """A module that cannot be imported is an error of every invocation, not a hanging one."""
    role = boto3.client("iam").get_role(RoleName="reader")["Role"]["Arn"]
    aws.create_function(
        FunctionName="broken", Runtime="python3.13", Role=role, Handler="main.handler",
        Code={"ZipFile": _zip({"main.py": "import moto\n"})},
    )  # fmt: skip
    answer = aws.invoke(FunctionName="broken")
    assert answer["FunctionError"] == "Unhandled"
    assert json.load(answer["Payload"])["errorType"] == "Runtime.ImportModuleError"


def test_a_new_process_costs_little(probe: Any, runtime: LambdaRuntime) -> None:
    """Some twenty functions start cold in every rotation; the fence is up while some of them do."""
    function = get_backend(ACCOUNT, REGION).get_function("probe")
    cold = []
    for memory in range(300, 308):
        function.memory_size = memory
        started = time.perf_counter()
        assert not runtime.invoke(function, {}).is_error
        cold.append(time.perf_counter() - started)
    warm = []
    for _ in range(8):
        started = time.perf_counter()
        runtime.invoke(function, {})
        warm.append(time.perf_counter() - started)
    function.memory_size = 256
    print(
        f"cold {min(cold) * 1000:.0f}-{max(cold) * 1000:.0f} ms, warm {min(warm) * 1000:.1f}-{max(warm) * 1000:.1f} ms"
    )
    assert min(cold) < 0.3
    assert min(warm) < 0.05


def test_nothing_outlives_the_runtime(work_dir: Path, aws: Any) -> None:
    """A killed sandbox must not leave a Lambda that still works on the databases of the next one."""
    runtime = LambdaRuntime(work_dir, "http://127.0.0.1:9", REGION, lambda role, session: {})
    runtime.start()
    function = get_backend(ACCOUNT, REGION).get_function("probe")
    pid = runtime.invoke(function, {}).payload["pid"]
    assert Path(f"/proc/{pid}").exists()
    runtime.stop()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("vpc", "error", "status"),
    [({"VpcId": "v"}, "ResourceNotReadyException", 502), (None, "CodeArtifactUserPendingException", 409)],
)
def test_a_function_wakes_up_when_nobody_has_called_it_for_weeks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vpc: Any, error: str, status: int
) -> None:
    now = [0.0]
    monkeypatch.setattr("sandbox.lambda_runtime.runtime.time", SimpleNamespace(time=lambda: now[0]))
    runtime = LambdaRuntime(tmp_path, "http://none", "eu-central-1", lambda *_: {})
    met = set()

    def answers(seconds: float) -> bool:
        now[0] += seconds
        try:
            runtime.refuse_while_inactive(SimpleNamespace(function_name="f", vpc_config=vpc))
        except JsonRESTError as refused:
            met.add((refused.error_type, refused.code))
            return False
        return True

    days = 24 * 60 * 60
    assert [answers(0), answers(13 * days), answers(13 * days)] == [True, True, True]
    assert [answers(15 * days), answers(30), answers(29), answers(2), answers(1)] == [False, False, False, True, True]
    assert met == {(error, status)}
