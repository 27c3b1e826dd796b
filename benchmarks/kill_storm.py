"""Kill storm: a small model's run is killed, or its disk takes no more, at every instant; the next run must make all good.

Each trial: a copy of the home as it stood before, a process that is killed with SIGKILL at one instant (or that finds the disk full from there
on), a second run that nobody hurts, and a comparison with a run that nobody ever hurt: the same champion, versions, releases, answers,
outcomes with their sums, state of the hours, each prediction once, no finished step again, an intact audit chain, nothing left behind, the
dead run marked as killed. Where the world goes on before the second run (``late``) there is nothing to compare with, and no fault may
show. The worlds: a daily model's first version and its second; an hourly model's first run and its next hour. The hourly ones have some
thousand instants, most of them pieces of a state being written: --every 20 tries enough of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from endcap.testing.kill_worlds import WORLDS

N_MOMENTS = 50


def count_instants(world: str) -> int:
    """How many instants a run has: the summary of a storm that tries one."""
    return storm(world, ["kill:1"])[-1]["n_instants"]


def storm(world: str, wanted: list[str]) -> list[dict]:
    """The lines of one process's storm."""
    done = subprocess.run([sys.executable, "-m", "endcap.testing.kills", world, *wanted], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if not lines or "n_tried" not in lines[-1]:
        raise SystemExit(f"a storm ended early:\n{done.stderr[-4000:]}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="try only every n-th instant")
    parser.add_argument("--how", nargs="+", default=["kill", "full", "late", "moment"], choices=["kill", "full", "late", "moment"])
    parser.add_argument("--world", nargs="+", default=list(WORLDS), choices=WORLDS)
    given = parser.parse_args()
    began_s, rows = time.perf_counter(), []
    with ThreadPoolExecutor(given.workers) as pool:
        for world in given.world:
            n = count_instants(world)
            for how in given.how:
                places = [f"{place % 100}%" for place in range(N_MOMENTS * 2) if place % 2] if how == "moment" else range(1, n + 1, given.every)
                wanted = [f"{how}:{place}" for place in places]
                parts = [wanted[worker :: given.workers] for worker in range(given.workers)]
                lines = list(chain(*(part[:-1] for part in pool.map(lambda part, s=world: storm(s, part), parts))))
                bad = [line for line in lines if line["problems"]]
                for line in bad:
                    print(f"FAILED {world} {line['instant']} ({line['name']}): {line['problems']}")
                hurt, steps = sum(line["killed"] for line in lines), Counter(len(line["finished"]) for line in lines)
                rows.append({"world": world, "how": how, "instants": n, "tried": len(lines), "hurt": hurt, "failures": len(bad)})
                print(f"{world:8} {how:7} {len(lines):5} tried of {n}, {hurt} hurt, {len(bad)} failed; steps finished: {dict(sorted(steps.items()))}")
    tried, failures = sum(row["tried"] for row in rows), sum(row["failures"] for row in rows)
    print(json.dumps({"instants": tried, "failures": failures, "wall_s": round(time.perf_counter() - began_s), "rows": rows}))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
