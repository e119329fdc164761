"""Write everything that quotes the bundled models: `make renew`, after new weights or results.

Recorded captions and scores, sums, the values of `blip doctor`, outputs in the documentation, cards, licences, pages.
"""

from __future__ import annotations

import subprocess
import sys

from experiments.quotes.results import ROOT

TESTS = ("tests/test_expected_tiny.py", "tests/test_docs.py", "tests/test_quotes.py")  # in this order


def renew() -> int:
    """Run the tests that renew, all of them; return the exit code of the first that fails, else 0.

    Each runs in a process of its own: modules read what an earlier one has written when they are imported.
    """
    commands = [[sys.executable, "-m", "pytest", "-q", "--renew", test] for test in TESTS]
    codes = [subprocess.run(command, cwd=ROOT, check=False).returncode for command in commands]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(renew())
