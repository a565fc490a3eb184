"""How do I fine-tune on my own pairs? Put {train,valid,test}.{src,tgt} into a folder, and choose a start and a mode.

    python examples/finetune_from_pairs.py examples/debian task --max-epoch 3

`bang run-task` is the same from the shell. A run that was stopped goes on when it is given again.
"""

import sys

from bang import Bang
from bang.recipes.tasks import TaskOptions, task_plan

data, out, *train = sys.argv[1:]
options = TaskOptions(mode="ar", start="models/debian-synopsis/checkpoint.pt", train=["--lr", "0.0001", *train])
task_plan(data, out, options).run()
print(open(f"{out}/scores.txt").read())
model = Bang.load(f"{out}/checkpoints/checkpoint_best.pt")
print(model.generate("A header-only dbus-binding leveraging C++-11.", mode="ar"))
