"""`make golden`: writes the golden files anew. Read their diff before you commit it: it is the change."""

import tempfile
from pathlib import Path

from builder.arch import ARCHES
from builder.deploy import render_manifest
from builder.dockerfile import render_dockerfile
from builder.seccomp import Request, describe, effective_policy
from tests.unit import test_deploy
from tests.unit.manifests import config_of
from tests.unit.test_dockerfile import CASES, GOLDEN

for name, inputs in CASES.items():
    (GOLDEN / name).write_text(render_dockerfile(inputs))
for arch in ARCHES.values():
    (GOLDEN / f"policy-{arch.name}.txt").write_text(describe(effective_policy(Request(), arch), arch))
with tempfile.TemporaryDirectory() as folder:
    for name, (request, text) in test_deploy.CASES.items():
        manifest, _ = render_manifest(config_of(text, Path(folder)), request)
        (test_deploy.GOLDEN / name).write_text(manifest)
