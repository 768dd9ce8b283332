"""Run the benchmarks: all of them, or some by name.

    python -m benchmarks [NAME ...] [--quick] [--markdown]

Each runs in a process of its own, one after the other, and prints its ratios and whether they reach their target. A
machine that does something else meanwhile gives ratios that are noisy, and absolute figures that mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "textual", "xllamacpp")


def names() -> list[str]:
    """The benchmarks there are: every module here with a ``run``."""
    return sorted(file.stem for file in HERE.glob("*.py") if "\ndef run(quick: bool" in file.read_text("utf-8"))


def machine() -> str:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        model = next(
            (line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if "model name" in line), model
        )
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(found)}"


def one(name: str, quick: bool) -> list[dict[str, object]]:
    """Run a benchmark in a process of its own.

    Raises:
        SystemExit: It failed; its output was shown.
    """
    code = f"import json, benchmarks.{name} as b; print('ROWS ' + json.dumps(b.run({quick})))"
    # What libraries have to say (progress bars, advice) would stand between the rows.
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ROWS ")]
    if done.returncode or not lines:
        print(done.stdout, done.stderr, sep="\n")
        raise SystemExit(f"benchmark {name} failed with status {done.returncode}")
    rows: list[dict[str, object]] = json.loads(lines[-1][5:])
    return rows


def show(rows: list[dict[str, object]], *, markdown: bool) -> None:
    """Print rows, one a line."""
    for row in rows:
        verdict = "reached" if row["passed"] else "missed"
        unit = f" {row['unit']}" if row.get("unit") else ""
        spread = f" ({row['spread']})" if row.get("spread") else ""
        cells = [
            str(row["benchmark"]),
            f"{row['ours']}{unit}",
            f"{row['peer']}{unit} ({row['peer_name']})",
            f"{row['ratio']}{spread}",
            f"{row['target']}: {verdict}",
        ]
        print(f"| {' | '.join(cells)} |" if markdown else "   ".join(cells), flush=True)


def main() -> int:
    """Status 1 when a target is missed; with ``--quick`` only when something does not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="*", help=f"one of: {', '.join(names())} (all if none is given)")
    parser.add_argument("--quick", action="store_true", help="little data: shows that it runs, not how fast")
    parser.add_argument("--markdown", action="store_true", help="as rows of the table in RESULTS.md")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.name if name not in names()]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(names())}")
    print(machine())
    if arguments.markdown:
        print("\n| benchmark | llmmagic | peer | ratio | target |\n| --- | --- | --- | --- | --- |")
    rows: list[dict[str, object]] = []
    for name in arguments.name or names():
        found = one(name, arguments.quick)
        show(found, markdown=arguments.markdown)
        rows += found
    return 0 if arguments.quick or all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
