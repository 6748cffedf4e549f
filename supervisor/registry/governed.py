"""The planner where there may be policies: as `imaged`, with the policy engine loaded.

Runs as the planner does. A program of its own, because the engine takes as long to import as everything else in a
planner together, and who types `supervisor run` waits for it.
"""

from __future__ import annotations

from supervisor.registry import images, planner, policies


def main() -> None:
    """Answer one question."""
    planner.main(policies.govern, images.find)


if __name__ == "__main__":
    main()
