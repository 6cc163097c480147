"""Codes that calibration chose: the model is walked layer by layer, solved, judged and kept until the file is written.

`run.py` is the order of things; it begins where the pipeline has decided every format, and ends with stored fields per
tensor in a workspace beside the output, from which the pipeline writes.
"""
