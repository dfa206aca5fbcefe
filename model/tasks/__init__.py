"""Fine-tuning tasks: each kind of task is one object in one file.

To add a kind, implement `task_kind.TaskKind` in a new file here, and add a row to `kinds.KINDS`.
`tests/new_kind/topics.py` is an example.
"""
