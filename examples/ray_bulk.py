"""How do I generate on many machines? With Ray Data: each of its workers loads the exported folder once.

python examples/ray_bulk.py exported in.parquet out 2  # columns id and text, 2 workers; pip install '.[ray]' before
"""

import sys

import ray

from bang import Bang


class Writer:
    def __init__(self, folder):
        self.model = Bang.load(folder, threads=1)

    def __call__(self, rows):
        return {**rows, "generated": self.model.generate(list(rows["text"]), mode="nar", truncate=True)}


folder, source, target, workers = sys.argv[1:]
rows = ray.data.read_parquet(source).repartition(target_num_rows_per_block=1024)  # a dead worker's blocks are done again
# a worker takes a core, and is booked as half a one: reading and writing need their turn
written = rows.map_batches(Writer, fn_constructor_args=[folder], batch_size=1024, num_cpus=0.5, concurrency=int(workers))
written.write_parquet(target, mode="overwrite")  # in any order: ids tell the rows
