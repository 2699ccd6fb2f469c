"""IAM as it decides: every call of every principal, by the sandbox's own evaluator."""

# The two tables are here because their rows are in the table once they have been imported.
from sandbox.iam import blue_green_table, cluster_table
from sandbox.iam.authorizer import AccessDenied, Authorizer, Decision, Principal
from sandbox.iam.evaluate import Effect, Verdict

__all__ = [
    "AccessDenied", "Authorizer", "Decision", "Effect", "Principal", "Verdict", "blue_green_table", "cluster_table",
]  # fmt: skip
