"""The monitor's end of the planner: asks it, and takes nothing from it that is not a well-formed plan.

Runs as root; the planner does not.
"""

from __future__ import annotations

import json
import subprocess
import sys

from pydantic import ValidationError

from supervisor.errors import SupervisorError
from supervisor.model import Planned
from supervisor.monitor import children

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.registry.governed import main; main()"


def read(data: bytes) -> Planned:
    """The planner's answer; SupervisorError with its message and exit status."""
    try:
        planned = Planned.model_validate_json(data, strict=False)
    except ValidationError:
        raise SupervisorError("the planner ended without a plan; its own message is above") from None
    if planned.error:
        error = SupervisorError(planned.error)
        error.exit_status = planned.status
        raise error
    return planned


def ask(question: dict[str, object]) -> Planned:
    """Run a planner to its end. Blocks the monitor meanwhile (start and reload only; 60 s at most)."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CODE, children.ROOT],
            input=json.dumps(question).encode(),
            stdout=subprocess.PIPE,
            # no package that lies beside it gets to change what pydantic accepts
            env={"LC_ALL": "C.UTF-8", "PYDANTIC_DISABLE_PLUGINS": "1"},
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SupervisorError(f"the planner could not be run: {error}") from None
    return read(done.stdout)
