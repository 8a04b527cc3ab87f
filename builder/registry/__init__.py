"""Registries: images, and what is attached to them, pushed and read by the distribution API."""

from builder.registry.images import Image, Pushed, push
from builder.registry.read import get_config, get_image, get_images, open_image
from builder.registry.referrers import Attachment, Document, Referrer, find_referrers, get_document
from builder.registry.repository import Manifest, Repository, open_registry

__all__ = [
    "Attachment",
    "Document",
    "Image",
    "Manifest",
    "Pushed",
    "Referrer",
    "Repository",
    "find_referrers",
    "get_config",
    "get_document",
    "get_image",
    "get_images",
    "open_image",
    "open_registry",
    "push",
]
