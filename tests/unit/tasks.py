"""What tests of the server's loop ask of a task."""

from __future__ import annotations

from runtime.loop import Task


async def ended_by(task: Task) -> str:
    """What a task has raised; empty where it has not."""
    try:
        await task.join()
    except BaseException as error:
        return type(error).__name__
    return ""
