"""What BANG gives fairseq: importing this registers its models, criterions and tasks."""

from . import command_line, criterion, optimizer, task  # noqa: F401  (importing registers)
from .network import model  # noqa: F401
from .pretraining import task as pretraining_task  # noqa: F401
from .safety import hooks

hooks.install()
command_line.quiet_libraries()
command_line.set_log_level()
optimizer.use_fused_adam()
command_line.tell_mistakes_in_one_line()
