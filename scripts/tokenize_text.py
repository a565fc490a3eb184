"""`bang tokenize` under its former name."""

import sys

from bang.__main__ import main

if __name__ == "__main__":
    main(["tokenize", *sys.argv[1:]])
