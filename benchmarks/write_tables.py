"""Put the tables of benchmarks/results into a Markdown file.

They go between ``<!-- table: NAME -->`` and ``<!-- end -->``.

python benchmarks/write_tables.py docs/results/performance.md
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from steps import RESULTS, command_line, table


def block(name: str) -> str:
    """The table of ``benchmarks/results/<name>.json`` under a line that says where and when."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    made = result["machine"]
    device = made["gpu"] or f"{made['cpu']}, {made['threads']} thread(s)"
    caption = f"`{made['command']}`, {made['date']}, torch {made['torch']}, {device}"
    return f"{caption}\n\n{table(result['rows'])}"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("document", type=Path)
    document = parser.parse_args().document
    text = re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{block(match[2])}\n{match[3]}" if has_result(match[2]) else match[0],
        document.read_text(),
        flags=re.DOTALL,
    )
    document.write_text(text)


def has_result(name: str) -> bool:
    """Whether the benchmark of that name was run."""
    return (RESULTS / f"{name}.json").exists()


if __name__ == "__main__":
    main()
