"""A function loads what it needs: a driver where there is no database is start-up time, size and attack surface."""

import json
import subprocess
import sys

import pytest

from infra.config import load
from infra.tasks import Task, permission_matrix

TASKS = permission_matrix(load("sandbox"))
DRIVERS = {"pg8000", "pymysql"}

# One process with the libraries that every function loads, and a fork of it per module.
LOADED = """
import importlib, json, os, sys
import boto3, pydantic, aws_lambda_powertools.metrics, aws_lambda_powertools.tracing
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        print(json.dumps([name, sorted(sys.modules)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Module -> everything in ``sys.modules`` after it was imported."""
    names = ["lambdas.rotation.step", *(f"lambdas.{task.package}.handler" for task in TASKS)]
    answer = subprocess.run([sys.executable, "-c", LOADED, *names], capture_output=True, text=True, check=True)
    return {name: set(modules) for name, modules in map(json.loads, answer.stdout.splitlines())}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.package)
def test_a_handler_imports_no_driver_and_no_other_step(loaded: dict[str, set[str]], task: Task) -> None:
    """Drivers are loaded by the first login; one step's code is never another's."""
    modules = loaded[f"lambdas.{task.package}.handler"]

    assert {task.package, "rotation"} == {name.split(".")[1] for name in modules if name.startswith("lambdas.")}
    assert set() == modules & DRIVERS
    assert not any(name.startswith("sandbox") for name in modules)


def test_the_shared_package_imports_no_step(loaded: dict[str, set[str]]) -> None:
    modules = loaded["lambdas.rotation.step"]

    assert {"rotation"} == {name.split(".")[1] for name in modules if name.startswith("lambdas.")}
