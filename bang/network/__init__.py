"""The network. Read in this order: `config`, `attention`, `decoder`, `encoder`, `model`."""
