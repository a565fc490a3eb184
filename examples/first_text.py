"""How do I get a first text? Load the shipped model and generate in every mode that it has.

python examples/first_text.py
"""

from bang import Bang

model = Bang.load("models/debian-synopsis/checkpoint.pt")
source = "This package contains a collection of Perl modules which read and write the headers of FITS images."
for mode in model.modes:
    print(f"{mode:12}", model.generate(source, mode=mode))
