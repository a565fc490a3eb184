"""What BANG gives fairseq: importing this registers its models, criterions and tasks."""

from ..safety import hooks
from . import architectures, checkpoint_files, command_line, criterion, optimizer, raw_text, task  # noqa: F401  (importing registers)
from .pretraining import task as pretraining_task  # noqa: F401

hooks.install()
checkpoint_files.copy_whole()
command_line.quiet_libraries()
command_line.set_log_level()
command_line.end_workers_of_preprocess()
optimizer.use_fused_adam()
optimizer.keep_master_weights()
command_line.print_user_errors()
raw_text.read_interactive_lines()
