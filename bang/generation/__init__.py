"""Ways of decoding, each with the contract of fairseq's SequenceGenerator.generate."""
