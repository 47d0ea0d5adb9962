"""Is a device right and fast: kernels, steps of training, memory and speed, by `mapjax bench --check`."""
