"""What the tests of public starts share: random models of other libraries, and folders spoilt."""

import json

import torch
from safetensors.torch import load_file, save_file

PAD, SEP, MASK = 0, 102, 103


def randomize(module):
    """Weights that make every path count: BERT's initial ones are small, its biases zero."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in module.named_parameters():
            scale = 0.5 if "embeddings" in name else 0.15
            value.copy_(torch.randn_like(value) * scale + (1.0 if "norm.weight" in name.lower() else 0.0))
    return module.eval()


def source():
    """Two sentences, one of them padded: (2, 9)."""
    torch.manual_seed(5)
    tokens = torch.randint(200, 1000, (2, 9))
    tokens[1, 6:] = PAD
    return tokens


def edit_config(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def edit_weights(folder, drop=None, **new):
    file = folder / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if name != drop} | new, file)


def edit_vocabulary(folder, edit):
    file = folder / "vocab.txt"
    file.write_bytes(b"".join(line + b"\n" for line in edit(file.read_bytes().splitlines())))


def encode(model, tokens):
    with torch.no_grad():
        return model.encoder(tokens, src_lengths=(tokens != PAD).sum(1))["encoder_out"][0].transpose(0, 1)


def bert_output(bert, tokens):
    positions = torch.arange(1, tokens.size(1) + 1)[None].expand_as(tokens)  # our source has no [CLS] at position 0
    with torch.no_grad():
        return bert(tokens, attention_mask=(tokens != PAD).long(), position_ids=positions).last_hidden_state
