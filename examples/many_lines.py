"""How do I generate for more lines than fit into memory? Give an iterator: the answers come as an iterator, in order.

python examples/many_lines.py < examples/debian/test.src > texts
"""

import sys

from bang import Bang

model = Bang.load("models/debian-synopsis/checkpoint.pt")
lines = (line.rstrip("\n") for line in sys.stdin)
for number, answer in enumerate(model.generate(lines, mode="nar", on_error="blank", details=True), start=1):
    print(answer.text)
    if answer.error:  # a line that is too long, for instance: its text is empty
        print(f"line {number}: {answer.error}", file=sys.stderr)
