"""IAM as it decides: every call of every principal, by the sandbox's own evaluator."""

from sandbox.iam.authorizer import AccessDenied, Authorizer, Decision, Principal
from sandbox.iam.evaluate import Effect, Verdict

__all__ = ["AccessDenied", "Authorizer", "Decision", "Effect", "Principal", "Verdict"]
