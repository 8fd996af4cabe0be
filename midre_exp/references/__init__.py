"""What is to be cited: the works that methods, networks, data and measures come from (``references.yaml``),
what of them a config rests on, and both as BibTeX. No torch.
"""

from midre_exp.references.cited import Citation as Citation
from midre_exp.references.cited import citations as citations
from midre_exp.references.cited import cited_by as cited_by
from midre_exp.references.works import Work as Work
from midre_exp.references.works import references as references
from midre_exp.references.written import bibliography as bibliography
from midre_exp.references.written import bibtex as bibtex
from midre_exp.references.written import by_choice as by_choice
from midre_exp.references.written import footnote as footnote
from midre_exp.references.written import short as short
