"""The registry of gradient checks: every op, layer, kernel and model loss, as small cases with names.

The command `tinygen gradcheck` and the tests run the same cases. `missing()` names what is public and has no case.
"""

from __future__ import annotations

from tinygen.checks.registry import Case, Result, cases, missing, run_case, select

__all__ = ["Case", "Result", "cases", "missing", "run_case", "select"]
