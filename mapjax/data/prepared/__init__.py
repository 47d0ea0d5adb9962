"""Data sets as `mapjax prepare` writes them: shards, their index and their labels."""
