"""An empty torchaudio, so that pip brings no other: `pip install ./scripts/no_torchaudio .`

ve-fairseq asks for torchaudio, and PyPI's is built for CUDA: beside a CPU's torch it cannot be imported, and then none of
transformers' models can. Nothing in bang uses it.
"""

from setuptools import setup

setup(
    name="torchaudio",
    version="2.11.0+none",
    description="Empty: stands in for torchaudio, which bang does not use",
    py_modules=[],
)
