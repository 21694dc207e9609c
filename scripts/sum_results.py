# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Add up what scripts/test.sh ran and close with 'N passed, N failed[, N skipped]'.

    sum_results.py DIR [FAILED STAGE ...]

DIR holds pytest's JUnit files and one file `ok.NAME` per lint step that found nothing. A stage
named as failed whose file shows no failure (it was killed, or could not start) counts as one.
"""
from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def count(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit file; errors count as failed."""
    try:
        suites = ElementTree.parse(report).getroot().iter('testsuite')
    except ElementTree.ParseError:  # the process was killed while it wrote
        return 0, 0, 0
    passed = failed = skipped = 0
    for suite in suites:
        bad = int(suite.get('failures', 0)) + int(suite.get('errors', 0))
        left_out = int(suite.get('skipped', 0))
        passed += max(int(suite.get('tests', 0)) - bad - left_out, 0)
        failed += bad
        skipped += left_out
    return passed, failed, skipped


def main(results: Path, failed_stages: list[str]) -> int:
    """Print the closing line; 1 if anything failed or nothing ran."""
    passed = failed = skipped = 0
    for report in results.glob('*.xml'):
        good, bad, left_out = count(report)
        if bad == 0 and report.stem in failed_stages:
            bad = 1
        passed, failed, skipped = passed + good, failed + bad, skipped + left_out
    passed += len(list(results.glob('ok.*')))
    failed += sum(not (results / f'{stage}.xml').exists() for stage in failed_stages)
    print(f'{passed} passed, {failed} failed' + (f', {skipped} skipped' if skipped else ''))
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
