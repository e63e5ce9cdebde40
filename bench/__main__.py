"""``python -m bench [SCENARIO ...]`` measures, and writes a table, the figures as JSON and a picture."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from pathlib import Path

from bench import versions
from bench.options import ENGINES, Options
from bench.picture import draw
from bench.report import described, load, machine, save
from bench.results import FAILED, Result, brief, markdown
from bench.scenarios import SCENARIOS, scenario, selected


def main() -> int:
    arguments = _parser().parse_args()
    # Ends like Ctrl-C, so that what was started and made goes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        names = selected(arguments.scenarios)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    options = Options(
        engines=tuple(arguments.engine or ENGINES),
        repeats=arguments.repeats,
        scale=arguments.scale,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    minutes: dict[str, float] = {}
    run = {"repeats": options.repeats, "scale": options.scale, "minutes": minutes}
    about = {**machine(), "versions": versions.of_scenarios(), **run}
    results: list[Result] = []
    for name in names:
        options.say(f"{name}, since {time.strftime('%H:%M:%S')}")
        began = time.monotonic()
        try:
            results += scenario(name).run(options)
        except KeyboardInterrupt:
            options.say("interrupted")
            return 130
        except Exception as error:  # noqa: BLE001 - the other scenarios are still worth running
            traceback.print_exc()
            results.append(
                Result(scenario=name, case="all", subject="the scenario", left_out=f"{FAILED}{brief(error)}")
            )
        minutes[name] = round((time.monotonic() - began) / 60, 1)
        about["load at the end"] = load()
        # After each one: a run of hours keeps what it has.
        _write(arguments.output, "bench" if len(names) == len(SCENARIOS) else "-".join(names), results, about)
    print(markdown(results))
    return 1 if any(result.left_out.startswith(FAILED) for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all three")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="interleaved rounds (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="multiplies every count")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), metavar="DIRECTORY")
    return parser


def _write(directory: Path, name: str, results: list[Result], about: dict[str, object]) -> None:
    text = f"{markdown(results)}\n\n{described(about)}"
    save(directory, name, {"machine": about, "results": [result.as_json() for result in results]}, text)
    trouble = draw(results, about, directory / f"{name}.png")
    if trouble:
        print(trouble, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
