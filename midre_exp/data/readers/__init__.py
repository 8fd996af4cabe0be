"""One reader per data set, in the layout of its official download; ``folder`` reads your own images."""
