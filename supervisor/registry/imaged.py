"""The planner where there may be images: as `planner`, with what reads the store.

Runs as the planner does. A program of its own, because who types `supervisor run` waits for what it imports.
"""

from __future__ import annotations

from supervisor.registry import images, planner


def main() -> None:
    """Answer one question."""
    planner.main(find=images.find)


if __name__ == "__main__":
    main()
