"""Counts of what was tried and what was survived: lines of JSON that every run adds to, and the table made of them.

python tests/faults/record.py build/faults.jsonl
"""

import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

LOG = "FAULTS_LOG"  # environment variable: the file; without it nothing is recorded


def record(harness: str, name: str, tried: int, survived: int, **more: int) -> None:
    """Adds a line: of which harness, what it was done to, how often, how often it ended well, and further counts."""
    if file := os.environ.get(LOG):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        line = {"harness": harness, "name": name, "tried": tried, "survived": survived, **more}
        with open(file, "a") as lines:
            lines.write(json.dumps(line | {"date": time.strftime("%Y-%m-%d")}) + "\n")


def table(file: str | Path) -> str:
    """The counts of a file, summed by harness and name, in Markdown."""
    sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in Path(file).read_text().splitlines():
        counts = json.loads(line)
        for key in ("tried", "killed", "broken", "refused", "survived"):
            sums[counts["harness"], counts["name"]][key] += counts.get(key, 0)
    rows = []
    for harness in dict.fromkeys(harness for harness, _ in sums):
        counted = {name: counts for (kind, name), counts in sums.items() if kind == harness}
        further = [key for key in ("killed", "broken", "refused") if any(counts[key] for counts in counted.values())]
        columns = ["tried", *further, "survived"]
        rows += [f"| {harness} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        whole = {key: sum(counts[key] for counts in counted.values()) for key in columns}
        for name, counts in [*sorted(counted.items()), ("in all", whole)]:
            rows.append(f"| {name} | {' | '.join(f'{counts[key]:,}' for key in columns)} |")
        rows.append("")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(sys.argv[1]))
