"""
The `dvc` command, whose writes of dvc.lock are atomic and take a hundredth of the time; all else is DVC's own.

Run:    python -m dcnas_flows.quick_dvc repro [ARGUMENT...]; any command and option of dvc
Takes:  what dvc takes
Expect: what dvc gives, byte for byte, and dvc's exit codes; after `repro`, how long the pipeline stages took
"""

import sys
import time

from dvc.cli import main as dvc

from dcnas_flows.lockfile import write_entries_alone


def main() -> None:
    """Run DVC with the arguments of this command."""
    took: dict[str, list[float]] = {}
    last = time.monotonic()

    def on_entry(name: str) -> None:
        nonlocal last
        now = time.monotonic()
        took.setdefault(name.partition("@")[0], []).append(now - last)
        last = now

    write_entries_alone(on_entry)
    code = dvc(sys.argv[1:])
    if sum(map(len, took.values())) > 1:
        print("\nwhat ran, dvc's own share included:")
        for group, seconds in took.items():
            stages = "1 stage" if len(seconds) == 1 else f"{len(seconds)} stages"
            print(f"  {sum(seconds):7.1f} s  {group} ({stages})")
    sys.exit(code)


if __name__ == "__main__":
    main()
