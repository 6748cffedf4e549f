"""What every test of the gateway has around it: an event loop in which nothing may be lost without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
from collections.abc import Callable, Coroutine
from typing import ParamSpec

import uvloop

P = ParamSpec("P")
# libuv keeps a pipe of its own from the first loop on
uvloop.new_event_loop().close()


def _open() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder itself
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def scene(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run a test in a loop of its own. No exception may be swallowed, no task linger, no descriptor stay open."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        swallowed: list[object] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: swallowed.append(context))
            await test(*args, **kwargs)
            for _ in range(20):
                left = asyncio.all_tasks() - {asyncio.current_task()}
                if not left:
                    break
                await asyncio.sleep(0.01)
            assert not left, left

        before = _open()
        gc.freeze()  # only what this test makes is looked at
        uvloop.run(main())
        gc.collect()
        gc.unfreeze()
        assert not swallowed, swallowed
        left = _open() - before
        assert not left, left

    return run
