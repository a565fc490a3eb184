"""`bang collect` under its former name."""

import sys

from bang.__main__ import main

if __name__ == "__main__":
    main(["collect", *sys.argv[1:]])
