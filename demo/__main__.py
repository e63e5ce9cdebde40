"""``python3 -m demo``: both servers, the mirror and some traffic, until Ctrl-C."""

# No ``from __future__`` here, and nothing newer than Python 2: an old interpreter has to get as far as
# the sentence that says which one is needed.

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("demo: this needs Python 3.11 or newer, and this is %d.%d; try: make demo PYTHON=python3.11"  # noqa: UP031
             % sys.version_info[:2])  # fmt: skip

from demo.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
