"""Write everything that quotes the bundled models: `make renew`, after new weights or results.

Recorded captions and scores, sums, the values of `blip doctor`, outputs in the documentation, cards, licences, pages.
"""

from __future__ import annotations

import subprocess
import sys

from experiments.quotes.results import ROOT

TESTS = ("tests/test_expected_tiny.py", "tests/test_docs.py", "tests/test_quotes.py")  # in this order


def renew() -> int:
    """Run the tests that renew; return their exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "--renew", *TESTS]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(renew())
