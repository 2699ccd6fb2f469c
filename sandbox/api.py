"""The AWS APIs on one loopback port: moto's server, set up to execute, not just to answer, and loud when it fails."""

from __future__ import annotations

import contextvars
import functools
import io
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

import flask
import moto.backends
import moto.core.responses
import moto.kms.models
import requests
from moto.core.base_backend import BackendDict
from moto.core.config import default_user_config
from moto.core.serialize import AttributePickerContext
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from sandbox.context import ACCOUNT_ID

LOG = logging.getLogger("sandbox.api")


class Api:
    """moto's server on a free port of 127.0.0.1, in threads of this process."""

    def __init__(self) -> None:
        default_user_config["lambda"] = {"use_docker": False}
        default_user_config["stepfunctions"] = {"execute_state_machine": True}
        default_user_config["iam"] = {"load_aws_managed_policies": True}
        self._ending = False
        _remember_what_does_not_change()
        _empty_the_account()
        flask.got_request_exception.connect(self._report_failure)
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            application = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", 0, application, threaded=True, request_handler=_RequestHandler
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="api", daemon=True
        )
        self.port = int(self._server.server_address[1])
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        # moto calls itself, and reads this to find itself.
        os.environ["MOTO_PORT"] = str(self.port)
        # Else it looks for the owner of each request's access key through all that it has ever given out.
        os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT_ID

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(requests.ConnectionError):
                requests.get(f"{self.endpoint_url}/moto-api/data.json", timeout=30)
                return
            time.sleep(0.05)
        raise RuntimeError("the API server does not answer")

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        flask.got_request_exception.disconnect(self._report_failure)

    def expect_failures(self) -> None:
        """The parts behind the APIs are about to be stopped: what fails from here on is no news."""
        self._ending = True

    def _report_failure(self, sender: Any, exception: BaseException, **_: Any) -> None:
        """A failure inside the sandbox's AWS is a bug of the sandbox. moto would answer 500 and say nothing."""
        if self._ending:
            return
        request = flask.request
        LOG.error(
            "unhandled exception in %s: %s %s %s",
            getattr(sender, "service", sender),
            request.method,
            request.path,
            request.headers.get("X-Amz-Target") or request.values.get("Action", ""),
            exc_info=exception,
        )


def _remember_what_does_not_change() -> None:
    """moto finds these anew for every request, every key and every member of every answer: a third of its work."""
    if hasattr(moto.backends.list_of_moto_modules, "cache_info"):
        return
    modules = tuple(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = functools.cache(lambda: modules)
    moto.core.responses.method_names_from_class = functools.cache(moto.core.responses.method_names_from_class)
    moto.core.responses.XFormedAttributePicker = _RememberingPicker
    # Of symmetric keys too, which nobody can sign with; one that does sign has its own.
    make, spare = moto.kms.models.generate_private_key, moto.kms.models.generate_private_key("RSA_2048")
    moto.kms.models.generate_private_key = lambda spec: spare if spec == "SYMMETRIC_DEFAULT" else make(spec)


class _RememberingPicker(moto.core.responses.XFormedAttributePicker):  # type: ignore[misc]
    """Under which names a member of an answer may be found depends on the place in the answer and the object's type."""

    _known: ClassVar[dict[tuple[Any, ...], tuple[str, ...]]] = {}

    def get_possible_keys(self, context: AttributePickerContext) -> Iterable[str]:
        operation = context.operation_model
        assert operation is not None
        place = (operation.service_model.service_name, operation.name, context.key_path, context.key, type(context.obj))
        if place not in self._known:
            self._known[place] = tuple(dict.fromkeys(super().get_possible_keys(context)))
        return self._known[place]


def _empty_the_account() -> None:
    """moto keeps an account per process: a second server in one process would begin with what the first has left."""
    # Not BackendDict.reset(): it forgets which backends there are, and a second call empties none.
    for service in list(BackendDict._instances):
        for account in list(service.values()):
            account.reset()


class _RequestHandler(MotoRequestHandler):  # type: ignore[misc]
    """Keeps a connection for its next request, as AWS does.

    werkzeug's own closes each: a connection and a thread for every request were a tenth of what these APIs cost.
    """

    # Answers go out at once: Nagle's algorithm and delayed acknowledgements cost 40 ms per call otherwise.
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def finish(self) -> None:
        # A fault has hung up on the client, and what was still to be said is said to nobody.
        with suppress(ConnectionError):
            super().finish()

    def run_wsgi(self) -> None:
        # Another request in the same thread: nothing that was noted in the context of the last one is true of it.
        contextvars.Context().run(self._answer)

    def _answer(self) -> None:
        self.environ = environ = self.make_environ()
        # All of it, whether the application looks at it or not: the next request begins after it.
        environ["wsgi.input"] = io.BytesIO(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        begun: list[Any] = []
        try:
            pieces = self.server.app(environ, lambda status, headers, _=None: begun.extend((status, headers)))
            content = b"".join(pieces)
            getattr(pieces, "close", lambda: None)()
            status, headers = begun
        except Exception:
            status, headers, content = "500 INTERNAL SERVER ERROR", [], b""  # `Api._report_failure` has said why
        code, _, message = status.partition(" ")
        self.send_response(int(code), message)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
