"""Official downloads: fetched where their licence allows it (``get``), made ready (``prepare``), checked
(``verify``). What is official is on the cards of ``conf/card/dataset``.
"""
