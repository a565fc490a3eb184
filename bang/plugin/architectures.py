"""The named architectures: `--arch NAME`."""

from fairseq.models import ARCH_CONFIG_REGISTRY, register_model

from ..network.config import ARCHITECTURES, with_defaults
from ..network.model import BangArModel, BangModel, BangNarModel
from .command_line import settle_options

FAMILIES = {"bang_ar_nar_mixed": BangModel, "bang_ar": BangArModel, "bang_nar": BangNarModel}


def register() -> None:
    """Registers every named architecture as a model with its own defaults.

    So `--arch NAME` on the command line and `model._name: NAME` in a fairseq-hydra-train
    configuration mean the same.
    """
    for family, cls in FAMILIES.items():
        for suffix, defaults in ARCHITECTURES.items():
            name = family + suffix
            register_model(name, dataclass=with_defaults(name, defaults))(type(cls.__name__ + suffix, (cls,), {}))
            # fairseq calls an architecture's function with the parsed command line
            ARCH_CONFIG_REGISTRY[name] = settle_options


register()
