"""What the compiler says of a train step before it runs: memory, FLOPs, bytes, collectives and bounds of its time."""
