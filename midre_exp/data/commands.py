"""The commands about data sets: the module whose ``main`` takes the arguments of each, and what it does."""

COMMANDS = {
    "inspect": ("midre_exp.data.readers.inspect", "what a folder of images holds, and how to use it"),
    "sheet": ("midre_exp.data.synthetic.sheet", "synthetic faces to look at, as a picture"),
    "get": ("midre_exp.downloads.get", "fetch a data set that is open, or say how one gets it"),
    "prepare": ("midre_exp.downloads.prepare", "unpack a data set and cut out its faces, as official"),
    "verify": ("midre_exp.downloads.verify", "counts, checksums, splits and every picture of a data set"),
    "make-fixture": (
        "midre_exp.data.readers.make_fixture",
        "tiny files in the official layout of a data set",
    ),
}
