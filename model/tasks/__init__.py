"""The tasks that a model is fine-tuned for: one object in one file for each kind of task.

To add a kind, implement `task_kind.TaskKind` in a new file here, and add a row to `kinds.KINDS`.
`tests/new_kind/topics.py` is an example.
"""
