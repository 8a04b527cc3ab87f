"""The runtime's own objects, which are in the memory of the process that runs the code."""

from builder.arch import host_arch
from tests.conftest import Place
from tests.escape.attacks import REFUSED_EXIT, Attack, judge, outcomes

# The control imports it, as the runtime does; in the jail it is found among the garbage collector's objects.
NATIVE = """
import gc, types
sys.path.insert(0, "/sandbox")
try:
    from runtime._syscall import call as native
except ImportError:
    native = next(
        thing for thing in gc.get_objects()
        if isinstance(thing, types.BuiltinFunctionType) and "kernel's own answer" in (thing.__doc__ or "")
    )
"""
CALLS = {
    "setresuid": "0, 0, 0",
    "setresgid": "0, 0, 0",
    "setgroups": "0, 0",
    "chroot": 'bytearray(b".\\0")',
    "unshare": "0",
    "prctl": "38, 1, 0, 0, 0",
    "capset": 'bytearray((0x20080522).to_bytes(4, "little") + bytes(4)), bytearray(24)',
    "prlimit64": "0, 4, bytearray(16), 0",
}
NATIVE_ATTACKS = {
    name: Attack(f'{NATIVE}found = native(number("{name}"), {arguments})', "0", "-1")
    for name, arguments in CALLS.items()
} | {
    "seccomp": Attack(f'{NATIVE}found = native(number("seccomp"), 1, 0, 0)', "-14", "-1"),
    "landlock_create_ruleset": Attack(
        f'{NATIVE}found = native(number("landlock_create_ruleset"), 0, 0, -1)', "-22", "-1"
    ),
}


def test_the_runtimes_raw_call_is_worth_nothing(outside: Place, jail: Place, where: str) -> None:
    """Found, and called: -EPERM for every call that the lock-down made with it."""
    judge(NATIVE_ATTACKS, outside, jail, where)


def test_the_runtime_is_not_importable(outside: Place, jail: Place, where: str) -> None:
    """Neither from sys.modules, nor from its files."""
    lines = 'sys.path.insert(0, "/sandbox"); import runtime.kernel'
    assert outcomes(jail, {"modules": "found = [name for name in sys.modules if 'runtime' in name]"}) == {
        "modules": "[]"
    }
    judge({"import": Attack(lines, "OK", "ModuleNotFoundError")}, outside, jail, where)


FRAMES = """
frame = sys._getframe()
while frame.f_back:
    frame = frame.f_back
runtime = frame.f_globals  # the entrypoint's own
frame = sys._getframe()
while "jail" not in frame.f_locals:
    frame = frame.f_back
jail, status = frame.f_locals["jail"], frame.f_locals["status_descriptor"]
"""
STEPS = {
    "limits": (FRAMES + "jail.set_limits()", "EPERM"),
    "another root": (FRAMES + "jail.level, jail.tree = 'chroot', '/usr'; jail.change_root()", "EPERM"),
    "capabilities": (FRAMES + "jail.give_up_capabilities()", "EPERM"),
    "no_new_privs": (FRAMES + "jail.forbid_new_privileges()", "EPERM"),
    "Landlock": (FRAMES + "jail.level, jail.landlock_abi = 'landlock', 1; jail.confine_files()", "EPERM"),
    "seccomp": (FRAMES + "jail.filter_syscalls()", "Refused"),
    "the status descriptor": (FRAMES + "os.write(4 if status is None else status, b'forged')", "EBADF"),
    "the policy": (FRAMES + "open(runtime['read_image'].__globals__['SANDBOX'] + '/policy.bpf')", "ENOENT"),
}


def test_the_lock_down_cannot_be_done_again(jail: Place, where: str) -> None:
    """Its steps, reached by way of the frames, are refused what they set; its descriptors are closed."""
    due = {name: outcome for name, (_, outcome) in STEPS.items()}
    if where == "restricted":
        due["the policy"] = "EACCES"
    assert outcomes(jail, {name: lines for name, (lines, _) in STEPS.items()}) == due


def test_the_runtimes_own_end_cannot_be_used(jail: Place) -> None:
    """refuse(), reached by way of the frames: its exit code is not to be had, and the run dies of trying."""
    refuse = f"import sys\n{FRAMES}\nruntime['refuse'](runtime['Refused'](220, 'forged'), None)"
    assert jail.run(refuse).exit_code == 128 + REFUSED_EXIT[host_arch().name]


STATE = {
    "arguments": ("sys.argv", "['-c']"),
    "the interpreter's arguments": ("sys.orig_argv[1:]", "['-c']"),
    "flags": ("(sys.flags.isolated, sys.flags.no_site, sys.flags.safe_path)", "(1, 1, True)"),
    "path": ("[path for path in [*sys.path, *sys.path_importer_cache] if path.endswith('/sandbox')]", "[]"),
    "main module": ("'Jail' in vars(sys.modules['__main__'])", "False"),
    "working folder": ("os.getcwd()", "/"),
    "blocked signals": ("__import__('signal').pthread_sigmask(0, [])", "set()"),
    "threads": ("__import__('_thread')._count()", "0"),
    "the encoding of text": ("(sys.getfilesystemencoding(), sys.stdout.encoding)", "('utf-8', 'utf-8')"),
    "tracing": ("(sys.gettrace(), sys.getprofile())", "(None, None)"),
    "hooks": (
        "(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)",
        "(True, True)",
    ),
    "limits of the interpreter": ("(sys.getrecursionlimit(), sys.get_int_max_str_digits())", "(1000, 4300)"),
    "warnings": ("(sys.warnoptions, sys._xoptions)", "([], {})"),
}


def test_the_interpreter_is_as_new(jail: Place, where: str) -> None:
    """What the runtime changed in `sys` for its own sake is not there when the code starts."""
    due = {name: outcome for name, (_, outcome) in STATE.items()}
    if where == "restricted":
        due["working folder"] = "/var/sandbox/sandbox-python"
    assert outcomes(jail, {name: f"found = {lines}" for name, (lines, _) in STATE.items()}) == due


def test_nothing_secret_is_in_the_runtimes_settings(jail: Place) -> None:
    """runtime.json is readable to code that looks through the frames: it has what the run is told anyway."""
    lines = FRAMES + "found = sorted(frame.f_locals['settings'])"
    known = (
        "['dependencies', 'env', 'env_keep', 'image', 'level', 'limits', 'namespaces', 'network', "
        "'network_allow', 'on_denied', 'policy_instructions', 'policy_sha256', 'python', 'serve', "
        "'sys_path', 'tree', 'uid_range', 'worker_timeout_s']"
    )
    assert outcomes(jail, {"settings": lines}) == {"settings": known}
