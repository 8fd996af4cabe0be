"""Tables, figures, claims and dashboards from run records. Nothing here computes a result;
``python -m midre_exp.report TABLE`` is the entry.
"""
