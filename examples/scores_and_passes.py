"""How sure is the model, and which pass of the decoder wrote what? `details=True` gives a `Generation` for each text.

python examples/scores_and_passes.py
"""

from bang import Bang

model = Bang.load("models/debian-synopsis/checkpoint.pt")
source = "A header-only dbus-binding leveraging C++-11."
answer = model.generate([source], mode="semi-nar", block_size=4, details=True)[0]
print(f"{answer.text}   log-probability a word piece: {answer.score:.2f}")
for piece, score, number in zip([*answer.pieces, "[SEP]"], answer.piece_scores, answer.passes, strict=True):
    print(f"pass {number}   {score:6.2f}   {piece}")
