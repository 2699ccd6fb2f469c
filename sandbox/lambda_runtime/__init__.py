"""Lambda as it is: processes of their own, a role of their own, the function's zip and the layer and nothing else."""

from sandbox.lambda_runtime.runtime import Fault, Faults, Invocation, LambdaRuntime

__all__ = ["Fault", "Faults", "Invocation", "LambdaRuntime"]
