"""A number for each run, out of jail.uid_range: its uid, where uids can be had, and its folder's name.

A number is free again when its folder is removed. Whoever frees it has seen every process of the run gone.
"""

import posix

from runtime.ends import PoolDown
from runtime.facts import choose_uid
from runtime.scratch import closed

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.cgroup import Groups
    from runtime.keeper import Keeper

FOLDER = "/tmp/run-%d"  # noqa: S108 - in the jail, and private
DONE = b"done"
TRIES, AGAIN_S = 50, 0.1
"""For a folder that is not clear yet: mostly because the zygote has ended, and the errand with it."""


class Numbers:
    """Which are taken, and their folders."""

    def __init__(
        self, keeper: "Keeper", image: "dict[str, Any]", groups: "Groups | None", log: "Any"
    ) -> None:
        self.keeper = keeper
        self.tree: str = image["tree"]
        self.groups = groups
        self.log = log
        self.problem = ""
        """Why runs have no private folder; empty where they have."""
        first, count = image["uid_range"]
        # The zygote's own and that of its errands come first: zygote.py.
        self.all = range(first + 2, first + count)
        self.taken: set[int] = set()
        self._next = (choose_uid(first, count) - first) % len(self.all)
        self._given_up: set[int] = set()

    def take(self) -> int | None:
        """The one that was free the longest, or nearly; None where all are taken."""
        for _ in range(len(self.all)):
            number: int = self.all[self._next]
            self._next = (self._next + 1) % len(self.all)
            if number not in self.taken:
                self.taken.add(number)
                return number
        return None

    def make_folder(self, number: int) -> str:
        """The run's private folder, as the jail sees it; empty where there cannot be one."""
        try:
            if posix.getuid() == 0 and (problem := closed(self.tree + "/tmp")):  # noqa: S108
                self.problem = problem
                return ""
            posix.mkdir(self.tree + FOLDER % number, 0o700)
            if self.keeper.sets_identity:
                posix.chown(self.tree + FOLDER % number, number, number)
        except OSError as error:
            self.problem = str(error.strerror)
            return ""
        self.problem = ""
        return FOLDER % number

    def seen_by_zygote(self, number: int) -> str:
        """Where the private folder is for the zygote and its errands."""
        return ("" if self.keeper.in_force.get("level") == "chroot" else self.tree) + FOLDER % number

    def claim_left(self) -> set[int]:
        """Those whose folders an earlier zygote or server has left behind: taken now, and to be freed."""
        try:
            names = posix.listdir(self.tree + "/tmp")  # noqa: S108
        except OSError:
            return set()
        texts = [name[4:] for name in names if name.startswith("run-")]
        left = {int(text) for text in texts if text.isascii() and text.isdecimal()} & {*self.all}
        left -= self.taken - self._given_up
        self.taken |= left
        self._given_up -= left
        return left

    async def free(self, number: int) -> None:
        """Removes the folder, and then the number is free."""
        if self.groups is not None:
            self.groups.remove(number)
        for _ in range(TRIES):
            try:
                posix.rmdir(self.tree + FOLDER % number)
            except FileNotFoundError:
                pass
            except OSError as error:
                problem = error.strerror
                if self.keeper.stopping:
                    return
                if not await self._clear(number):
                    await self.keeper.loop.sleep(AGAIN_S)
                continue
            self.taken.discard(number)
            return
        self._given_up.add(number)
        self.log.error("private folder left", number=number, problem=problem)

    async def _clear(self, number: int) -> bool:
        """Has the folder emptied; whether it was."""
        try:
            return await self.keeper.errand("clear", number, scratch=self.seen_by_zygote(number)) == DONE
        except PoolDown:
            await self.keeper.up.wait(1)
            return False
