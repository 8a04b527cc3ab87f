"""The system-call policy: images/python/seccomp.yaml and config.yaml come to BPF and to a text for people.

`effective_policy` decides, `compile_policy` makes what the runtime hands to seccomp(2), `describe` tells it.
"""

from builder.seccomp.catalog import Group, Rule, default_groups, load_groups
from builder.seccomp.compile import compile_policy, named
from builder.seccomp.describe import describe
from builder.seccomp.policy import Call, Granted, Policy, Request, effective_policy, for_landlock

__all__ = [
    "Call",
    "Granted",
    "Group",
    "Policy",
    "Request",
    "Rule",
    "compile_policy",
    "default_groups",
    "describe",
    "effective_policy",
    "for_landlock",
    "load_groups",
    "named",
]
