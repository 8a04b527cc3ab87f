"""Where runs have their private folders: the jail's /tmp, which nobody but its owner may write to."""

import posix

GROUP_OR_OTHERS_WRITE = 0o022


def closed(tmp: str) -> str:
    """Sees to it that runs can only write in their own folders below `tmp`; else why there can be none.

    For root, whose runs are other users. Platforms mount a volume there with mode 0777 (an emptyDir of
    Kubernetes): a run could write beside its folder, where no quota sees it, and rename those of others.
    """
    try:
        mode = posix.stat(tmp).st_mode
        if mode & GROUP_OR_OTHERS_WRITE:
            posix.chmod(tmp, mode & 0o7777 & ~GROUP_OR_OTHERS_WRITE)
    except OSError as error:
        return f"others may write to the jail's /tmp, and that cannot be changed: {error.strerror}"
    return ""
