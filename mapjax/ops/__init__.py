"""Kernels of detection and segmentation, and the losses: pure array functions."""
