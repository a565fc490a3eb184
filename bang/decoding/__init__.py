"""Decoding without torch and fairseq: numpy alone, for every engine."""
