"""How do I get several texts of a source, draws, a given beginning, or a text while it is written?

python examples/several_texts.py
"""

from bang import Bang

model = Bang.load("models/debian-synopsis/checkpoint.pt")
source = "This package contains a collection of Perl modules which read and write the headers of FITS images."

best = model.generate(source, "ar", beam=4, nbest=3, details=True)
for answer in [best, *best.others]:
    print(f"{answer.score:6.2f}   {answer.text}")
for seed in (1, 2):  # the draw follows from the seed and the source alone
    print("drawn:", model.generate(source, "ar", sampling=True, sampling_topp=0.9, seed=seed))
print("begun:", model.generate(source, "ar", prefix="library for"))
for text in model.stream(source, "semi-nar", block_size=4):
    print("so far:", text)
