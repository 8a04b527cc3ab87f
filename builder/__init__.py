"""Turns one config.yaml into container images in which untrusted Python runs in a jail."""

__version__ = "0.1.0"
