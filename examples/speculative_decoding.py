"""What does speculative decoding save? The text is greedy AR's; longer drafts take fewer passes of the decoder.

python examples/speculative_decoding.py
"""

from bang import Bang

model = Bang.load("models/debian-synopsis/checkpoint.pt")
texts = open("examples/debian/test.src", encoding="utf-8").read().splitlines()[:8]
greedy = model.generate(texts, mode="ar", beam=1, details=True)
print("greedy AR:", sum(answer.passes[-1] for answer in greedy), "passes")
for length in (1, 2, 4):
    drafted = model.generate(texts, mode="speculative", draft_length=length, details=True)
    assert [answer.text for answer in drafted] == [answer.text for answer in greedy]
    print(f"drafts of {length}:", sum(answer.passes[-1] for answer in drafted), "passes")
