"""Captions of Flickr8k and Flickr30k as they are published, a picture with one caption a line:

    1000268201_693b08cb0e.jpg#0<TAB>A child in a pink dress is climbing up a set of stairs .

in ``Flickr8k.token.txt`` and ``results_20130124.token``. The number says which of the picture's captions it is.

References: Hodosh et al. 2013; Young et al. 2014.
"""

from __future__ import annotations

import re
from typing import IO

from luthier.data.files.parse import lines
from luthier.data.files.reading import Reading

TOKEN = re.compile(rb"[^\t\r\n]+\.(?:jpe?g|png)(?:\.\d+)?#\d+\t", re.IGNORECASE)
NUMBER = re.compile(r"#\d+$")


def read_token(stream: IO[bytes], reading: Reading) -> None:
    """Rows of ``image`` and ``caption``."""
    for line, text, problem in lines(stream, reading):
        if problem:
            reading.bad(line, *problem, "data.encoding")
        elif text.strip():
            name, tab, caption = text.rstrip("\r\n").partition("\t")
            if tab and NUMBER.search(name):
                reading.add(line, {"image": NUMBER.sub("", name), "caption": caption})
            else:
                reading.bad(line, "is no picture.jpg#0, a tab and a caption", "mend the line, or leave it out")
