"""How do I use a model in Hugging Face's transformers? Make a folder for it once; `import bang.hf` makes the classes known.

bang pack --format hf models/debian-synopsis/checkpoint.pt hf
python examples/hugging_face.py
"""

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import bang.hf

tokenizer = AutoTokenizer.from_pretrained("hf")
model = AutoModelForSeq2SeqLM.from_pretrained("hf")
inputs = tokenizer(["A header-only dbus-binding leveraging C++-11."], return_tensors="pt")
print("beam search:", *tokenizer.batch_decode(model.generate(**inputs, num_beams=4), skip_special_tokens=True))
for mode in ("semi-nar", "nar", "speculative"):
    assert mode in model.config.decodes
    written = model.generate(**inputs, custom_generate=bang.hf.decode, mode=mode)  # or mode=mode alone
    print(f"{mode}:", *tokenizer.batch_decode(written, skip_special_tokens=True))
