"""What a reconstruction gives away besides the evaluator's word: whether it is the person, as a network says
that was never shown a private picture (``verification``), and which traits it shows (``traits``).
"""
