SYS_capget: int
SYS_capset: int
SYS_close_range: int
SYS_ioctl: int
SYS_landlock_add_rule: int
SYS_landlock_create_ruleset: int
SYS_landlock_restrict_self: int
SYS_ppoll: int
SYS_prctl: int
SYS_prlimit64: int
SYS_seccomp: int
SYS_sendmsg: int
SYS_tkill: int
SYS_unshare: int

def call(number: int, *arguments: int | bytearray) -> int: ...
def address(buffer: bytearray) -> int: ...
def wipe(text: bytes) -> int: ...
def wipe_environment() -> int: ...
def keep_errno(signal: int) -> int: ...
