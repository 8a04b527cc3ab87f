"""Good programs, with what they must print: on every architecture and at every privilege level the same."""

from __future__ import annotations

from dataclasses import dataclass

from tests.unit.test_seccomp_programs import STANDARD_LIBRARY

EVERYWHERE = ("chroot", "userns", "landlock")
"""Each privilege level, and both ways to the first."""


@dataclass(frozen=True)
class Program:
    """A run, and how it ends."""

    code: str
    prints: str | None = ""
    """None, as for the exit code: it is compared, not known."""
    exit_code: int | None = 0
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""
    by_stdin: bool = False
    """The code itself comes on stdin."""
    scratch: bool = False
    places: tuple[str, ...] = ("chroot", "landlock")


EXTENSIONS = """
import importlib, importlib.machinery, os, sys
suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
found = {
    name.partition(".")[0]
    for folder in sys.path if os.path.isdir(folder) for name in os.listdir(folder) if name.endswith(suffixes)
}
for name in sorted(found | set(sys.builtin_module_names)):
    importlib.import_module(name)
    print(name)
"""

MODULES = """
import importlib, sys
# These two show something when they are imported.
for name in sorted(sys.stdlib_module_names - {"antigravity", "this"}):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
"""

TLS = """
import _ssl, hashlib, ssl
context = ssl.create_default_context()
print(len(context.get_ca_certs()) > 100, context.verify_mode.name, ssl.OPENSSL_VERSION)
one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    context.wrap_bio(one, other, server_hostname="example.com").do_handshake()
except ssl.SSLWantReadError:
    print(other.read()[:3].hex())
for name in sorted(hashlib.algorithms_guaranteed):
    digest = hashlib.new(name, b"text" * 1000, usedforsecurity=False)
    print(name, digest.hexdigest(16) if name.startswith("shake") else digest.hexdigest())
print(hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1000).hex(), hashlib.scrypt(b"p", salt=b"s", n=16, r=8, p=1).hex())
"""

DATABASE = """
import sqlite3
base = sqlite3.connect(":memory:")
base.execute("create virtual table texts using fts5(body)")
base.executemany("insert into texts values (?)", [(f"line {n} of many \\u00e9",) for n in range(500)])
print(base.execute("select count(*), min(rowid) from texts where texts match 'line AND 42'").fetchone())
print(base.execute("select json_extract('{\\"a\\": [1, 2.5]}', '$.a[1]'), round(exp(1), 12)").fetchone())
base.create_function("twice", 1, lambda value: value * 2)
print(base.execute("select twice(sum(value)) from (select 1.25 as value union all select 2)").fetchone())
"""

NUMBERS = """
import cmath, decimal, fractions, hashlib, json, math, random, statistics, struct, sys
decimal.getcontext().prec = 60
print(decimal.Decimal(2).sqrt(), decimal.Decimal(1).exp())
print(fractions.Fraction(3.14159).limit_denominator(1000), 7 ** 400 % 10 ** 30, hash(2 ** 70), hash(0.1))
random.seed(7)
print(random.random(), random.gauss(0, 1), random.sample(range(1000), 5))
print(statistics.stdev([1.5, 2.5, 4]), math.fsum([.1] * 10), math.gamma(5.5), math.comb(60, 30))
print([float.fromhex("0x1.8p-1074"), float("nan"), -0.0, 1e308 * 10, repr(5e-324)], sys.float_info.epsilon)
print([round(value, 2) for value in (2.675, 1e16 / 3, -0.005)], json.dumps([0.1 + 0.2, 1e22]))
print(struct.pack("@bhiqnfdP", -1, -2, -3, -4, -5, 1.5, 2.5, 6).hex(), sys.byteorder, sys.maxsize)
functions = (math.sin, math.cos, math.tan, math.exp, math.log1p, math.atan, math.sinh, math.cbrt, math.erf)
values = [n / 7 for n in range(1, 200)]
print([f"{sum(map(function, values)):.10g}" for function in functions], f"{cmath.exp(1j):.12f}")
"""

