"""What a run is made with: the image's runtime.json, and its filters."""

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
