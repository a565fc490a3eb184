"""The published name of `bang clean-up`: python post_processed_nar.py IN OUT."""

import sys

from bang.__main__ import main

if __name__ == "__main__":
    main(["clean-up", *sys.argv[1:]])