# Calls in both directions, with each kind of argument that the two calling conventions pass in another way.
FOREIGN = """
import ctypes, ctypes.util
libc = ctypes.CDLL(None)
class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]
class Large(ctypes.Structure):
    _fields_ = [("values", ctypes.c_int64 * 5)]
class Quotient(ctypes.Structure):
    _fields_ = [("quot", ctypes.c_long), ("rem", ctypes.c_long)]
libc.ldiv.restype = Quotient
libc.ldiv.argtypes = [ctypes.c_long] * 2
found = libc.ldiv(-17, 5)
print(found.quot, found.rem)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 6)(5, 3, 9, -1, 0, 7)
libc.qsort(numbers, 6, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
print(list(numbers))
by_value = ctypes.CFUNCTYPE(ctypes.c_double, Point, Large, ctypes.c_char, ctypes.c_float)
act = by_value(lambda point, large, letter, factor: (point.x + point.y + sum(large.values)) * factor + ord(letter))
print(act(Point(1.5, 2), Large((ctypes.c_int64 * 5)(1, 2, 3, 4, 5)), b"a", 0.5))
text = ctypes.create_string_buffer(99)
libc.snprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
libc.snprintf(text, 99, b"%d %s %.3f %c %lld %g", 7, b"text", ctypes.c_double(2.5), ctypes.c_int(120), ctypes.c_longlong(1 << 40), ctypes.c_double(1e-9))
print(text.value)
print(ctypes.sizeof(ctypes.c_wchar), ctypes.sizeof(ctypes.c_long), ctypes.sizeof(ctypes.c_longdouble))
print(ctypes.c_char(b"\\xff").value, ctypes.CDLL("libm.so.6").abs(-3))
"""

PACKING = """
import bz2, lzma, random, zlib, hashlib, base64, binascii, pickle, marshal
data = random.Random(3).randbytes(50_000) + b"text " * 50_000
for module in (zlib, bz2, lzma):
    packed = module.compress(data)
    print(module.__name__, len(packed), hashlib.sha256(packed).hexdigest(), module.decompress(packed) == data)
print(zlib.crc32(data), zlib.adler32(data), binascii.crc_hqx(data, 0))
print(pickle.loads(pickle.dumps({"a": [1, 2.5, "\\u20ac"]})), len(marshal.dumps(list(range(999)))))
"""

TEXT = """
# -*- coding: utf-8 -*-
import codecs, locale, re, sys, unicodedata
print("\\u4f60\\u597d \\U0001f40d caf\\u00e9", "stra\\u00dfe".upper(), unicodedata.normalize("NFD", "\\u00e9").encode())
print(unicodedata.unidata_version, re.findall(r"\\w+", "na\\u00efve \\u0391\\u03b2\\u03b3"), "\\u0130".lower().encode())
for name in ("gb18030", "shift_jis", "big5", "euc_kr", "koi8-r", "utf-16"):
    print(name, "\\u0434\\u043e\\u043c".encode(name, "replace"))
print(sys.argv[1:], [argument.encode("utf-8", "surrogateescape") for argument in sys.argv[1:]])
print("\\udcff".encode("utf-8", "surrogateescape"), sys.stdout.encoding, locale.getpreferredencoding())
"""

TIME = """
import datetime, os, time, zoneinfo
names = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia", "Antarctica/Troll")
for name in names:
    for year in (1900, 1970, 2011, 2024, 2037, 2100):
        for month in (1, 7):
            print(datetime.datetime(year, month, 1, 12, tzinfo=zoneinfo.ZoneInfo(name)).isoformat())
os.environ["TZ"] = "Asia/Kathmandu"
time.tzset()
print(time.strftime("%c %Z %z", time.localtime(1_700_000_000)), time.mktime((2024, 2, 29, 0, 0, 0, 0, 0, -1)))
print(len(zoneinfo.available_timezones()) > 400, datetime.date.fromisocalendar(2026, 53, 7))
started = time.monotonic_ns()
time.sleep(0.01)
print(time.monotonic_ns() - started >= 10_000_000, time.clock_getres(time.CLOCK_MONOTONIC))
"""

