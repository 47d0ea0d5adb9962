"""Ablation studies: cells of one sweep, run for every seed, compared, tabulated, drawn and bundled."""
