"""Generators as the tests call them."""

from fairseq.dataclass.configs import GenerationConfig


def options(**changes):
    cfg = GenerationConfig()
    for name, value in changes.items():
        setattr(cfg, name, value)
    return cfg


def decode(generator, batches, dictionary, task=None):
    """{sentence: (score, text, positional scores)} of the best hypotheses."""
    found = {}
    for batch in batches:
        for sentence, hypos in zip(batch["id"].tolist(), generator.generate(generator_models(generator), batch)):
            text = dictionary.string(hypos[0]["tokens"], extra_symbols_to_ignore={dictionary.eos()})
            found[sentence] = (float(hypos[0]["score"]), text, hypos[0]["positional_scores"].tolist())
    return found


def generator_models(generator):
    return generator.models if hasattr(generator, "models") else list(generator.model.models)
