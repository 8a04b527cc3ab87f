"""`make golden`: writes the golden files anew. Read their diff before you commit it: it is the change."""

from builder.arch import ARCHES
from builder.dockerfile import render_dockerfile
from builder.seccomp import Request, describe, effective_policy
from tests.unit.test_dockerfile import CASES, GOLDEN

for name, inputs in CASES.items():
    (GOLDEN / name).write_text(render_dockerfile(inputs))
for arch in ARCHES.values():
    (GOLDEN / f"policy-{arch.name}.txt").write_text(describe(effective_policy(Request(), arch), arch))