SIGNALS = """
import faulthandler, os, select, signal, sys, threading, time
seen = []
signal.signal(signal.SIGALRM, lambda number, frame: seen.append((number, frame.f_code.co_name)))
def waits():
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
waits()
print(seen)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
signal.setitimer(signal.ITIMER_REAL, 0.01)
found = signal.sigwaitinfo([signal.SIGALRM])
print(found.si_signo, found.si_code > 0, signal.sigpending())
timer = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(timer, initial=0.01)
print(select.select([timer], [], [], 9)[0] == [timer], int.from_bytes(os.read(timer, 8), sys.byteorder))
poll = select.epoll()
event = os.eventfd(3)
poll.register(event, select.EPOLLIN)
print([mask for _, mask in poll.poll(9)], os.eventfd_read(event))
ends = threading.Event()
threading.Timer(0.01, ends.set).start()
print(ends.wait(9), signal.strsignal(signal.SIGSEGV))
"""

DEEP = """
import json, re, sys, threading
def down(depth): return down(depth + 1)
def attempt(act):
    try: act()
    except RecursionError as error: print("RecursionError", str(error)[:40])
    else: print("no error")
attempt(lambda: down(0))
attempt(lambda: json.loads("[" * 100_000))
attempt(lambda: json.dumps((lambda inner: [inner.append(inner), inner][1])([]), check_circular=False))
attempt(lambda: compile("(" * 100 + ")" * 100, "x", "eval"))
attempt(lambda: re.compile("(" * 5000 + ")" * 5000))
sys.setrecursionlimit(20_000)
def under(depth): return depth and under(depth - 1)
print(under(15_000))
threading.stack_size(1 << 20)
thread = threading.Thread(target=attempt, args=(lambda: down(0),))
thread.start()
thread.join()
"""

DENIED = """
import os, shutil, signal, socket, subprocess, sys
def child(): subprocess.run([sys.executable, "-c", "pass"])
def shell(): os.popen("true").read()
def fork(): os.fork()
def execute(): os.execv(sys.executable, ["x"])
def connect(): socket.create_connection(("127.0.0.1", 80))
def resolve(): socket.getaddrinfo("example.com", 80)
def signal_other(): os.kill(os.getppid(), signal.SIGTERM)
def owner(): shutil.chown("/usr", 0)
def memory(): os.memfd_create("x")
def nice(): os.nice(1)
def affinity(): os.sched_setaffinity(0, [0])
def clock(): __import__("time").clock_settime(0, 0)
for act in (child, shell, fork, execute, connect, resolve, signal_other, owner, memory, nice, affinity, clock):
    try:
        act()
        print(act.__name__, "allowed")
    except OSError as error:
        print(act.__name__, type(error).__name__, error.strerror)
"""
_DENIED = """
child PermissionError Operation not permitted
shell PermissionError Operation not permitted
fork PermissionError Operation not permitted
execute PermissionError Operation not permitted
connect PermissionError Operation not permitted
resolve gaierror Temporary failure in name resolution
signal_other PermissionError Operation not permitted
owner PermissionError Operation not permitted
memory PermissionError Operation not permitted
nice PermissionError Operation not permitted
affinity PermissionError Operation not permitted
clock PermissionError Operation not permitted
"""

SCRATCH = """
import mmap, os, shutil, tempfile
folder = tempfile.mkdtemp()
print(os.path.dirname(folder) == os.environ["TMPDIR"], os.stat(folder).st_uid == os.getuid(), oct(os.stat(folder).st_mode))
path = os.path.join(folder, "file \\u20ac")
with open(path, "wb") as file:
    file.truncate(1 << 20)
with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
    view[:4] = b"data"
    view.flush()
os.symlink(path, path + ".l")
os.rename(path, path + ".2")
print(sorted(os.listdir(folder)), open(path + ".2", "rb").read(4), os.path.islink(path + ".l"))
with tempfile.TemporaryFile() as file:
    os.posix_fallocate(file.fileno(), 0, 9999)
    print(os.fstat(file.fileno()).st_size, os.copy_file_range(file.fileno(), os.open(path + ".2", os.O_WRONLY), 99, 0, 0))
shutil.rmtree(folder)
print(os.listdir(os.environ["TMPDIR"]))
"""

