"""The programs: `mapjax NAME`, or `python launch/NAME.py`."""
