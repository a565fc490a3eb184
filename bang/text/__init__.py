"""Pure text tools: vocabulary, word pieces, clean-up. Nothing here imports torch or fairseq."""