LIMITS = """
import resource, threading
print([resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("AS", "CORE", "CPU", "FSIZE", "NOFILE", "NPROC")])
try:
    bytearray(2 << 30)
except MemoryError:
    print("MemoryError")
kept = []
try:
    while True:
        kept.append(bytearray(1 << 26))
except MemoryError:
    print("MemoryError", 10 < len(kept) < 16)
kept.clear()
print(sum(bytearray(1 << 26)[::1 << 20]))
"""

PROGRAMS = {
    "extension modules": Program(EXTENSIONS, None),
    "every module": Program(MODULES, None),
    # Not under Landlock, whose rules utime(2) passes by: it is denied there.
    "the standard library at work": Program(STANDARD_LIBRARY, scratch=True, places=("chroot", "userns")),
    "TLS and digests": Program(TLS, None),
    "a database": Program(DATABASE, "(1, 43)\n(2.5, 2.718281828459)\n(6.5,)\n"),
    "numbers": Program(NUMBERS, None),
    "foreign functions": Program(
        FOREIGN,
        "-3 -2\n[-1, 0, 3, 5, 7, 9]\n106.25\nb'7 text 2.500 x 1099511627776 1e-09'\n4 8 16\nb'\\xff' 3\n",
    ),
    "packing": Program(PACKING, None),
    "text": Program(TEXT, None, arguments=("\u00e9", "\u4f60 \U0001f40d", "")),
    "time": Program(TIME, None),
    "signals and events": Program(
        SIGNALS, "[(14, 'waits')]\n14 True set()\nTrue 1\n[1] 3\nTrue Segmentation fault\n"
    ),
    "depth": Program(DEEP, None),
    "what is denied": Program(DENIED, _DENIED.lstrip(), places=EVERYWHERE),
    "a scratch folder": Program(SCRATCH, None, scratch=True, places=EVERYWHERE),
    "limits": Program(LIMITS, None, places=EVERYWHERE),
    "much output": Program("for n in range(30_000): print(n, '\u20ac' * 9)", None),
    "much output of both": Program(
        "import sys\nfor n in range(3_000):\n print('o' * 99)\n print('e' * 99, file=sys.stderr)", None
    ),
    "stdin": Program(
        "import sys\nprint(sys.stdin.readline(), len(sys.stdin.read()))",
        "one\n 600000\n",
        0,
        (),
        b"one\n" + b"more.\n" * 100_000,
    ),
    "code on stdin": Program(
        "import sys\nprint(sys.argv, '\u20ac')", "['-', 'a'] \u20ac\n", 0, ("a",), by_stdin=True
    ),
    "nothing": Program("", places=EVERYWHERE),
    "an exit code": Program("raise SystemExit(3)", "", 3),
    "a text as exit code": Program("raise SystemExit('said')", "", 1),
    "an exit code of the runtime's": Program("raise SystemExit(210)", "", 1),
    "an exit of the runtime's, in C": Program("import os; os._exit(210)", "", None),
    "an exception": Program("import json\ndef f(): json.loads('{')\nf()", "", 1),
    "a syntax error": Program("print(1\n", "", 1),
    "not UTF-8": Program("# \udcff\nprint(1)", "1\n"),
    "abort": Program("import os; os.abort()", "", 128 + 6),
    "a crash": Program("import ctypes; print('first', flush=True); ctypes.string_at(0)", "first\n", 128 + 11),
    "a wrong instruction": Program(
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write({'x86_64': b'\\x0f\\x0b', 'aarch64': bytes(4)}[__import__('os').uname().machine])\n"
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()",
        "",
        128 + 4,
    ),
    "a closed stream": Program("import os; os.close(1); print('x')", "", 120),
    "an end with threads": Program(
        "import atexit, threading, time\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')",
        "main\nthread\nlast\n",
    ),
}
