"""More and more files, and larger and larger ones."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

START = """
import shutil, tempfile
folder = tempfile.mkdtemp()
try:
    {lines}
finally:
    shutil.rmtree(folder)
"""
MANY_FILES = "[open(f'{folder}/{number}', 'w').close() for number in range(5000)]"
MUCH_DATA = "[open(f'{folder}/{number}', 'wb').write(bytes(1 << 23)) for number in range(9)]"
LARGE_FILE = "open(f'{folder}/x', 'wb').truncate((64 << 20) + 1)"
SPARSE_FILE = "os.pwrite(os.open(f'{folder}/x', os.O_CREAT | os.O_WRONLY), b'x', 64 << 20)"

ATTACKS = {
    name: Attack(START.format(lines=lines), "OK", inside)
    for name, (lines, inside) in {
        "files": (MANY_FILES, "ENOSPC"),
        "data": (MUCH_DATA, "ENOSPC"),
        "a large file": (LARGE_FILE, "EFBIG"),
        "a file with a hole": (SPARSE_FILE, "EFBIG"),
    }.items()
}


def test_files_end_at_the_scratch_folders_size(mounted: Place, jail_with_scratch: Place, where: str) -> None:
    """ENOSPC at 64 MiB or 4096 files in all, EFBIG beyond limits.file_size in one, and the run goes on."""
    judge(ATTACKS, mounted, jail_with_scratch, where)
