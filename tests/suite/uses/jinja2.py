"""A template with inheritance, in the sandboxed environment."""

from jinja2 import DictLoader
from jinja2.sandbox import SandboxedEnvironment

pages = {
    "base": "<{% block b %}{% endblock %}>",
    "page": "{% extends 'base' %}{% block b %}{{ n|sum }}{% endblock %}",
}
assert SandboxedEnvironment(loader=DictLoader(pages)).get_template("page").render(n=[1, 2]) == "<3>"
