"""What a run is made with: the image's runtime.json, its filters, and a uid."""

import posix

from runtime import seccomp
from runtime.failure import IMAGE, Refused
from runtime.image import SANDBOX, TooLarge, parse_json, read_file

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any


def read_image() -> "tuple[dict[str, Any], dict[str, seccomp.Programs]]":
    """runtime.json, and the whole of policy.bpf by privilege level."""
    try:
        settings = parse_json(read_file(SANDBOX + "/runtime.json"))
        policy = read_file(SANDBOX + "/policy.bpf")
    except OSError as error:
        raise Refused(IMAGE, f"{error.filename}: {error.strerror}", "build the image again") from None
    except ValueError:
        raise Refused(IMAGE, "runtime.json is not JSON", "build the image again") from None
    except TooLarge:
        raise Refused(IMAGE, "policy.bpf is too large", "build the image again") from None
    return settings, seccomp.split(policy, settings["policy_instructions"], settings["policy_sha256"])


def read_service() -> "dict[str, Any]":
    """runtime.json, and what no run shall find in its memory: the key's digest, a proxy with its password."""
    image, _ = read_image()
    try:
        secrets = parse_json(read_file(SANDBOX + "/secrets.json"))
    except (OSError, ValueError):
        raise Refused(IMAGE, "secrets.json is not there, or not JSON", "build the image again") from None
    image["serve"]["key_sha256"] = secrets["key_sha256"]
    image["upstream_proxy"] = secrets["upstream_proxy"]
    return image


def choose_uid(first: int, count: int) -> int:
    """A uid that no other run in this PID namespace has, and one in another container hardly ever.

    The process id makes it unique here; the file system's device number, of which each container has its
    own, keeps the first process of every container from sharing a uid, and with it RLIMIT_NPROC.
    """
    return first + (posix.getpid() + posix.stat("/").st_dev * 7919) % count
