"""What a run stands on: processes, signals, memory, logs, its folder and its checkpoints."""
